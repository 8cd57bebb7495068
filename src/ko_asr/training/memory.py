"""Memory that a training step will need of a device, known before the first step.

Weights, gradients and Adam's moments follow from the parameters. Activations are what autograd keeps for the
backward pass: their bytes are counted in forward passes of short random audio on the CPU, through the model's
own layers in its own precision, and extended by the law that such tensors obey: constant + B (a T + b T^2)
for B utterances of T seconds (b is attention). Work space of single operators is not counted: 1 to 6 % for
size xs on a CPU, and whatever the C library's allocator keeps besides.
"""

import os
import resource
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from ko_asr.errors import UserError
from ko_asr.models.nemo_ctc import NemoCtc

if TYPE_CHECKING:
    from omegaconf import DictConfig

_ADAM_STATES = 2
_PROBE_SECONDS = 3.0
_SLOWEST = 0.9  # speed perturbation makes the longest clip longer by this factor's inverse
_TOKENS_PER_SECOND = 12.0  # of the probe's transcript: what Korean has in jamo


@dataclass(frozen=True)
class ActivationLaw:
    """Bytes kept for the backward pass: constant + utterances (linear T + quadratic T^2), T in seconds."""

    constant: float
    linear: float
    quadratic: float

    def bytes(self, utterances: int, seconds: float) -> float:
        """Bytes of a batch of ``utterances`` padded to ``seconds`` each."""
        return self.constant + utterances * (self.linear * seconds + self.quadratic * seconds**2)


@dataclass(frozen=True)
class MemoryEstimate:
    """Bytes of one training step on one device, and the batch that needs the most."""

    parameters: int
    weights: float
    gradients: float
    optimiser: float
    activations: float
    utterances: int
    seconds: float

    @property
    def total(self) -> float:
        return self.weights + self.gradients + self.optimiser + self.activations

    def __str__(self) -> str:
        return (
            f"{self.parameters / 1e6:.1f} M parameters: {_size(self.weights)} weights + "
            f"{_size(self.gradients)} gradients + {_size(self.optimiser)} AdamW + {_size(self.activations)} "
            f"activations of the largest batch ({self.utterances} x {self.seconds:.1f} s) = "
            f"{_size(self.total)}"
        )


def _size(count: float) -> str:
    return f"{count / 1e9:.1f} GB" if count >= 1e9 else f"{count / 1e6:.0f} MB"


def kept_bytes(model: NemoCtc, utterances: int, seconds: float, bfloat16: bool = False) -> int:
    """Bytes that autograd keeps of one training forward pass and loss, each storage counted once.

    Parameters are not counted. Running statistics are put back, so the model is as it was.
    """
    owned = {tensor.untyped_storage().data_ptr() for tensor in model.parameters()}
    kept: dict[int, int] = {}

    def pack(tensor: torch.Tensor) -> torch.Tensor:
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in owned:
            kept[storage.data_ptr()] = storage.nbytes()
        return tensor  # held, so that no later tensor gets its address

    statistics = [(tensor, tensor.clone()) for name, tensor in model.named_buffers() if _is_statistic(name)]
    was_training = model.training
    model.train()
    with (
        torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor),
        torch.autocast("cpu", torch.bfloat16, enabled=bfloat16),
    ):
        loss = noise_loss(model, utterances, seconds)
    del loss
    with torch.no_grad():
        for tensor, before in statistics:
            tensor.copy_(before)
    model.train(was_training)
    return sum(kept.values())


def _is_statistic(buffer: str) -> bool:
    return buffer.rsplit(".", 1)[-1] in ("running_mean", "running_var", "num_batches_tracked")


def noise_loss(model: NemoCtc, utterances: int, seconds: float) -> torch.Tensor:
    """The training loss of ``utterances`` of noise, each with as many tokens as speech of its length has."""
    samples = torch.randn(utterances, round(seconds * model.preprocessor._sample_rate)) * 0.1
    lengths = torch.full((utterances,), samples.shape[1])
    log_probs, encoded, _ = model(input_signal=samples, input_signal_length=lengths)
    tokens = max(1, min(int(seconds * _TOKENS_PER_SECOND), int(encoded[0]) // 2))
    targets = torch.arange(tokens).remainder(log_probs.shape[-1] - 1).expand(utterances, -1)
    return model.loss(
        log_probs=log_probs.float(),
        targets=targets,
        input_lengths=encoded,
        target_lengths=torch.full((utterances,), tokens),
    )


def activation_law(model: NemoCtc, bfloat16: bool = False) -> ActivationLaw:
    """Measure the law with three forward passes: (1, T), (1, 2T) and (2, T)."""
    short, once = _PROBE_SECONDS, 2 * _PROBE_SECONDS
    probes = ((1, short), (1, once), (2, short))
    terms = np.array([[1, count * seconds, count * seconds**2] for count, seconds in probes])
    measured = np.array([kept_bytes(model, *probe, bfloat16=bfloat16) for probe in probes])
    # Padding to whole frames can leave a term slightly below nothing.
    return ActivationLaw(*np.linalg.solve(terms, measured).clip(min=0).tolist())


def largest_batch(law: ActivationLaw, dataset: Any, longest: float) -> tuple[int, float]:
    """(utterances, seconds each) of the batch that a ``train_ds`` config can make and that needs the most.

    Lhotse fills a batch while utterances x (T + T^2 / quadratic_duration) stays within batch_duration;
    one utterance always fits. With batch_size alone that many of the longest clips are taken.
    """
    longest = min(longest / (_SLOWEST if dataset.get("perturb_speed") else 1), dataset.max_duration)
    if not dataset.get("batch_duration"):
        return dataset.get("batch_size") or 1, longest
    penalty = dataset.get("quadratic_duration") or float("inf")
    batches = []
    for seconds in np.linspace(min(dataset.min_duration, longest), longest, 50).tolist():
        fitting = int(dataset.batch_duration / (seconds + seconds**2 / penalty))
        batches.append((max(1, fitting), seconds))
    return max(batches, key=lambda batch: law.bytes(*batch))


def estimate(model: NemoCtc, dataset: Any, longest: float, precision: str | int) -> MemoryEstimate:
    """Memory of one step of ``model`` on batches of ``dataset`` (a ``train_ds`` config).

    ``longest`` is the longest training utterance in seconds, ``precision`` Lightning's setting.
    """
    trained = [tensor for tensor in model.parameters() if tensor.requires_grad]
    gradients = sum(tensor.numel() * tensor.element_size() for tensor in trained)
    tensors = [*model.parameters(), *model.buffers()]
    law = activation_law(model, bfloat16="bf16" in str(precision))
    utterances, seconds = largest_batch(law, dataset, longest)
    return MemoryEstimate(
        parameters=sum(tensor.numel() for tensor in model.parameters()),
        weights=sum(tensor.numel() * tensor.element_size() for tensor in tensors),
        gradients=gradients,
        optimiser=_ADAM_STATES * gradients,
        activations=law.bytes(utterances, seconds),
        utterances=utterances,
        seconds=seconds,
    )


def check_memory(model: NemoCtc, config: "DictConfig", longest: float, on_gpu: bool) -> MemoryEstimate:
    """Print the estimate beside the device's memory; UserError where a GPU has less.

    A CPU run is only warned: its memory is shared, and the system can swap.
    """
    dataset = config.model.train_ds
    needed = estimate(model, dataset, longest, config.trainer.precision)
    device = device_memory(on_gpu)
    print(f"memory: {needed}, of {_size(device)} on this {'GPU' if on_gpu else 'machine'}", flush=True)
    if needed.total <= device:
        return needed
    sentence = shortage(needed, device, dataset.get("batch_duration"))
    if on_gpu:
        raise UserError(sentence)
    print(f"warning: {sentence}", flush=True)
    return needed


def shortage(needed: MemoryEstimate, device: float, batch_duration: float | None) -> str:
    """The sentence about a device of ``device`` bytes that is too small, with the batch that would fit it."""
    room = 0.9 * (device - (needed.total - needed.activations)) / needed.activations
    advice = "choose a smaller size"
    if batch_duration and room > 0:
        advice = (
            f"set model.train_ds.batch_duration={room * batch_duration:.0f} and raise "
            f"trainer.accumulate_grad_batches {1 / room:.1f}-fold"
        )
    return f"a training step needs {_size(needed.total)} and this device has {_size(device)}: {advice}"


def device_memory(on_gpu: bool) -> int:
    """Bytes of the first GPU, or of the machine."""
    if on_gpu:
        return torch.cuda.get_device_properties(0).total_memory
    return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")


def peak_bytes(on_gpu: bool) -> int:
    """Most memory so far: allocated on the GPU, or resident in this process."""
    if on_gpu:
        return torch.cuda.max_memory_allocated()
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
