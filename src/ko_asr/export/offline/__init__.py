"""The full-context model: one graph for whole utterances."""
