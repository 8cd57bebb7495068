"""The cache-aware model: one graph for each look-ahead, fed chunk by chunk."""
