"""A Triton model repository, generated from a contract and swapped in whole, model by model.

Configurations are Triton's own protobuf message, printed by protobuf's text format, so no placeholder can
survive and no key can be misspelt. They hold for NVIDIA's container and for the server from PyPI alike.
"""

import contextlib
import os
import shutil
import tempfile
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

from google.protobuf import text_format
from tritonclient.grpc import model_config_pb2 as pb

from ko_asr import contract as names
from ko_asr import plan
from ko_asr.contract import Contract
from ko_asr.errors import UserError

VERSION = "1"
_GROUND_FLOOR = {
    names.PREPROCESSOR: ("__init__", "contract", "ctc", "errors", "hangul", "logmel"),
    names.DECODER: ("__init__", "contract", "ctc", "errors", "gpu", "hangul", "plan", "results"),
}


@dataclass(frozen=True)
class Serving:
    """How many copies of each step run, and with how many threads."""

    instances: int = 2  # encoder sessions; two with one thread each beat one with two on a CPU
    threads: int = 1  # ONNX Runtime threads of an encoder session
    preprocessors: int = 2  # and as many sessions of a log-mel graph
    decoders: int = 1


def _tensor(name: str, kind: str, dims: list[int], **options: bool) -> dict:
    return {"name": name, "data_type": getattr(pb, f"TYPE_{kind}"), "dims": dims, **options}


def _group(count: int) -> list[pb.ModelInstanceGroup]:
    return [pb.ModelInstanceGroup(count=count, kind=pb.ModelInstanceGroup.KIND_AUTO)]


def _warmup(name: str, batch: int, inputs: dict[str, tuple[str, list[int]]]) -> pb.ModelWarmup:
    warmup = pb.ModelWarmup(name=name, batch_size=batch)
    for key, (kind, dims) in inputs.items():
        entry = warmup.inputs[key]
        entry.data_type, entry.zero_data = getattr(pb, f"TYPE_{kind}"), True
        entry.dims.extend(dims)
    return warmup


def _padded_audio() -> list[dict]:
    return [_tensor(names.PADDED_AUDIO, "FP32", [-1]), _tensor(names.SAMPLES, "INT64", [1])]


def preprocessor_config(contract: Contract, serving: Serving) -> pb.ModelConfig:
    """audio [samples] (+ sample_rate) -> features [mels, bucket], length [1]. Ragged: any lengths batch.

    Before a log-mel graph: padded_audio [samples], samples [1].
    """
    features = [_tensor(names.FEATURES, "FP32", [contract.mels, -1]), _tensor(names.LENGTH, "INT64", [1])]
    second = {names.AUDIO: ("FP32", [contract.sample_rate])}
    return pb.ModelConfig(
        name=names.PREPROCESSOR,
        backend="python",
        max_batch_size=contract.max_batch_size,
        input=[
            _tensor(names.AUDIO, "FP32", [-1], allow_ragged_batch=True),
            _tensor(names.RATE, "INT32", [1], optional=True),
        ],
        output=_padded_audio() if contract.front_end == "graph" else features,
        instance_group=_group(serving.preprocessors),
        dynamic_batching=pb.ModelDynamicBatching(),
        model_warmup=[_warmup("one_second", 1, second)],
    )


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


def log_mel_config(contract: Contract, serving: Serving) -> pb.ModelConfig:
    """padded_audio [samples], samples [1] -> features [mels, bucket], length [1]."""
    config = pb.ModelConfig(
        name=names.LOG_MEL,
        backend="onnxruntime",
        default_model_filename=names.LOG_MEL_GRAPH,
        max_batch_size=contract.max_batch_size,
        input=_padded_audio(),
        output=[_tensor(names.FEATURES, "FP32", [contract.mels, -1]), _tensor(names.LENGTH, "INT64", [1])],
        instance_group=_group(serving.preprocessors),
        dynamic_batching=pb.ModelDynamicBatching(),
    )
    for frames in sorted({contract.bucket(100), contract.bucket(1000)}):
        padded = ("FP32", [contract.padded_samples(frames)])
        shapes = {names.PADDED_AUDIO: padded, names.SAMPLES: ("INT64", [1])}
        config.model_warmup.append(_warmup(f"frames_{frames}", 1, shapes))
    return graph_front_end(config, serving.threads)


def encoder_config(contract: Contract, serving: Serving) -> pb.ModelConfig:
    """features [mels, frames], length [1] -> best token of each frame (log_probs on request)."""
    classes = len(contract.vocabulary["pieces"]) + 1
    tensorrt = contract.target == "tensorrt"
    config = pb.ModelConfig(
        name=names.ENCODER,
        backend="tensorrt" if tensorrt else "onnxruntime",
        default_model_filename=plan.FILE_NAME if tensorrt else "model.onnx",
        max_batch_size=contract.max_batch_size,
        input=[_tensor(names.FEATURES, "FP32", [contract.mels, -1]), _tensor(names.LENGTH, "INT64", [1])],
        output=[
            _tensor(names.TOKEN_IDS, "INT32", [-1]),
            _tensor(names.TOKEN_LOG_PROBS, "FP32", [-1]),
            _tensor(names.ENCODED_LENGTH, "INT64", [1]),
            _tensor(names.LOG_PROBS, "FP32", [-1, classes]),
        ],
        instance_group=_group(serving.instances),
        dynamic_batching=pb.ModelDynamicBatching(),
    )
    if not tensorrt:
        for key in ("intra_op_thread_count", "inter_op_thread_count"):
            config.parameters[key].string_value = str(serving.threads)
    for frames in sorted({contract.bucket(100), contract.bucket(1000)}):
        shapes = {names.FEATURES: ("FP32", [contract.mels, frames]), names.LENGTH: ("INT64", [1])}
        config.model_warmup.append(_warmup(f"frames_{frames}", 1, shapes))
    return config


def _answers() -> list[dict]:
    return [
        _tensor(names.TEXT, "STRING", [1]),
        _tensor(names.CONFIDENCE, "FP32", [1]),
        _tensor(names.WORDS, "STRING", [1]),
    ]


def decoder_config(contract: Contract, serving: Serving) -> pb.ModelConfig:
    """token_ids, token_log_probs [frames], encoded_length [1] -> text, confidence, words, [1] each."""
    shapes = {
        names.TOKEN_IDS: ("INT32", [16]),
        names.TOKEN_LOG_PROBS: ("FP32", [16]),
        names.ENCODED_LENGTH: ("INT64", [1]),
    }
    return pb.ModelConfig(
        name=names.DECODER,
        backend="python",
        max_batch_size=contract.max_batch_size,
        input=[
            _tensor(names.TOKEN_IDS, "INT32", [-1], allow_ragged_batch=True),
            _tensor(names.TOKEN_LOG_PROBS, "FP32", [-1], allow_ragged_batch=True),
            _tensor(names.ENCODED_LENGTH, "INT64", [1]),
        ],
        output=_answers(),
        instance_group=_group(serving.decoders),
        dynamic_batching=pb.ModelDynamicBatching(),
        model_warmup=[_warmup("sixteen_frames", 1, shapes)],
    )


def _step(model: str, inputs: list[str], outputs: list[str]) -> pb.ModelEnsembling.Step:
    """A step whose tensors keep their names in the ensemble."""
    return pb.ModelEnsembling.Step(
        model_name=model,
        model_version=-1,
        input_map={name: name for name in inputs},
        output_map={name: name for name in outputs},
    )


def ensemble_config(contract: Contract, serving: Serving) -> pb.ModelConfig:
    """What a client sees: audio (+ sample_rate) -> text, confidence, words."""
    frame_tensors = [names.TOKEN_IDS, names.TOKEN_LOG_PROBS, names.ENCODED_LENGTH]
    features, given = [names.FEATURES, names.LENGTH], [names.AUDIO, names.RATE]
    padded = [names.PADDED_AUDIO, names.SAMPLES]
    if contract.front_end == "graph":
        front = [_step(names.PREPROCESSOR, given, padded), _step(names.LOG_MEL, padded, features)]
    else:
        front = [_step(names.PREPROCESSOR, given, features)]
    steps = [
        *front,
        _step(names.ENCODER, features, frame_tensors),
        _step(names.DECODER, frame_tensors, [names.TEXT, names.CONFIDENCE, names.WORDS]),
    ]
    return pb.ModelConfig(
        name=names.ENSEMBLE,
        platform="ensemble",
        max_batch_size=contract.max_batch_size,
        input=[_tensor(names.AUDIO, "FP32", [-1]), _tensor(names.RATE, "INT32", [1], optional=True)],
        output=_answers(),
        ensemble_scheduling=pb.ModelEnsembling(step=steps),
    )


CONFIGS: dict[str, Callable[[Contract, Serving], pb.ModelConfig]] = {
    names.PREPROCESSOR: preprocessor_config,
    names.LOG_MEL: log_mel_config,
    names.ENCODER: encoder_config,
    names.DECODER: decoder_config,
    names.ENSEMBLE: ensemble_config,
}


@contextlib.contextmanager
def staging(repository: Path) -> Iterator[Path]:
    """A temporary folder on the same disk as ``repository``, gone afterwards.

    Raises UserError when nothing can be written there: before any long work, not after it.
    """
    try:
        repository.mkdir(parents=True, exist_ok=True)
        place = _staging_place(repository.resolve())
        folder = Path(tempfile.mkdtemp(prefix=f".{repository.resolve().name}.", dir=place))
        with tempfile.TemporaryFile(dir=repository):
            pass
    except OSError as error:
        raise UserError(
            f"cannot write the model repository {repository} ({error.strerror}): "
            "make it writable, or name another with --repository"
        ) from error
    try:
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def _staging_place(repository: Path) -> Path:
    """Beside the repository, because Triton takes every folder inside it for a model.

    Inside it when it is a mount of its own (renames do not cross disks) or its parent is not ours to write.
    """
    parent = repository.parent
    beside = os.access(parent, os.W_OK) and parent.stat().st_dev == repository.stat().st_dev
    return parent if beside else repository


def build(stage: Path, contract: Contract, serving: Serving, templates: Path, files: dict[str, Path]) -> None:
    """Write complete model folders into ``stage``.

    ``templates`` holds ``<model>/model.py`` of the Python models; ``files`` maps "<model>/<file name>" to
    what export made (the graph, the log-mel arrays).
    """
    for model in contract.models:
        version = stage / model / VERSION
        version.mkdir(parents=True)
        text = text_format.MessageToString(CONFIGS[model](contract, serving), as_utf8=True)
        (stage / model / "config.pbtxt").write_text(text, encoding="utf-8")
        (version / names.FILE_NAME).write_text(contract.dump(), encoding="utf-8")
        if model in _GROUND_FLOOR:
            copy_python_model(version, templates / model / "model.py", _GROUND_FLOOR[model])
    for name, source in files.items():
        model, file_name = name.split("/")
        shutil.move(source, stage / model / VERSION / file_name)


def copy_python_model(version: Path, template: Path, modules: Iterable[str]) -> None:
    """The template and the modules of ko_asr that it imports: a server needs no checkout of this project."""
    library = Path(__file__).resolve().parent
    shutil.copyfile(template, version / "model.py")
    (version / "ko_asr").mkdir()
    for module in modules:
        shutil.copyfile(library / f"{module}.py", version / "ko_asr" / f"{module}.py")


def remove_others(stage: Path, repository: Path, contract: Contract) -> None:
    """Take away the offline models of an earlier export that ``contract``'s ensemble does not use."""
    for model in CONFIGS:
        if model not in contract.models and (repository / model).exists():
            os.rename(repository / model, stage / f"{model}.retired")


def publish(stage: Path, repository: Path, models: Iterable[str]) -> None:
    """Swap the model folders ``models`` of ``stage`` into ``repository``; others there are left alone.

    Each swap is two renames. The ensemble comes last and all folders carry one export id, so a run killed
    half-way leaves whole models, and the decoder refuses to serve a mixture.
    """
    for model in models:
        target, retired = repository / model, stage / f"{model}.retired"
        if target.exists():
            os.rename(target, retired)
        try:
            os.rename(stage / model, target)
        except OSError:
            if retired.exists():
                os.rename(retired, target)
            raise
