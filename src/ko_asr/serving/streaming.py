"""The streaming ensembles of a Triton model repository: one a look-ahead, side by side with the offline one.

preprocessor (Python) -> encoder (ONNX or a TensorRT plan, its caches are Triton's implicit state) -> decoder
(Python), each with sequence batching. A request is one chunk; `ko_asr.runtime.stream_contract` says how much
audio that is.
"""

import shutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from tritonclient.grpc import model_config_pb2 as pb

from ko_asr.runtime import file_names, tensors
from ko_asr.runtime.options import StreamOptions
from ko_asr.runtime.stream_contract import StreamingContract
from ko_asr.serving.model_config import (
    ensemble_step,
    graph_front_end,
    instance_group,
    padded_audio,
    tensor,
    write_config,
)
from ko_asr.serving.staging import VERSION, copy_python_model

_STEPS = (tensors.STREAM_PREPROCESSOR, tensors.STREAM_LOG_MEL, tensors.STREAM_ENCODER, tensors.STREAM_DECODER)

# Sequences that Triton lets into the first step, which refuses those beyond ``max_streams``. A client that is
# refused and does not end its sequence holds a slot there until it has been idle for long enough, and with
# none free a start would wait unanswered. The later steps, whose slots hold states, never hear of it. So many
# cost 11 MB and no time (Triton 2.51).
FIRST_SLOTS = 16_384

# Of the contract: a client reads from the ensemble's parameters how much audio a request brings.
_CLIENT_PARAMETERS = ("sample_rate", "first_samples", "shift_samples", "end_samples")


@dataclass(frozen=True)
class StreamServing:
    """Streams that are served, encoder sessions for them, and what a stream is given by default."""

    max_streams: int = 128  # further ones are refused
    idle_seconds: float = 30.0  # a stream that sends nothing for so long is over
    instances: int = 1  # encoder sessions
    threads: int = 1  # ONNX Runtime threads of each
    max_batch_size: int = 32
    batch_delay_ms: float | None = None  # None: a twentieth of the chunk
    options: StreamOptions = field(default_factory=StreamOptions)

    @property
    def slots(self) -> int:
        """Places for sequences in a step after the first: as many again for those that are just ending."""
        return 2 * self.max_streams

    def delay_ms(self, contract: StreamingContract) -> float:
        """Milliseconds that a chunk waits for others to be computed with.

        Alone, one costs twice to five times its share of a full batch, and of those that arrive together the
        first were always computed without the rest. 32 streams on one core at [70,6]: 5 ms of waiting made
        batches of 15 on average, 30 ms of 31, and a chunk then took an eighth less of the core.
        """
        if self.batch_delay_ms is None:
            return 1000 * contract.chunk_seconds / 20
        return self.batch_delay_ms


def model_name(step: str, contract: StreamingContract, default: int) -> str:
    """The name of a step for this look-ahead; the ``default`` look-ahead has the plain names.

    >>> from types import SimpleNamespace
    >>> model_name("asr_streaming", SimpleNamespace(look_ahead=1), default=6)
    'asr_streaming_1'
    """
    return step if contract.look_ahead == default else f"{step}_{contract.look_ahead}"


def _sequences(
    serving: StreamServing, slots: int, delay_ms: float = 0.0, **options: object
) -> pb.ModelSequenceBatching:
    """`oldest`: real requests only. An instance has ``slots``; a start that finds none free waits unseen."""
    oldest = pb.ModelSequenceBatching.StrategyOldest(max_candidate_sequences=slots)
    if delay_ms:
        oldest.preferred_batch_size.append(serving.max_batch_size)
        oldest.max_queue_delay_microseconds = round(1000 * delay_ms)
    return pb.ModelSequenceBatching(
        oldest=oldest,
        max_sequence_idle_microseconds=int(1e6 * serving.idle_seconds),
        **options,
    )


def _parameters(config: pb.ModelConfig, values: Mapping[str, object]) -> pb.ModelConfig:
    for key, value in values.items():
        config.parameters[key].string_value = str(value)
    return config


def _time_to_live(serving: StreamServing) -> float:
    """Longer than the batcher's own: a step must not forget a stream whose slot is still held."""
    return serving.idle_seconds + 5.0


def _audio() -> list[dict]:
    return [
        tensor(tensors.AUDIO, "FP32", [-1], allow_ragged_batch=True),
        tensor(tensors.RATE, "INT32", [1], optional=True),
    ]


def _results() -> list[dict]:
    return [
        tensor(tensors.TEXT, "STRING", [-1]),
        tensor(tensors.IS_FINAL, "BOOL", [-1]),
        tensor(tensors.WORDS, "STRING", [-1]),
        tensor(tensors.UTTERANCE, "INT32", [-1]),
        tensor(tensors.STABLE, "INT32", [-1]),
        tensor(tensors.WRITTEN, "STRING", [-1]),
    ]


def _passed_on() -> list[dict]:
    """stream: its number, chunks so far with this one, encoder frames to read. failure: code and sentence."""
    return [tensor(tensors.STREAM, "INT64", [3]), tensor(tensors.FAILURE, "STRING", [1])]


def _tokens(contract: StreamingContract) -> list[dict]:
    shape = [contract.chunk, contract.top_k]
    return [tensor(tensors.TOKEN_IDS, "INT32", shape), tensor(tensors.TOKEN_LOG_PROBS, "FP32", shape)]


def _unread(contract: StreamingContract) -> list[dict]:
    """Outputs of the graph that no step reads: Triton's TensorRT backend wants every one configured."""
    classes = len(contract.vocabulary["pieces"]) + 1
    return [
        tensor(tensors.ENCODED_LENGTH, "INT64", [1]),
        tensor(tensors.LOG_PROBS, "FP32", [contract.chunk, classes]),
    ]


def _window(contract: StreamingContract) -> list[dict]:
    shape = [contract.mels, contract.window_frames]
    return [tensor(tensors.FEATURES, "FP32", shape), tensor(tensors.LENGTH, "INT64", [1])]


def _samples(contract: StreamingContract) -> list[dict]:
    """The samples under a window, for the log-mel graph, and where the audio begins and ends in it."""
    audio, samples = padded_audio()
    return [audio | {"dims": [contract.window_audio]}, tensor(tensors.BEFORE, "INT64", [1]), samples]


def preprocessor_config(contract: StreamingContract, serving: StreamServing, name: str) -> pb.ModelConfig:
    """audio [samples] (+ sample_rate) -> features [mels, window], length [1]; what the decoder must know.

    Before a log-mel graph: padded_audio, before and samples in place of features and length.
    """
    given = _samples(contract) if contract.front_end == "graph" else _window(contract)
    config = pb.ModelConfig(
        name=name,
        backend="python",
        max_batch_size=serving.max_batch_size,
        input=_audio(),
        output=[*given, *_passed_on()],
        instance_group=instance_group(1),
        sequence_batching=_sequences(serving, FIRST_SLOTS),
    )
    values = {"max_streams": serving.max_streams, "time_to_live": _time_to_live(serving)}
    return _parameters(config, values)


def log_mel_config(contract: StreamingContract, serving: StreamServing, name: str) -> pb.ModelConfig:
    """padded_audio [samples], before [1], samples [1] -> features [mels, window], length [1].

    It keeps nothing of a stream, so chunks of any streams batch. The encoder must get a stream's chunks in
    their order all the same: `preserve_ordering` answers them in it. One instance does so by itself, but
    there is one on every GPU, and with two and without it most streams that did not wait for answers broke.
    """
    config = pb.ModelConfig(
        name=name,
        backend="onnxruntime",
        default_model_filename=file_names.LOG_MEL_GRAPH,
        max_batch_size=serving.max_batch_size,
        input=_samples(contract),
        output=_window(contract),
        instance_group=instance_group(1),
        dynamic_batching=pb.ModelDynamicBatching(preserve_ordering=True),
    )
    return graph_front_end(config, serving.threads)


def encoder_config(contract: StreamingContract, serving: StreamServing, name: str) -> pb.ModelConfig:
    """features, length -> the best tokens of each frame; the caches are implicit state, zeros at first."""
    tensorrt = contract.target == "tensorrt"
    config = pb.ModelConfig(
        name=name,
        backend="tensorrt" if tensorrt else "onnxruntime",
        default_model_filename=file_names.PLAN if tensorrt else file_names.GRAPH,
        max_batch_size=serving.max_batch_size,
        input=_window(contract),
        output=[*_tokens(contract), *(_unread(contract) if tensorrt else ())],
        instance_group=instance_group(serving.instances),
        sequence_batching=_sequences(
            serving,
            -(-serving.slots // serving.instances),
            serving.delay_ms(contract),
            state=[_state(entry) for entry in contract.states],
        ),
    )
    if tensorrt:
        return config
    threads = {key: serving.threads for key in ("intra_op_thread_count", "inter_op_thread_count")}
    return _parameters(config, {**threads, "time_to_live": _time_to_live(serving)})


def _state(entry: dict) -> pb.ModelSequenceBatching.State:
    kind = {"float32": pb.TYPE_FP32, "float16": pb.TYPE_FP16, "int64": pb.TYPE_INT64}[entry["dtype"]]
    zeros = pb.ModelSequenceBatching.InitialState(
        name="zeros", data_type=kind, dims=entry["shape"], zero_data=True
    )
    return pb.ModelSequenceBatching.State(
        input_name=entry["input"],
        output_name=entry["output"],
        data_type=kind,
        dims=entry["shape"],
        initial_state=[zeros],
    )


def decoder_config(
    contract: StreamingContract, serving: StreamServing, steps: dict[str, str]
) -> pb.ModelConfig:
    """Best tokens of a chunk -> the results that they bring."""
    config = pb.ModelConfig(
        name=steps[tensors.STREAM_DECODER],
        backend="python",
        max_batch_size=serving.max_batch_size,
        input=[*_tokens(contract), *_passed_on(), tensor(tensors.OPTIONS, "STRING", [1], optional=True)],
        output=_results(),
        instance_group=instance_group(1),
        sequence_batching=_sequences(serving, serving.slots),
    )
    values = {
        tensors.OPTIONS: serving.options.to_json(),
        "time_to_live": _time_to_live(serving),
        "encoder": steps[tensors.STREAM_ENCODER],
        "front_end": ",".join(
            steps[step] for step in (tensors.STREAM_PREPROCESSOR, tensors.STREAM_LOG_MEL) if step in steps
        ),
    }
    return _parameters(config, values)


def ensemble_config(
    contract: StreamingContract, serving: StreamServing, name: str, steps: dict[str, str]
) -> pb.ModelConfig:
    """The client's side: audio (+ sample_rate, options) -> text, is_final, words, utterance, stable, written.

    Its parameters tell a client, which has no contract, how much audio a request brings.
    """
    window, tokens = [tensors.FEATURES, tensors.LENGTH], [tensors.TOKEN_IDS, tensors.TOKEN_LOG_PROBS]
    passed_on, results = [tensors.STREAM, tensors.FAILURE], [output["name"] for output in _results()]
    order = [
        *_front_end_steps(contract, steps, passed_on),
        ensemble_step(steps[tensors.STREAM_ENCODER], window, tokens),
        ensemble_step(steps[tensors.STREAM_DECODER], [*tokens, *passed_on, tensors.OPTIONS], results),
    ]
    config = pb.ModelConfig(
        name=name,
        platform="ensemble",
        max_batch_size=serving.max_batch_size,
        input=[
            tensor(tensors.AUDIO, "FP32", [-1]),
            tensor(tensors.RATE, "INT32", [1], optional=True),
            tensor(tensors.OPTIONS, "STRING", [1], optional=True),
        ],
        output=_results(),
        ensemble_scheduling=pb.ModelEnsembling(step=order),
    )
    values = {key: getattr(contract, key) for key in _CLIENT_PARAMETERS}
    limits = {"max_streams": serving.max_streams, "idle_seconds": serving.idle_seconds}
    return _parameters(config, values | limits)


def _front_end_steps(
    contract: StreamingContract, steps: dict[str, str], passed_on: list[str]
) -> list[pb.ModelEnsembling.Step]:
    given, window = [tensors.AUDIO, tensors.RATE], [tensors.FEATURES, tensors.LENGTH]
    if contract.front_end != "graph":
        return [ensemble_step(steps[tensors.STREAM_PREPROCESSOR], given, [*window, *passed_on])]
    samples = [entry["name"] for entry in _samples(contract)]
    return [
        ensemble_step(steps[tensors.STREAM_PREPROCESSOR], given, [*samples, *passed_on]),
        ensemble_step(steps[tensors.STREAM_LOG_MEL], samples, window),
    ]


def write_stream_models(
    stage: Path, exported: Path, default: int, serving: StreamServing, templates: Path
) -> list[str]:
    """Write the model folders of one look-ahead into ``stage``; their names, the ensemble last.

    ``exported`` is a folder of `export_look_ahead`; ``templates`` holds ``<step>/model.py``.
    """
    contract = StreamingContract.load(exported)
    steps = _step_names(contract, default)
    ensemble = model_name(tensors.STREAM_ENSEMBLE, contract, default)
    configs = _configs(contract, serving, steps)
    configs[ensemble] = ensemble_config(contract, serving, ensemble, steps)
    for name, config in configs.items():
        version = stage / name / VERSION
        version.mkdir(parents=True)
        write_config(stage / name, config)
        shutil.copyfile(exported / file_names.STREAM_CONTRACT, version / file_names.STREAM_CONTRACT)
    for step in (tensors.STREAM_PREPROCESSOR, tensors.STREAM_DECODER):
        copy_python_model(stage / steps[step] / VERSION, templates / step / "model.py")
    for step, file in _copied_files(contract):
        shutil.copyfile(exported / file, stage / steps[step] / VERSION / file)
    return list(configs)


def _step_names(contract: StreamingContract, default: int) -> dict[str, str]:
    """The steps that this look-ahead has, each with the name of its model."""
    graph = contract.front_end == "graph"
    steps = (step for step in _STEPS if graph or step != tensors.STREAM_LOG_MEL)
    return {step: model_name(step, contract, default) for step in steps}


def _configs(
    contract: StreamingContract, serving: StreamServing, steps: dict[str, str]
) -> dict[str, pb.ModelConfig]:
    """The configuration of each step's model by its name, in the order in which they are swapped in."""
    preprocessor, encoder = steps[tensors.STREAM_PREPROCESSOR], steps[tensors.STREAM_ENCODER]
    log_mel = steps.get(tensors.STREAM_LOG_MEL)
    configs = {log_mel: log_mel_config(contract, serving, log_mel)} if log_mel else {}
    return configs | {
        preprocessor: preprocessor_config(contract, serving, preprocessor),
        encoder: encoder_config(contract, serving, encoder),
        steps[tensors.STREAM_DECODER]: decoder_config(contract, serving, steps),
    }


def _copied_files(contract: StreamingContract) -> list[tuple[str, str]]:
    """Step and name of each file that its model folder gets from the exported one."""
    graph = contract.front_end == "graph"
    return [
        (tensors.STREAM_LOG_MEL, file_names.LOG_MEL_GRAPH)
        if graph
        else (tensors.STREAM_PREPROCESSOR, file_names.LOG_MEL),
        (tensors.STREAM_ENCODER, file_names.GRAPH),
    ]


def retire_streams(stage: Path, repository: Path, written: Sequence[str]) -> None:
    """Take away what an earlier export left: look-aheads of another model, log-mel graphs without use."""
    for step in (tensors.STREAM_ENSEMBLE, *_STEPS):
        for folder in repository.glob(f"{step}*"):
            look_ahead = folder.name.removeprefix(step)
            ours = not look_ahead or (look_ahead[0] == "_" and look_ahead[1:].isdigit())
            if ours and folder.name not in written:
                folder.rename(stage / f"{folder.name}.retired")
