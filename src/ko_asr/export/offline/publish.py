"""A full-context model, exported, checked and swapped into a repository."""

import secrets
from dataclasses import replace
from importlib.metadata import version
from pathlib import Path
from typing import Any

from ko_asr.errors import UserError
from ko_asr.export.figures import Figure
from ko_asr.export.log_mel import export_offline_log_mel
from ko_asr.export.offline.graph import export_encoder, top_k
from ko_asr.export.offline.parity import check_graph, check_log_mel, check_log_mel_graph, refuse_differences
from ko_asr.export.offline.precision import lower_precision
from ko_asr.export.options import ExportOptions
from ko_asr.provenance import sha256
from ko_asr.runtime import file_names, tensors
from ko_asr.runtime.contract import BUCKETS, Contract, bucket_lengths
from ko_asr.runtime.log_mel import LogMel
from ko_asr.serving.offline import Serving, retire_models, write_models
from ko_asr.serving.staging import VERSION, publish, staging

MAX_BATCH_SIZE = 8  # requests
_PACKAGES = ("torch", "nemo_toolkit", "onnx", "onnxruntime", "ko-asr")
MODEL_CARD = f"{tensors.ENSEMBLE}/{VERSION}/model_card.md"


def publish_offline(
    model: Any,
    nemo: Path,
    repository: Path,
    serving: Serving,
    templates: Path,
    options: ExportOptions,
) -> Contract:
    """Export ``model``, restored from ``nemo``, and swap its ensemble into ``repository``.

    ``templates`` holds the Python models of `export/models`. UserError, and nothing is written, when a graph
    differs from NeMo or its precision costs too much.
    """
    from ko_asr.evaluation.model_card import write_model_card

    with staging(repository) as stage:
        contract = export_offline(model, nemo, stage, options)
        write_models(stage, contract, serving, templates, _files(stage, contract))
        write_model_card(nemo, stage / MODEL_CARD, repository=stage)
        publish(stage, repository, contract.models)
        retire_models(stage, repository, contract)
    return contract


def export_offline(model: Any, nemo: Path, folder: Path, options: ExportOptions) -> Contract:
    """Write encoder and front end of ``model`` into ``folder`` and put them through their gates.

    Returns the contract that describes them. UserError when a graph differs from NeMo, its precision costs
    too much or the encoder has no positions for ``options.max_seconds``.
    """
    from ko_asr.models.front_end import log_mel_of
    from ko_asr.models.vocabulary import find_vocabulary

    log_mel, graph = log_mel_of(model), folder / file_names.GRAPH
    max_samples = longest_samples(model, options.max_seconds, log_mel.hop)
    max_frames = log_mel.frames(max_samples)
    export_encoder(model, graph, max_frames)
    log_mel_graph = write_front_end(log_mel, folder, options.front_end)
    figures = measure(model, log_mel, graph, max_frames, log_mel_graph)
    options.on_figures(figures)
    refuse_differences(figures)
    parity = {figure.name: figure.value for figure in figures}
    if options.precision != "fp32":
        vocabulary = find_vocabulary(model.tokenizer.tokenizer)
        parity |= lower_precision(model, graph, vocabulary, max_frames, options)
    contract = make_contract(model, nemo, log_mel, max_samples, options)
    return replace(contract, onnx_sha256=sha256(graph), parity=parity)


def longest_samples(model: Any, seconds: float, hop: int) -> int:
    """``seconds`` in samples. UserError when the positional table of the encoder does not hold them."""
    subsampling = int(model.encoder.subsampling_factor)
    rate = int(model.preprocessor.featurizer.sample_rate)
    table = int(model.encoder.pos_emb_max_len) * subsampling * hop
    if seconds * rate > table:
        raise UserError(
            f"--max-seconds {seconds:g} is more than the encoder's {table // rate} s positional table"
        )
    return int(seconds * rate)


def write_front_end(log_mel: LogMel, folder: Path, kind: str) -> Path | None:
    """Write logmel.npz or, for the front end "graph", logmel.onnx into ``folder``; the latter's path."""
    if kind == "numpy":
        log_mel.save(folder / file_names.LOG_MEL)
        return None
    export_offline_log_mel(log_mel, path := folder / file_names.LOG_MEL_GRAPH)
    return path


def measure(
    model: Any, log_mel: LogMel, graph: Path, max_frames: int, log_mel_graph: Path | None
) -> list[Figure]:
    """Every difference from NeMo: the numpy front end, its graph if there is one, the encoder."""
    figures = check_log_mel(model, log_mel)
    if log_mel_graph is not None:
        figures += check_log_mel_graph(model, log_mel.hop, log_mel_graph)
    return figures + check_graph(model, graph, len(log_mel.filters), max_frames)


def make_contract(
    model: Any, nemo: Path, log_mel: LogMel, max_samples: int, options: ExportOptions
) -> Contract:
    """The contract of one export; what its graph's bytes and its gates say comes later."""
    from ko_asr.models.vocabulary import find_vocabulary

    vocabulary = find_vocabulary(model.tokenizer.tokenizer)
    return Contract(
        export_id=secrets.token_hex(8),
        model=nemo.name,
        model_sha256=sha256(nemo),
        onnx_sha256="",
        vocabulary=vocabulary.to_json(),
        blank_id=len(vocabulary.pieces),
        mels=len(log_mel.filters),
        sample_rate=int(model.preprocessor.featurizer.sample_rate),
        hop=log_mel.hop,
        subsampling=int(model.encoder.subsampling_factor),
        top_k=top_k(model),
        min_samples=log_mel.min_samples,
        max_samples=max_samples,
        bucket_frames=bucket_lengths(log_mel.frames(max_samples), *BUCKETS[options.target]),
        max_batch_size=options.max_batch_size or MAX_BATCH_SIZE,
        target=options.target,
        precision=options.precision,
        front_end=options.front_end,
        silence_dbfs=options.silence_dbfs,
        versions={name: version(name) for name in _PACKAGES},
    )


def _files(folder: Path, contract: Contract) -> dict[str, Path]:
    """Where each file of `export_offline` goes in the repository."""
    graph = contract.front_end == "graph"
    model, name = (
        (tensors.LOG_MEL, file_names.LOG_MEL_GRAPH) if graph else (tensors.PREPROCESSOR, file_names.LOG_MEL)
    )
    return {
        f"{tensors.ENCODER}/{file_names.GRAPH}": folder / file_names.GRAPH,
        f"{model}/{name}": folder / name,
    }
