"""The offline ensemble of a Triton model repository, generated from a contract.

Configurations are Triton's own protobuf message, printed by protobuf's text format, so no placeholder can
survive and no key can be misspelt. They hold for NVIDIA's container and for the server from PyPI alike.
"""

import os
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from tritonclient.grpc import model_config_pb2 as pb

from ko_asr.runtime import file_names, tensors
from ko_asr.runtime.contract import Contract
from ko_asr.serving.model_config import (
    ensemble_step,
    graph_front_end,
    instance_group,
    padded_audio,
    tensor,
    warmup,
    write_config,
)
from ko_asr.serving.staging import VERSION, copy_python_model

LONG_SECONDS = 15  # audio of which an encoder answers behind shorter requests
_PYTHON_MODELS = (tensors.PREPROCESSOR, tensors.DECODER)


@dataclass(frozen=True)
class Serving:
    """The copies of each step that run, and their threads."""

    instances: int = 2  # encoder sessions; two with one thread each beat one with two on a CPU
    threads: int = 1  # ONNX Runtime threads of an encoder session
    preprocessors: int = 2  # and as many sessions of a log-mel graph
    decoders: int = 1


def preprocessor_config(contract: Contract, serving: Serving) -> pb.ModelConfig:
    """audio [samples] (+ sample_rate) -> features [mels, bucket], length [1]. Ragged: any lengths batch.

    Before a log-mel graph: padded_audio [samples], samples [1].
    """
    features = [tensor(tensors.FEATURES, "FP32", [contract.mels, -1]), tensor(tensors.LENGTH, "INT64", [1])]
    second = {tensors.AUDIO: ("FP32", [contract.sample_rate])}
    return pb.ModelConfig(
        name=tensors.PREPROCESSOR,
        backend="python",
        max_batch_size=contract.max_batch_size,
        input=[
            tensor(tensors.AUDIO, "FP32", [-1], allow_ragged_batch=True),
            tensor(tensors.RATE, "INT32", [1], optional=True),
        ],
        output=padded_audio() if contract.front_end == "graph" else features,
        instance_group=instance_group(serving.preprocessors),
        dynamic_batching=pb.ModelDynamicBatching(),
        model_warmup=[warmup("one_second", 1, second)],
    )


def log_mel_config(contract: Contract, serving: Serving) -> pb.ModelConfig:
    """padded_audio [samples], samples [1] -> features [mels, bucket], length [1]."""
    config = pb.ModelConfig(
        name=tensors.LOG_MEL,
        backend="onnxruntime",
        default_model_filename=file_names.LOG_MEL_GRAPH,
        max_batch_size=contract.max_batch_size,
        input=padded_audio(),
        output=[
            tensor(tensors.FEATURES, "FP32", [contract.mels, -1]),
            tensor(tensors.LENGTH, "INT64", [1]),
        ],
        instance_group=instance_group(serving.preprocessors),
        dynamic_batching=pb.ModelDynamicBatching(),
    )
    for frames in sorted({contract.bucket(100), contract.bucket(1000)}):
        padded = ("FP32", [contract.padded_samples(frames)])
        shapes = {tensors.PADDED_AUDIO: padded, tensors.SAMPLES: ("INT64", [1])}
        config.model_warmup.append(warmup(f"frames_{frames}", 1, shapes))
    return graph_front_end(config, serving.threads)


def encoder_config(contract: Contract, serving: Serving) -> pb.ModelConfig:
    """features [mels, frames], length [1] -> best tokens of each frame (log_probs on request)."""
    classes = len(contract.vocabulary["pieces"]) + 1
    tensorrt = contract.target == "tensorrt"
    config = pb.ModelConfig(
        name=tensors.ENCODER,
        backend="tensorrt" if tensorrt else "onnxruntime",
        default_model_filename=file_names.PLAN if tensorrt else file_names.GRAPH,
        max_batch_size=contract.max_batch_size,
        input=[tensor(tensors.FEATURES, "FP32", [contract.mels, -1]), tensor(tensors.LENGTH, "INT64", [1])],
        output=[
            tensor(tensors.TOKEN_IDS, "INT32", [-1, contract.top_k]),
            tensor(tensors.TOKEN_LOG_PROBS, "FP32", [-1, contract.top_k]),
            tensor(tensors.ENCODED_LENGTH, "INT64", [1]),
            tensor(tensors.LOG_PROBS, "FP32", [-1, classes]),
        ],
        instance_group=instance_group(serving.instances),
        dynamic_batching=pb.ModelDynamicBatching(),
    )
    if not tensorrt:
        for key, value in _run_parameters(contract, serving).items():
            config.parameters[key].string_value = str(value)
    for frames in sorted({contract.bucket(100), contract.bucket(1000)}):
        shapes = {tensors.FEATURES: ("FP32", [contract.mels, frames]), tensors.LENGTH: ("INT64", [1])}
        config.model_warmup.append(warmup(f"frames_{frames}", 1, shapes))
    return config


def _run_parameters(contract: Contract, serving: Serving) -> dict[str, int]:
    """How the encoder's graph is run; the last two are read by this kit's own backend only."""
    return {
        "intra_op_thread_count": serving.threads,
        "inter_op_thread_count": serving.threads,
        "max_run_steps": max(contract.bucket_frames),
        "long_steps": contract.bucket(LONG_SECONDS * contract.sample_rate // contract.hop),
    }


def _answers() -> list[dict]:
    return [
        tensor(tensors.TEXT, "STRING", [1]),
        tensor(tensors.CONFIDENCE, "FP32", [1]),
        tensor(tensors.WORDS, "STRING", [1]),
        tensor(tensors.WRITTEN, "STRING", [1]),
    ]


def decoder_config(contract: Contract, serving: Serving) -> pb.ModelConfig:
    """token_ids, token_log_probs [frames, k], encoded_length [1] (+ options) -> what `_answers` lists."""
    frames = [-1, contract.top_k]
    shapes = {
        tensors.TOKEN_IDS: ("INT32", [16, contract.top_k]),
        tensors.TOKEN_LOG_PROBS: ("FP32", [16, contract.top_k]),
        tensors.ENCODED_LENGTH: ("INT64", [1]),
    }
    return pb.ModelConfig(
        name=tensors.DECODER,
        backend="python",
        max_batch_size=contract.max_batch_size,
        input=[
            tensor(tensors.TOKEN_IDS, "INT32", frames, allow_ragged_batch=True),
            tensor(tensors.TOKEN_LOG_PROBS, "FP32", frames, allow_ragged_batch=True),
            tensor(tensors.ENCODED_LENGTH, "INT64", [1]),
            tensor(tensors.OPTIONS, "STRING", [1], optional=True),
        ],
        output=_answers(),
        instance_group=instance_group(serving.decoders),
        dynamic_batching=pb.ModelDynamicBatching(),
        model_warmup=[warmup("sixteen_frames", 1, shapes)],
    )


def ensemble_config(contract: Contract, serving: Serving) -> pb.ModelConfig:
    """The client's side: audio (+ sample_rate, options) -> text, confidence, words, written."""
    frame_tensors = [tensors.TOKEN_IDS, tensors.TOKEN_LOG_PROBS, tensors.ENCODED_LENGTH]
    features = [tensors.FEATURES, tensors.LENGTH]
    steps = [
        *_front_end_steps(contract, features),
        ensemble_step(tensors.ENCODER, features, frame_tensors),
        ensemble_step(
            tensors.DECODER,
            [*frame_tensors, tensors.OPTIONS],
            [output["name"] for output in _answers()],
        ),
    ]
    return pb.ModelConfig(
        name=tensors.ENSEMBLE,
        platform="ensemble",
        max_batch_size=contract.max_batch_size,
        input=[
            tensor(tensors.AUDIO, "FP32", [-1]),
            tensor(tensors.RATE, "INT32", [1], optional=True),
            tensor(tensors.OPTIONS, "STRING", [1], optional=True),
        ],
        output=_answers(),
        ensemble_scheduling=pb.ModelEnsembling(step=steps),
    )


def _front_end_steps(contract: Contract, features: list[str]) -> list[pb.ModelEnsembling.Step]:
    given, padded = [tensors.AUDIO, tensors.RATE], [tensors.PADDED_AUDIO, tensors.SAMPLES]
    if contract.front_end != "graph":
        return [ensemble_step(tensors.PREPROCESSOR, given, features)]
    return [
        ensemble_step(tensors.PREPROCESSOR, given, padded),
        ensemble_step(tensors.LOG_MEL, padded, features),
    ]


CONFIGS: dict[str, Callable[[Contract, Serving], pb.ModelConfig]] = {
    tensors.PREPROCESSOR: preprocessor_config,
    tensors.LOG_MEL: log_mel_config,
    tensors.ENCODER: encoder_config,
    tensors.DECODER: decoder_config,
    tensors.ENSEMBLE: ensemble_config,
}


def write_models(
    stage: Path, contract: Contract, serving: Serving, templates: Path, files: dict[str, Path]
) -> None:
    """Write the model folders of ``contract``'s ensemble into ``stage``.

    ``templates`` holds ``<model>/model.py`` of the Python models; ``files`` maps "<model>/<file name>" to
    what export made (the graph, the log-mel arrays).
    """
    for model in contract.models:
        version = stage / model / VERSION
        version.mkdir(parents=True)
        write_config(stage / model, CONFIGS[model](contract, serving))
        (version / file_names.CONTRACT).write_text(contract.dump(), encoding="utf-8")
        if model in _PYTHON_MODELS:
            copy_python_model(version, templates / model / "model.py")
    for name, source in files.items():
        model, file_name = name.split("/")
        shutil.move(source, stage / model / VERSION / file_name)


def retire_models(stage: Path, repository: Path, contract: Contract) -> None:
    """Take away the offline models of an earlier export that ``contract``'s ensemble does not use."""
    for model in CONFIGS:
        if model not in contract.models and (repository / model).exists():
            os.rename(repository / model, stage / f"{model}.retired")
