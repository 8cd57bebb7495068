"""Corpora as the data builder reads them: a name, splits, and a stream of utterances.

To add a corpus, write one module with one class::

    class MyCorpus(Corpus):
        name, title = "my_corpus", "My corpus"
        licence, url = "CC BY 4.0", "https://..."
        style = PLAIN                              # or KSPONSPEECH, or a style of your own in text/rules.yaml

        def __init__(self, root): ...              # find files; UserError says where it looked
        def splits(self): return ["train", "test"]
        def utterances(self, split):               # a generator: a million utterances cost no memory
            yield Utterance(id="spk1/0001", split=split, text="raw text", where="train.tsv:12",
                            source=AudioSource(path="/corpus/clips/0001.mp3"), fields={"speaker": "spk1"})

and a recipe of a few lines (`ko_asr.data.command.add_arguments` and `run_recipe`; recipes/prepare_zeroth.py
is one, docs/add-a-corpus.md a complete example). Everything else is shared: text rules, conversion to 16 kHz
mono FLAC over processes or a Ray cluster, resuming, rejections with reasons, manifests, audit, report and
data card.

Rules for readers
- Never drop a record: one that cannot be used is yielded with ``problem`` set and is rejected with it.
- ``id`` is unique in the corpus and names the FLAC file (a relative path without extension). A second
  utterance with an id already seen is rejected as a duplicate.
- Do not touch the audio: give its place. Missing and broken files are found, and rejected, by the workers.
"""

import abc
from collections.abc import Iterator
from dataclasses import dataclass, field

from ko_asr.audio.source import AudioSource
from ko_asr.text.normalizer import PLAIN


@dataclass(frozen=True, slots=True)
class Utterance:
    """One record of a corpus as delivered: its raw transcription and the place of its audio.

    ``id`` is unique in the corpus and names the FLAC file (a relative path without extension); ``where`` is
    file:line, for whoever looks it up. ``problem``, when not empty, is the reason why the record cannot be
    used: it is rejected with it and counted. ``fields`` go to the manifest as they are; speaker, gender and
    age become slices of the scores. ``labelled_seconds`` is the length that a label gives, 0 for none;
    clearly shorter audio is rejected.
    """

    id: str
    split: str
    text: str
    where: str
    source: AudioSource = field(default_factory=AudioSource)
    problem: str = ""
    fields: dict[str, str | int | float] = field(default_factory=dict)
    labelled_seconds: float = 0.0


class Corpus(abc.ABC):
    """Reader of a corpus on disk: subclass it, and every step from manifest to data card is shared.

    Class attributes describe the corpus; the audit and the data card print them. `splits` and `utterances`
    read it.
    """

    name: str = ""  # short, for file names
    title: str = ""
    licence: str = ""
    url: str = ""
    style: str = PLAIN  # transcription convention: PLAIN, KSPONSPEECH or another of text/rules.yaml
    published: dict[str, int] = {}  # noqa: RUF012 - never changed; utterances a split, by its publisher's count
    synthetic: bool = False  # stated wherever a figure is printed

    @abc.abstractmethod
    def splits(self) -> list[str]:
        """Return the splits in the order to prepare; the first is the training split."""

    @abc.abstractmethod
    def utterances(self, split: str) -> Iterator[Utterance]:
        """Yield every record of ``split``, in a stable order, also those that cannot be used."""

    def count(self, split: str) -> int | None:
        """Return the records in ``split`` when that is cheap to know (for the progress bar), else None."""
        return None
