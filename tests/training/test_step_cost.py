"""What makes steps cheaper changes neither gradients, nor features, nor what a broken batch does."""

from types import SimpleNamespace

import pytest
import torch
from lhotse import CutSet
from lhotse.testing.dummies import dummy_cut, dummy_recording

SAMPLES = (16_000, 12_345, 20_480)


def model() -> torch.nn.Module:
    torch.manual_seed(0)
    return torch.nn.Sequential(
        torch.nn.Conv2d(1, 4, 3),
        torch.nn.Conv2d(4, 4, 3, groups=4),
        torch.nn.Flatten(),
        torch.nn.Linear(64, 2),
    )


@pytest.mark.slow
@pytest.mark.parametrize("bad", [float("nan"), float("inf"), -float("inf")])
def test_one_bad_gradient_of_many_is_found(bad: float) -> None:
    from ko_asr.training.step_cost import finite_gradients

    network = model()
    network(torch.ones(1, 1, 8, 8)).sum().backward()
    network[0].bias.grad = None  # as of a frozen layer
    assert finite_gradients(network.parameters())
    network[1].weight.grad[2, 0, 1, 1] = bad
    assert not finite_gradients(network.parameters())


@pytest.mark.slow
def test_fused_optimiser_and_layout_take_the_same_steps() -> None:
    from ko_asr.training.step_cost import channels_last, fuse

    plain, cheap = model(), model()
    channels_last(cheap)
    optimizers = [torch.optim.AdamW(network.parameters(), lr=1e-2) for network in (plain, cheap)]
    fuse(optimizers[1:])
    for _ in range(5):
        signal = torch.randn(3, 1, 8, 8)
        for network, optimizer in zip((plain, cheap), optimizers, strict=True):
            optimizer.zero_grad()
            network(signal).square().sum().backward()
            optimizer.step()
    for expected, found in zip(plain.parameters(), cheap.parameters(), strict=True):
        torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-6)


class Audio(torch.utils.data.Dataset):
    """As NeMo's Lhotse dataset: a padded batch of what the cuts stand for. Counts how often it is asked."""

    def __init__(self) -> None:
        generator = torch.Generator().manual_seed(0)
        self.signals = [torch.randn(count, generator=generator) for count in SAMPLES]
        self.asked = 0

    def __getitem__(self, cuts: CutSet) -> tuple[torch.Tensor, ...]:
        self.asked += 1
        numbers = [int(cut.id.split("_")[0].rsplit("-", 1)[1]) for cut in cuts]
        signals = [self.signals[number] for number in numbers]
        tokens = [torch.arange(1, number + 3) for number in numbers]
        pad = torch.nn.utils.rnn.pad_sequence
        return (
            pad(signals, batch_first=True), torch.tensor([len(each) for each in signals]),
            pad(tokens, batch_first=True), torch.tensor([len(each) for each in tokens]),
        )  # fmt: skip


@pytest.mark.slow
def test_kept_features_are_those_of_the_preprocessor() -> None:
    from nemo.collections.asr.modules import AudioToMelSpectrogramPreprocessor

    from ko_asr.models.front_end import log_mel_of
    from ko_asr.training.feature_cache import CachedFeatures, batch_seconds

    preprocessor = AudioToMelSpectrogramPreprocessor(
        window_size=0.025, features=80, n_fft=512, pad_to=0, dither=1e-5
    ).eval()
    audio = Audio()
    log_mel = log_mel_of(SimpleNamespace(preprocessor=preprocessor))
    cached = CachedFeatures(audio, log_mel, 0.01)
    cuts = [dummy_cut(number, recording=dummy_recording(number)) for number in range(len(SAMPLES))]
    signal, lengths, tokens, counts = audio[CutSet(cuts)]
    expected, frames = preprocessor(input_signal=signal, length=lengths)
    for _ in range(2):
        features, feature_frames, found, found_counts = (part for part in cached[CutSet(cuts)])
        torch.testing.assert_close(features, expected, rtol=0, atol=1e-4)
        assert torch.equal(feature_frames, frames)
        assert torch.equal(found, tokens) and torch.equal(found_counts, counts)
    assert audio.asked == 2  # once here, once for the first of the two

    again = cached[CutSet([cuts[1], cuts[0]])]  # another batch, no audio read
    assert audio.asked == 2 and torch.equal(again[0][1], cached[CutSet(cuts[:1])][0][0])
    seconds, padded = batch_seconds(again, 16_000)
    assert seconds.tolist() == pytest.approx([SAMPLES[1] / 16_000, 1.0], abs=0.01)
    assert padded == pytest.approx(2.0, abs=0.03)

    faster = cuts[0].perturb_speed(1.1)
    for _ in range(2):
        cached[CutSet([faster])]
    assert audio.asked == 4  # what an augmentation has changed is not kept
