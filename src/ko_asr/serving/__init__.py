"""Triton: model configurations, the repository, tritonserver and its supervisor."""
