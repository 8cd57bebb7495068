"""Every file of an exported model's folder, once."""

CONTRACT, STREAM_CONTRACT = "contract.json", "streaming_contract.json"
GRAPH = "model.onnx"
LOG_MEL, LOG_MEL_GRAPH = "logmel.npz", "logmel.onnx"  # the front end: numpy's arrays, or a graph
PLAN, PLAN_RECORD = "model.plan", "plan.json"
