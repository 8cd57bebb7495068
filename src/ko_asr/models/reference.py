"""NeMo's own answers: the reference of every gate."""

from collections.abc import Sequence

import numpy as np
import torch

from ko_asr.models.nemo_ctc import NemoCtc


def reference_log_probs(model: NemoCtc, features: np.ndarray, lengths: Sequence[int]) -> list[np.ndarray]:
    """NeMo's own log-probabilities [T', V+1] of each row of ``features`` [B, mels, T], valid frames only."""
    with torch.inference_mode():
        encoded, encoded_length = model.encoder(
            audio_signal=torch.from_numpy(features), length=torch.tensor(list(lengths))
        )
        log_probs = model.decoder(encoder_output=encoded)
    return [row[:count].numpy() for row, count in zip(log_probs, encoded_length.tolist(), strict=True)]
