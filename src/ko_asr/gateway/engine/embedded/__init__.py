"""The exported graphs in the gateway's own process, through ONNX Runtime: no Triton, no torch, no NeMo."""
