"""Every look-ahead of a cache-aware model, exported, checked and swapped into a repository."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from ko_asr.export.streaming.precision import Purpose
from ko_asr.runtime import tensors
from ko_asr.runtime.stream_contract import StreamingContract
from ko_asr.serving.staging import VERSION, publish, staging
from ko_asr.serving.streaming import StreamServing, build, remove_others


def publish_look_aheads(
    model: Any,
    nemo: Path,
    repository: Path,
    look_aheads: Sequence[int],
    serving: StreamServing,
    templates: Path,
    purpose: Purpose,
) -> list[StreamingContract]:
    """Export each look-ahead of a restored cache-aware ``model``, check it, and swap it into ``repository``.

    The first look-ahead is the default one. Those that an earlier export left there are removed. UserError,
    and nothing is written, when a graph differs from NeMo, its precision costs too much or the model was not
    trained with a look-ahead.
    """
    from ko_asr.evaluation.model_card import write_model_card
    from ko_asr.export.streaming.graph import add_log_mel_graph, export_streaming

    contracts, written = [], []
    with staging(repository) as stage:
        for look_ahead in look_aheads:
            exported = stage / f"look_ahead_{look_ahead}"
            contract = export_streaming(model, exported, look_ahead, source=nemo, purpose=purpose)
            graph = purpose.front_end == "graph"
            contracts.append(add_log_mel_graph(exported, contract) if graph else contract)
            written += build(stage, exported, look_aheads[0], serving, templates)
        write_model_card(nemo, stage / tensors.STREAM_ENSEMBLE / VERSION / "model_card.md")
        publish(stage, repository, written)
        remove_others(stage, repository, written)
    return contracts
