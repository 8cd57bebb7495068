"""The common part of both contracts: identity, vocabulary and frame shift of a model, and the JSON file."""

import json
from collections.abc import Iterable
from dataclasses import asdict, dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any, ClassVar, Self

from ko_asr.errors import UserError
from ko_asr.runtime.ctc import Vocabulary
from ko_asr.runtime.plan_record import check_plan

FORMAT = 1


@dataclass(frozen=True, kw_only=True)
class ModelContract:
    """One exported model: its origin, its audio, its vocabulary and the encoder that runs it."""

    FILE: ClassVar[str]  # in a model folder
    MISSING: ClassVar[str]  # what to do where there is no such file

    export_id: str  # the same in every folder of one export: a mixture of two exports is refused
    model: str  # name of the .nemo
    model_sha256: str
    onnx_sha256: str
    vocabulary: dict[str, Any]  # `ko_asr.runtime.ctc.Vocabulary.to_json`
    blank_id: int
    mels: int
    sample_rate: int  # Hz
    hop: int  # samples a log-mel frame
    subsampling: int  # log-mel frames an encoder frame
    target: str = "onnx"  # what runs the encoder: "onnx" or "tensorrt"
    precision: str = "fp32"
    front_end: str = "numpy"  # what computes the log-mel features: "numpy" (the preprocessor) or "graph"
    silence_dbfs: float | None = None  # `ko_asr.runtime.silence.is_silent`: audio below has no words
    versions: dict[str, str] = field(default_factory=dict)
    parity: dict[str, float] = field(default_factory=dict)  # figures of the gate that let it through
    format: int = FORMAT

    @property
    def frame_seconds(self) -> float:
        """Seconds an encoder frame covers."""
        return self.hop * self.subsampling / self.sample_rate

    @cached_property
    def _text_vocabulary(self) -> Vocabulary:
        return Vocabulary.from_json(self.vocabulary)

    def text_vocabulary(self) -> Vocabulary:
        """The vocabulary as decoders use it; they share one, and what it has worked out."""
        return self._text_vocabulary

    def derived(self) -> dict[str, Any]:
        """Figures that follow from the contract, written along for readers in other languages."""
        return {}

    def dump(self) -> str:
        """The contract as JSON text."""
        derived = self.derived()
        data = asdict(self) | ({"derived": derived} if derived else {})
        return json.dumps(data, ensure_ascii=False, indent=1) + "\n"

    @classmethod
    def load(cls, folder: str | Path) -> Self:
        """Read the contract of a model folder. UserError when it is missing or of another format."""
        path = Path(folder) / cls.FILE
        try:
            data = json.loads(path.read_text(encoding="utf-8"))
        except (FileNotFoundError, NotADirectoryError) as error:
            raise UserError(f"no {path}: {cls.MISSING}") from error
        except ValueError as error:
            raise UserError(f"{path} is not JSON: export the model again") from error
        found = data.get("format") if isinstance(data, dict) else None
        if found != FORMAT:
            raise UserError(f"{path} has format {found}, not {FORMAT}: export the model again")
        data.pop("derived", None)
        return cls(**data)

    def check_deployment(self, args: dict[str, str], models: Iterable[str], encoder: str) -> None:
        """Refuse ``models`` of another export, which would give wrong words, and an unfit TensorRT plan.

        ``args`` are those of a Python model's ``initialize``. RuntimeError for another export; UserError for
        the plan of ``encoder``.
        """
        repository, version = Path(args["model_repository"]).parent, args["model_version"]
        for model in models:
            folder = repository / model / version
            if not (folder / self.FILE).is_file():
                continue  # a repository on object storage is fetched model by model
            other = self.load(folder).export_id
            if other != self.export_id:
                raise RuntimeError(
                    f"{model} is of export {other}, {args['model_name']} of {self.export_id}: "
                    "fill the repository again with python export/to_triton.py"
                )
        folder = repository / encoder / version
        if self.target == "tensorrt" and folder.is_dir():
            check_plan(folder, self.onnx_sha256)
