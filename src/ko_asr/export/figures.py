"""Figures of the gates: a measured value beside its limit, and how a terminal shows it."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from ko_asr.runtime import tensors
from ko_asr.runtime.stream_contract import StreamingContract

if TYPE_CHECKING:
    from ko_asr.export.precision import Report


@dataclass(frozen=True)
class Figure:
    """One comparison: what was compared and the largest difference found."""

    name: str
    value: float
    limit: float

    @property
    def passed(self) -> bool:
        """True when the difference is within the limit; NaN is not."""
        return self.value <= self.limit


def show_figures(figures: Sequence[Figure]) -> None:
    """Print one line a figure, with its limit and its verdict."""
    for figure in figures:
        verdict = "ok" if figure.passed else "TOO FAR"
        print(f"  {figure.name:<38} {figure.value:.1e}  (limit {figure.limit:.0e})  {verdict}")


def show_report(title: str, report: "Report") -> None:
    """Print the cost of a lower precision; ``title`` names the two graphs, "int8 against fp32"."""
    print(f"{title}, CER {report.cer[0]:.2%} -> {report.cer[1]:.2%}:")
    show_figures(report.figures)


def chunks_of(contract: StreamingContract) -> str:
    """The size of a contract's chunks, in words."""
    return f"chunks of {1000 * contract.chunk_seconds:.0f} ms"


def show_look_aheads(contracts: Sequence[StreamingContract]) -> None:
    """Print what each look-ahead differs from NeMo in fp32; the first of ``contracts`` is the default one."""
    from ko_asr.serving.streaming import model_name

    print("against NeMo's full forward pass, largest difference of log-probabilities in fp32:")
    for contract in contracts:
        name = model_name(tensors.STREAM_ENSEMBLE, contract, contracts[0].look_ahead)
        worst = _worst(contract, "log-probs")
        print(f"  {name:<20} {chunks_of(contract):<20} {worst:.1e}  (limit 1e-03)  ok")
    if contracts[0].front_end == "graph":
        worst = max(_worst(contract, "log-mel") for contract in contracts)
        print("the log-mel graphs against the numpy front end, largest difference of log-mel features:")
        print(f"  {'every window of the streams compared':<41} {worst:.1e}  (limit 1e-03)  ok")


def _worst(contract: StreamingContract, kind: str) -> float:
    return max(value for name, value in contract.parity.items() if name.startswith(kind))
