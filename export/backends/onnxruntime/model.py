"""ONNX Runtime as a python-based Triton backend, for servers that lack the native one.

NVIDIA's containers carry a native ``onnxruntime`` backend; the server from PyPI does not. This file in
``backends/onnxruntime/`` makes a repository whose config says ``backend: "onnxruntime"`` load there
unmodified. It reads the same model file name and the same parameters as the native backend
(``intra_op_thread_count``, ``inter_op_thread_count``), always runs on the CPU, and takes batches of
requests whose inputs have one shape, as the dynamic batcher forms them.
"""

import json
from pathlib import Path

import numpy as np
import onnxruntime
import triton_python_backend_utils as pb_utils


def session_of(path: Path, parameters: dict) -> onnxruntime.InferenceSession:
    """Open the graph with the threads of the model's parameters (native defaults: all cores)."""
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = int(parameters.get("intra_op_thread_count", "0"))
    options.inter_op_num_threads = int(parameters.get("inter_op_thread_count", "0"))
    # Instances share the cores with other models: a pool that spins takes their time.
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    return onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])


def same_shape_groups(batches: list[dict]) -> list[list[int]]:
    """Indices of requests grouped by the shapes of their inputs without the batch axis."""
    groups: dict[tuple, list[int]] = {}
    for index, inputs in enumerate(batches):
        groups.setdefault(tuple((name, array.shape[1:]) for name, array in inputs.items()), []).append(index)
    return list(groups.values())


class TritonPythonModel:
    """One instance: one session."""

    def initialize(self, args: dict) -> None:
        """Load the model file of this version. Raises when it is missing or not a graph."""
        config = json.loads(args["model_config"])
        folder = Path(args["model_repository"]) / args["model_version"]
        path = folder / (config.get("default_model_filename") or "model.onnx")
        parameters = {key: value["string_value"] for key, value in config.get("parameters", {}).items()}
        self.session = session_of(path, parameters)
        self.inputs = [entry["name"] for entry in config["input"]]

    def execute(self, requests: list) -> list:
        """Answer every request; what fails, fails alone."""
        batches = [
            {name: pb_utils.get_input_tensor_by_name(request, name).as_numpy() for name in self.inputs}
            for request in requests
        ]
        responses: list = [None] * len(requests)
        for group in same_shape_groups(batches):
            self._answer(group, requests, batches, responses)
        return responses

    def _answer(self, group: list[int], requests: list, batches: list[dict], responses: list) -> None:
        wanted = sorted({name for index in group for name in requests[index].requested_output_names()})
        try:
            outputs = self._run(wanted, [batches[index] for index in group])
        except Exception as error:  # onnxruntime raises many kinds; one bad request must not fail its mates
            if len(group) > 1:
                for index in group:
                    self._answer([index], requests, batches, responses)
                return
            responses[group[0]] = pb_utils.InferenceResponse(error=pb_utils.TritonError(str(error)))
            return
        start = 0
        for index in group:
            rows = slice(start, start + len(batches[index][self.inputs[0]]))
            start = rows.stop
            names = requests[index].requested_output_names()
            responses[index] = pb_utils.InferenceResponse(
                [pb_utils.Tensor(name, outputs[name][rows]) for name in names]
            )

    def _run(self, wanted: list[str], batches: list[dict]) -> dict:
        if len(batches) == 1:
            feed = batches[0]
        else:
            feed = {name: np.concatenate([inputs[name] for inputs in batches]) for name in self.inputs}
        return dict(zip(wanted, self.session.run(wanted, feed), strict=True))
