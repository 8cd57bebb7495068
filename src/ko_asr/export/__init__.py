"""A .nemo as graphs that ONNX Runtime and TensorRT run, checked against NeMo before anything is written."""
