"""Log-mel features of a small corpus, kept in memory from the first epoch on.

On a CPU, decoding the audio and computing its log-mel take 15 % of a step of fastconformer_ko_demo. An epoch
that finds all features of a batch here spends nothing on them; one that does not computes them as the server
does, in less than half of the time of NeMo's own module (bench/logmel.py). There is no dither, and each
utterance is computed by itself, so that features are the same whichever batch they were first met in: a
resumed run, and runs on other numbers of devices, see the same ones. SpecAugment comes after, and draws anew
each time.
"""

from typing import TYPE_CHECKING, Any

import torch
from lhotse import CutSet, MonoCut
from lhotse.cut import Cut
from nemo.collections.asr.data.audio_to_text_dali import DALIOutputs

from ko_asr.errors import UserError
from ko_asr.models.front_end import log_mel_of
from ko_asr.models.nemo_ctc import NemoCtc
from ko_asr.runtime.log_mel import LogMel

if TYPE_CHECKING:
    from omegaconf import DictConfig


class FeatureBatch(DALIOutputs):
    """(features [B, mels, T], frames [B], tokens [B, U], token lengths [B]), as NeMo takes them from DALI."""

    def __init__(self, features: list[torch.Tensor], tokens: list[torch.Tensor], shift: float) -> None:
        """Pad utterances' features [mels, T] and tokens [U]; ``shift`` is the seconds between two frames."""
        self.shift = shift
        # One frame of padding more than the longest, as NeMo's preprocessor leaves it.
        signal = features[0].new_zeros(
            len(features), len(features[0]), 1 + max(each.shape[1] for each in features)
        )
        for row, each in zip(signal, features, strict=True):
            row[:, : each.shape[1]] = each
        parts = {
            "processed_signal": signal,
            "processed_signal_len": torch.tensor([each.shape[1] for each in features]),
            "transcript": torch.nn.utils.rnn.pad_sequence(tokens, batch_first=True),
            "transcript_len": torch.tensor([len(each) for each in tokens]),
        }
        super().__init__(parts)


def batch_seconds(batch: Any, sample_rate: int) -> tuple[torch.Tensor, float]:
    """Seconds [B] of a training batch's utterances, and those of the batch with its padding."""
    signal, lengths = batch[0], batch[1]
    unit = batch.shift if isinstance(batch, FeatureBatch) else 1 / sample_rate
    return lengths * unit, len(lengths) * signal.shape[-1] * unit


class CachedFeatures(torch.utils.data.Dataset):
    """NeMo's Lhotse dataset, its batches with the features of ``log_mel`` in place of audio.

    ``shift`` is the seconds between two frames.
    """

    def __init__(self, dataset: torch.utils.data.Dataset, log_mel: LogMel, shift: float) -> None:
        self.dataset, self.log_mel = dataset, log_mel
        self.shift = shift
        self._kept: dict[tuple, tuple[torch.Tensor, torch.Tensor]] = {}

    def __getitem__(self, cuts: CutSet) -> FeatureBatch:
        """The batch of ``cuts``; like the dataset, it leaves out those whose audio cannot be read."""
        keys = [_key(cut) for cut in cuts]
        missing = [number for number, key in enumerate(keys) if key not in self._kept]
        computed = self._compute(CutSet.from_cuts(cuts[number] for number in missing)) if missing else []
        if len(computed) < len(missing):  # which of them could not be read, the dataset does not say
            rows = self._compute(cuts)
        else:
            fresh = dict(zip(missing, computed, strict=True))
            self._kept.update((keys[number], row) for number, row in fresh.items() if keys[number])
            rows = [fresh.get(number) or self._kept[key] for number, key in enumerate(keys)]
        return FeatureBatch([features for features, _ in rows], [tokens for _, tokens in rows], self.shift)

    def _compute(self, cuts: CutSet) -> list[tuple[torch.Tensor, torch.Tensor]]:
        return [
            (torch.from_numpy(self.log_mel(signal[:length].numpy())), tokens[:count].clone())
            for signal, length, tokens, count in zip(*self.dataset[cuts], strict=True)
        ]


def _key(cut: Cut) -> tuple:
    """The identity of an utterance; empty for audio that an augmentation has changed."""
    if type(cut) is not MonoCut or cut.recording.transforms:
        return ()
    return cut.id, cut.start, cut.duration, *(supervision.text for supervision in cut.supervisions)


def keep_features(model: NemoCtc, config: "DictConfig", seconds: float, on_cpu: bool) -> None:
    """Let ``model`` train on kept features if ``feature_cache_mb`` holds those of ``seconds`` of audio.

    Prints whether it does, and if not why.
    """
    if not config.feature_cache_mb:
        return
    featurizer, loader = model.preprocessor.featurizer, model.train_dataloader()
    shift = featurizer.hop_length / featurizer.sample_rate
    megabytes = seconds / shift * featurizer.nfilt * 4 / 1e6
    limit = config.feature_cache_mb
    obstacles = {
        "the model is not on a CPU": not on_cpu,
        "the audio is augmented": config.model.train_ds.get("perturb_speed", False),
        "shards have no end": bool(config.model.train_ds.get("input_cfg")),
        "model.train_ds.num_workers is not 0": loader.num_workers > 0,
        "model.preprocessor.pad_to is not 0": featurizer.pad_to != 0,
        f"they need {megabytes:.0f} MB, and feature_cache_mb={limit}": megabytes > limit,
    }
    reasons = [reason for reason, applies in obstacles.items() if applies]
    try:
        log_mel = log_mel_of(model)
    except UserError as error:
        reasons.append(str(error))
    if reasons:
        print(f"log-mel features are computed anew in each epoch: {reasons[0]}", flush=True)
        return
    print(f"log-mel features are kept in memory ({megabytes:.0f} MB)", flush=True)
    dataset = CachedFeatures(loader.dataset, log_mel, shift)
    model._train_dl = torch.utils.data.DataLoader(dataset, sampler=loader.sampler, batch_size=None)
