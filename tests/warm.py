"""What `commands.run` imports once, and the scripts that know no NeMo would import for a second each."""

from importlib import import_module

for name in (
    "ko_asr.corpora.ksponspeech",
    "ko_asr.data.audit_report",
    "ko_asr.data.command",
    "ko_asr.data.schema",
    "ko_asr.evaluation.metrics",
    "ko_asr.text.feasibility",
    "soundfile",
    "soxr",
):
    import_module(name)
