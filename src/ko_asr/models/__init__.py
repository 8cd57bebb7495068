"""NeMo's .nemo files: opening them, their weights, and NeMo's own answers."""
