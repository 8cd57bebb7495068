"""NeMo's batched CTC beam search (``beam_batch``) with a token n-gram and boosted words, its weights tuned.

The language model is NeMo's NGPU-LM, read from the ARPA file of `language_model`; boosted words are NeMo's
boosting tree, which matches the tokens that its tokenizer gives a word, and knows no score of its own a word.
"""

from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from ko_asr.audio.read import read_segment
from ko_asr.errors import UserError
from ko_asr.evaluation.metrics import score
from ko_asr.models.nemo_ctc import NemoCtc
from ko_asr.models.transcribe import batches
from ko_asr.text.language_model import ARPA, FusionWeights

ALPHAS = (0.1, 0.2, 0.35, 0.5, 0.75, 1.0)
BETAS = (0.0, 0.5, 1.0, 1.5)


def use_beam_batch(
    model: NemoCtc,
    language_model: Path | None,
    weights: FusionWeights,
    words: Sequence[str] = (),
    word_weight: float = 1.0,
    beam_size: int = 8,
) -> None:
    """Let ``model`` decode with beam search from now on; UserError when it is no CTC model over sub-words.

    The model's own configuration is left as it was.
    """
    from omegaconf import OmegaConf

    if not hasattr(model, "tokenizer") or "Computer" in type(getattr(model, "decoding", None)).__name__:
        raise UserError(
            "beam search here is for CTC models with a SentencePiece tokenizer: give such a .nemo"
        )
    beam: dict[str, Any] = {"beam_size": beam_size, "beam_beta": weights.beta, "return_best_hypothesis": True}
    if language_model:
        beam |= {"ngram_lm_model": str(language_model / ARPA), "ngram_lm_alpha": weights.alpha}
    if words:
        beam |= {"boosting_tree": {"key_phrases_list": list(words)}, "boosting_tree_alpha": word_weight}
    own = model.cfg.decoding.copy()
    model.change_decoding_strategy(OmegaConf.create({"strategy": "beam_batch", "beam": beam}), verbose=False)
    model.cfg.decoding = own


def set_weights(model: NemoCtc, weights: FusionWeights) -> None:
    """Change the weights of a model that decodes with `use_beam_batch`, without reading the LM again."""
    search = model.decoding.decoding.search_algorithm
    search.fusion_models_alpha = [weights.alpha, *search.fusion_models_alpha[1:]]
    search.beam_beta = weights.beta


def frame_log_probs(
    model: NemoCtc, entries: Sequence[dict], batch_size: int, batch_seconds: float
) -> list[tuple[list[int], torch.Tensor, torch.Tensor]]:
    """Indexes, log-probabilities [B, T, V + 1] (half precision) and lengths of each batch of entries."""
    found = []
    rate = int(model.cfg.preprocessor.sample_rate)
    for group in batches(entries, batch_size, batch_seconds):
        clips = [torch.from_numpy(read_segment(entries[k], rate)) for k in group]
        signal = torch.nn.utils.rnn.pad_sequence(clips, batch_first=True).to(model.device)
        lengths = torch.tensor([len(clip) for clip in clips], device=model.device)
        with torch.inference_mode():
            log_probs, frames, _ = model(input_signal=signal, input_signal_length=lengths)
        found.append((group, log_probs.half().cpu(), frames.cpu()))
    return found


def tune(
    model: NemoCtc,
    entries: Sequence[dict],
    profile: str,
    batch_size: int,
    batch_seconds: float,
    on_trial: Callable[[], object] = lambda: None,
) -> tuple[FusionWeights, list[dict[str, float]]]:
    """The weights of `ALPHAS` x `BETAS` with the lowest CER on ``entries``, and every trial.

    ``model`` decodes with `use_beam_batch` already. The encoder runs once. Of equal ones the smallest weights
    win.
    """
    frames = frame_log_probs(model, entries, batch_size, batch_seconds)
    references = [entry["text"] for entry in entries]
    trials = []
    for alpha in ALPHAS:
        for beta in BETAS:
            set_weights(model, FusionWeights(alpha, beta))
            counts = score(references, _decode(model, frames, len(entries)), profile)
            rates = {name: counts.total(name).rate for name in (counts.headline(), "wer")}
            trials.append(
                {"alpha": alpha, "beta": beta, "cer": rates[counts.headline()], "wer": rates["wer"]}
            )
            on_trial()
    best = min(trials, key=lambda trial: (trial["cer"], trial["wer"], trial["alpha"], trial["beta"]))
    return replace(FusionWeights(), alpha=best["alpha"], beta=best["beta"]), trials


def _decode(
    model: NemoCtc, frames: Sequence[tuple[list[int], torch.Tensor, torch.Tensor]], count: int
) -> list[str]:
    texts = [""] * count
    for group, log_probs, lengths in frames:
        with torch.inference_mode():
            hypotheses = model.decoding.ctc_decoder_predictions_tensor(
                log_probs.to(model.device).float(), lengths.to(model.device)
            )
        for k, hypothesis in zip(group, hypotheses, strict=True):
            texts[k] = getattr(hypothesis, "text", hypothesis)
    return texts
