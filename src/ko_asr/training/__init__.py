"""A training run around NeMo's own classes, from the configuration to the best checkpoint."""
