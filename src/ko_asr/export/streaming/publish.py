"""Every look-ahead of a cache-aware model, exported, checked and swapped into a repository."""

from pathlib import Path
from typing import Any

from ko_asr.export.options import ExportOptions
from ko_asr.export.streaming.folder import add_log_mel_graph, export_look_ahead
from ko_asr.export.streaming.graph import first_look_ahead
from ko_asr.runtime import tensors
from ko_asr.runtime.stream_contract import StreamingContract
from ko_asr.serving.staging import VERSION, publish, staging
from ko_asr.serving.streaming import StreamServing, retire_streams, write_stream_models


def is_cache_aware(model: Any) -> bool:
    """True for a model that was trained to be streamed chunk by chunk."""
    return model.encoder.att_context_style == "chunked_limited"


def publish_look_aheads(
    model: Any,
    nemo: Path,
    repository: Path,
    serving: StreamServing,
    templates: Path,
    options: ExportOptions,
) -> list[StreamingContract]:
    """Export each look-ahead of ``model``, restored from ``nemo``, and swap its ensemble into ``repository``.

    ``templates`` holds the Python models of `export/models`. The look-aheads that an earlier export left in
    the repository are removed. UserError, and nothing is written, when a graph differs from NeMo, its
    precision costs too much or the model was not trained with a look-ahead.
    """
    from ko_asr.evaluation.model_card import write_model_card

    look_aheads = options.look_aheads or [first_look_ahead(model)]
    contracts, written = [], []
    with staging(repository) as stage:
        for look_ahead in look_aheads:
            exported = stage / f"look_ahead_{look_ahead}"
            contract = export_look_ahead(model, exported, look_ahead, source=nemo, options=options)
            graph = options.front_end == "graph"
            contracts.append(add_log_mel_graph(exported, contract) if graph else contract)
            written += write_stream_models(stage, exported, look_aheads[0], serving, templates)
        write_model_card(nemo, stage / tensors.STREAM_ENSEMBLE / VERSION / "model_card.md")
        publish(stage, repository, written)
        retire_streams(stage, repository, written)
    return contracts
