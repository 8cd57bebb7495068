"""Whether and where corrections are stored."""

import argparse
from dataclasses import dataclass
from pathlib import Path

_MIB = 1 << 20


@dataclass(frozen=True)
class CorrectionSettings:
    """A ``folder`` for clips and their texts; None, the default, stores nothing. Size in bytes."""

    folder: Path | None = None
    most_bytes: int = 1024 * _MIB  # of all clips and texts: clients cannot fill the disk

    @staticmethod
    def add_options(parser: argparse.ArgumentParser) -> None:
        """Add the options that `of` reads."""
        add = parser.add_argument
        add("--corrections", type=Path, metavar="FOLDER", help="store corrected clips there (off)")
        add(
            "--max-corrections", type=float, default=1024, metavar="MIB", help="of all clips and texts (1024)"
        )

    @classmethod
    def of(cls, args: argparse.Namespace) -> "CorrectionSettings":
        """Read the command line of `add_options`."""
        return cls(args.corrections, int(args.max_corrections * _MIB))
