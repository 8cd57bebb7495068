"""Pieces of Triton's model configurations that both ensembles use."""

from pathlib import Path

from google.protobuf import text_format
from tritonclient.grpc import model_config_pb2 as pb

from ko_asr.runtime import tensors


def tensor(name: str, kind: str, dims: list[int], **options: bool) -> dict:
    """An input or output of type ``kind`` (FP32, INT64, STRING ...), ``dims`` without the batch."""
    return {"name": name, "data_type": getattr(pb, f"TYPE_{kind}"), "dims": dims, **options}


def instance_group(count: int) -> list[pb.ModelInstanceGroup]:
    """``count`` instances, on the GPU where the backend can use one."""
    return [pb.ModelInstanceGroup(count=count, kind=pb.ModelInstanceGroup.KIND_AUTO)]


def warmup(name: str, batch: int, inputs: dict[str, tuple[str, list[int]]]) -> pb.ModelWarmup:
    """A request of zeros that a model answers before it is ready; ``inputs`` maps names to kind and dims."""
    request = pb.ModelWarmup(name=name, batch_size=batch)
    for key, (kind, dims) in inputs.items():
        entry = request.inputs[key]
        entry.data_type, entry.zero_data = getattr(pb, f"TYPE_{kind}"), True
        entry.dims.extend(dims)
    return request


def padded_audio() -> list[dict]:
    """The samples that a log-mel graph takes, and how many of each row are valid."""
    return [tensor(tensors.PADDED_AUDIO, "FP32", [-1]), tensor(tensors.SAMPLES, "INT64", [1])]


def graph_front_end(config: pb.ModelConfig, threads: int) -> pb.ModelConfig:
    """``config`` of a log-mel graph with its threads, and single precision on GPUs.

    By default ONNX Runtime multiplies in TF32 there, whose 11 bits lose weak bins beside strong ones: with
    factors rounded so, normalised features of demo speech were off by up to 0.2 (simulated on a CPU).
    """
    for key in ("intra_op_thread_count", "inter_op_thread_count"):
        config.parameters[key].string_value = str(threads)
    accelerators = config.optimization.execution_accelerators.gpu_execution_accelerator
    accelerators.add(name="cuda", parameters={"use_tf32": "0"})
    return config


def ensemble_step(model: str, inputs: list[str], outputs: list[str]) -> pb.ModelEnsembling.Step:
    """A step whose tensors keep their names in the ensemble."""
    return pb.ModelEnsembling.Step(
        model_name=model,
        model_version=-1,
        input_map={name: name for name in inputs},
        output_map={name: name for name in outputs},
    )


def write_config(folder: Path, config: pb.ModelConfig) -> None:
    """Write config.pbtxt into ``folder``, printed by protobuf: no key can be misspelt."""
    text = text_format.MessageToString(config, as_utf8=True)
    (folder / "config.pbtxt").write_text(text, encoding="utf-8")
