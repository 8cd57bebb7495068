"""Error rates of Korean transcripts: CER with and without spaces, WER, sWER, and onset, nucleus and coda.

A figure without its rules is worth nothing, so every score carries the `Rules` it was counted with. Counts
are substitutions, deletions, insertions and reference length for each utterance; rates are sums over a set of
utterances, never means of rates. numpy and rapidfuzz only.

* CER, WER: edit distance of characters or words over the reference's length (the same S, D and I as jiwer).
* sWER (space-normalised WER): Korean spacing is partly free, so characters are aligned without spaces, each
  hypothesis character that is right takes the reference's spacing, and WER is counted on the result. This is
  the definition of ETRI's script in ESPnet (egs2/ksponspeech/asr1/local/get_space_normalized_hyps.py),
  its tie rule included; the paper is Bang et al., Applied Sciences 10(19), 2020.
* Onset, nucleus, coda: syllables are aligned so that the fewest jamo differ. A coda error (받침 오류) is a
  coda that is wrong, missing or added, over the number of codas in the reference.
"""

import functools
import math
import unicodedata
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import overload

import numpy as np

from ko_asr.evaluation.alignment import Alignment, align, code_points, jamo_parts
from ko_asr.runtime.hangul import CODAS, NUCLEI, ONSETS, to_compat
from ko_asr.text.unicode_forms import fold_forms

ROLES = ("onset", "nucleus", "coda")
METRICS = ("cer", "cer_no_spaces", "wer", "swer", "jamo", *ROLES)
# .,?! are the only marks in KsponSpeech's rules; the rest is what other corpora and systems write
_MARKS = ".,?!~…·‧・:;\"'`“”‘’«»<>〈〉《》「」『』()[]{}-–—_。、!?"
_MORE_MARKS = "ㆍ•‥∙⋅･〜∼‐‑‒―【】〔〕′″‹›"  # the same marks as other keyboards and systems write them
_PLAIN = "this project: punctuation, case, width and invisible characters ignored, spaces counted"
_SPEECHBRAIN = "SpeechBrain recipes/KsponSpeech: spaces counted, no punctuation"


@functools.cache
def _removal(characters: str) -> dict[int, None]:
    return dict.fromkeys(map(ord, characters))


@dataclass(frozen=True)
class Rules:
    """Rules that make two texts comparable before they are counted; applied to both sides alike.

    Both become NFC with single spaces always. ``punctuation`` lists the characters that are taken out,
    ``fold_case`` compares Latin without case, and ``spaces`` says whether this profile's headline CER counts
    spaces (both figures are always computed). ``source`` says whose rules these are. ``fold_forms`` first
    takes out zero-width characters and soft hyphens and writes full-width forms and loose jamo as the text
    rules do (`ko_asr.text.unicode_forms`); the published rules of other toolkits do not.
    """

    name: str
    spaces: bool
    punctuation: str
    fold_case: bool
    source: str
    fold_forms: bool = False

    def apply(self, text: str) -> str:
        """The text as it is compared.

        >>> PROFILES["plain"].apply(" 아,  OK?  그래. "), PROFILES["icefall"].apply("아,  OK? ")
        ('아 ok 그래', '아, OK?')
        """
        text = fold_forms(text) if self.fold_forms else unicodedata.normalize("NFC", text)
        if self.punctuation:
            text = text.translate(_removal(self.punctuation))
        return " ".join((text.casefold() if self.fold_case else text).split())


PROFILES = {
    rules.name: rules
    for rules in (
        Rules("plain", True, _MARKS + _MORE_MARKS, True, _PLAIN, fold_forms=True),
        Rules("espnet", True, ".,?!", False, "ESPnet egs2/ksponspeech: spaces counted, no punctuation"),
        Rules("speechbrain", True, "+*/.?!,", False, _SPEECHBRAIN),
        Rules("icefall", False, "", False, "icefall egs/ksponspeech: spaces removed, punctuation kept"),
        Rules("kospeech", False, "_", False, "KoSpeech metrics.py: spaces removed, punctuation kept"),
        Rules("rtzr", False, _MARKS, True, "the RTZR comparison table: spaces and punctuation removed"),
        Rules("strict", True, "", False, "every character counts"),
    )
}


@dataclass(frozen=True)
class Counts:
    """Substitutions, deletions, insertions and the number of reference units."""

    substitutions: int
    deletions: int
    insertions: int
    reference: int

    @property
    def errors(self) -> int:
        return self.substitutions + self.deletions + self.insertions

    @property
    def rate(self) -> float:
        """Errors over reference units: 0 when nothing is wrong, infinity when there is no reference."""
        if self.reference:
            return self.errors / self.reference
        return math.inf if self.errors else 0.0

    def __add__(self, other: "Counts") -> "Counts":
        return Counts(*(a + b for a, b in zip(self.as_tuple(), other.as_tuple(), strict=True)))

    def as_tuple(self) -> tuple[int, int, int, int]:
        return self.substitutions, self.deletions, self.insertions, self.reference


def _edit_counts(reference: Sequence, hypothesis: Sequence) -> tuple[int, int, int, int]:
    from rapidfuzz.distance import Levenshtein

    if reference == hypothesis:
        return 0, 0, 0, len(reference)
    # insertions - deletions is fixed by the lengths, so one of the three counts gives the others
    distance = Levenshtein.editops(reference, hypothesis)
    inserted = sum(op[0] == "insert" for op in distance.as_list())
    deleted = inserted + len(reference) - len(hypothesis)
    return len(distance) - inserted - deleted, deleted, inserted, len(reference)


def character_counts(reference: str, hypothesis: str, spaces: bool = True) -> Counts:
    """Character errors of one utterance as the texts stand; without ``spaces`` both lose theirs first.

    >>> character_counts("가 나다", "가나 닫")
    Counts(substitutions=1, deletions=1, insertions=1, reference=4)
    >>> character_counts("가 나다", "가나 닫", spaces=False)
    Counts(substitutions=1, deletions=0, insertions=0, reference=3)
    """
    if not spaces:
        reference, hypothesis = reference.replace(" ", ""), hypothesis.replace(" ", "")
    return Counts(*_edit_counts(reference, hypothesis))


def word_counts(reference: str, hypothesis: str) -> Counts:
    """Word (어절) errors of one utterance.

    >>> word_counts("오늘 날씨 좋다", "오늘날씨 좋다").errors
    2
    """
    return Counts(*_edit_counts(reference.split(), hypothesis.split()))


def _word_starts(texts: Sequence[str]) -> tuple[list[str], np.ndarray]:
    """Texts without spaces, and for each character of their concatenation whether a word starts there."""
    codes, offsets = code_points(texts)
    is_space = codes == ord(" ")
    starts = np.ones(len(codes), bool)
    starts[1:] = is_space[:-1]
    starts[offsets[:-1][np.diff(offsets) > 0]] = True
    return [text.replace(" ", "") for text in texts], starts[~is_space]


def normalise_spacing(references: Sequence[str], hypotheses: Sequence[str]) -> list[str]:
    """Give each hypothesis the reference's spacing wherever its characters are right (see sWER above).

    Texts must have single spaces, as `Rules.apply` leaves them.

    >>> normalise_spacing(["할 수 있어", "나는 간다"], ["할수있어", "나 는칸다"])
    ['할 수 있어', '나는칸다']
    """
    bare_references, reference_starts = _word_starts(references)
    bare, starts = _word_starts(hypotheses)
    return _respaced(bare_references, reference_starts, bare, starts)


def _respaced(
    bare_references: list[str], reference_starts: np.ndarray, bare: list[str], starts: np.ndarray
) -> list[str]:
    alignment = align(bare_references, bare)
    both = (alignment.ref >= 0) & (alignment.hyp >= 0)
    ref, hyp = alignment.ref[both], alignment.hyp[both]
    codes, offsets = code_points(bare)
    right = code_points(bare_references)[0][ref] == codes[hyp]
    starts = starts.copy()
    starts[hyp[right]] = reference_starts[ref[right]]
    spaced = np.full(len(codes) + int(starts.sum()), ord(" "), np.uint32)
    position = np.arange(len(codes)) + np.cumsum(starts)
    spaced[position] = codes
    text = spaced.tobytes().decode("utf-32-le", "surrogatepass")
    shifted = np.concatenate([[0], np.cumsum(starts)])[offsets] + offsets
    return [text[a:b].strip() for a, b in zip(shifted[:-1].tolist(), shifted[1:].tolist(), strict=True)]


@dataclass(frozen=True)
class JamoErrors:
    """Jamo errors of many utterances: ``counts[role]`` is int64 [utterances, 4] (S, D, I, reference)."""

    counts: dict[str, np.ndarray]
    confusions: Counter = field(default_factory=Counter)


def jamo_errors(references: Sequence[str], hypotheses: Sequence[str]) -> JamoErrors:
    """Onset, nucleus and coda errors by syllables aligned at the fewest differing jamo; spaces do not count.

    ``confusions`` maps (role, reference jamo, hypothesis jamo), written as compatibility jamo, to its number;
    "" stands for none. Characters that are no syllables take part in the alignment and have no jamo.

    >>> errors = jamo_errors(["밖에 간다"], ["박에 가"])
    >>> errors.counts["coda"].tolist(), sorted(errors.confusions)
    ([[1, 1, 0, 2]], [('coda', 'ㄲ', 'ㄱ'), ('coda', 'ㄴ', ''), ('nucleus', 'ㅏ', ''), ('onset', 'ㄷ', '')])
    """
    references = [text.replace(" ", "") for text in references]
    hypotheses = [text.replace(" ", "") for text in hypotheses]
    alignment = align(references, hypotheses, by_jamo=True)
    ref = _aligned_parts(references, alignment.ref)
    hyp = _aligned_parts(hypotheses, alignment.hyp)
    counts = {
        role: _role_counts(ref[:, k], hyp[:, k], alignment, len(references)) for k, role in enumerate(ROLES)
    }
    return JamoErrors(counts, _jamo_confusions(ref, hyp))


def _aligned_parts(texts: Sequence[str], positions: np.ndarray) -> np.ndarray:
    parts = np.vstack([jamo_parts(code_points(texts)[0]), np.zeros((1, 3), np.uint8)])
    return parts[positions]  # -1, a gap, takes the last row: no jamo


def _role_counts(ref: np.ndarray, hyp: np.ndarray, alignment: Alignment, utterances: int) -> np.ndarray:
    wrong = ref != hyp
    kinds = (wrong & (ref > 0) & (hyp > 0), wrong & (hyp == 0), wrong & (ref == 0), ref > 0)
    return np.stack([np.bincount(alignment.pair[kind], minlength=utterances) for kind in kinds], axis=1)


def _jamo_confusions(ref: np.ndarray, hyp: np.ndarray) -> Counter:
    confusions: Counter = Counter()
    for k, (role, letters) in enumerate(zip(ROLES, (ONSETS, NUCLEI, CODAS), strict=True)):
        names = ["", *to_compat(letters)]
        wrong = ref[:, k] != hyp[:, k]
        pairs, numbers = np.unique(np.stack([ref[wrong, k], hyp[wrong, k]]), axis=1, return_counts=True)
        for (a, b), number in zip(pairs.T.tolist(), numbers.tolist(), strict=True):
            confusions[role, names[a], names[b]] = number
    return confusions


def word_confusions(references: Sequence[str], hypotheses: Sequence[str]) -> Counter:
    """Count of each confused pair: (reference word, hypothesis word) -> number; "" stands for none.

    >>> word_confusions(["오늘 날씨 좋다"], ["오늘 날시"]) == {("날씨", "날시"): 1, ("좋다", ""): 1}
    True
    """
    from rapidfuzz.distance import Levenshtein

    confusions: Counter = Counter()
    for reference, hypothesis in zip(references, hypotheses, strict=True):
        if reference == hypothesis:
            continue
        left, right = reference.split(), hypothesis.split()
        for kind, i, j in Levenshtein.editops(left, right).as_list():
            said = "" if kind == "insert" else left[int(i)]
            heard = "" if kind == "delete" else right[int(j)]
            confusions[said, heard] += 1
    return confusions


@dataclass(frozen=True)
class Scores:
    """Scores of a set of utterances under one profile.

    ``counts[metric]`` is int64 [utterances, 4]: substitutions, deletions, insertions, reference units.
    """

    rules: Rules
    counts: dict[str, np.ndarray]
    jamo_confusions: Counter
    word_confusions: Counter

    def total(self, metric: str, which: np.ndarray | slice = slice(None)) -> Counts:
        """Summed counts of ``metric`` (one of METRICS), of the utterances ``which`` selects."""
        return Counts(*self.counts[metric][which].sum(0).tolist())

    @property
    def cer(self) -> float:
        """Character error rate with spaces, a fraction of the reference's characters."""
        return self.total("cer").rate

    @property
    def wer(self) -> float:
        """Word (어절) error rate, a fraction of the reference's words."""
        return self.total("wer").rate

    def headline(self) -> str:
        """The metric that this profile's published CER is: with spaces or without."""
        return "cer" if self.rules.spaces else "cer_no_spaces"

    def errors(self, metric: str) -> np.ndarray:
        """Errors of each utterance, int64 [utterances]."""
        return self.counts[metric][:, :3].sum(1)

    def interval(
        self, metric: str, samples: int = 1000, seed: int = 0, groups: Sequence | None = None
    ) -> tuple[float, float]:
        """The 95 % bootstrap interval of the rate, see `bootstrap_interval`."""
        return bootstrap_interval(self.errors(metric), self.counts[metric][:, 3], samples, seed, groups)


@overload
def score(reference: str, hypothesis: str, rules: Rules | str = "plain") -> Scores: ...


@overload
def score(reference: Sequence[str], hypothesis: Sequence[str], rules: Rules | str = "plain") -> Scores: ...


def score(
    reference: str | Sequence[str], hypothesis: str | Sequence[str], rules: Rules | str = "plain"
) -> Scores:
    """Score what was heard against what was said, under ``rules``: a profile or its name.

    Two strings are one utterance; of two sequences each text is an utterance. Raises ValueError when the
    numbers of texts differ or the profile is unknown, TypeError for a string against a sequence.

    >>> result = score(["할 수 있어.", "네"], ["할수 있어", "네"])
    >>> [(m, round(result.total(m).rate, 3)) for m in ("cer", "cer_no_spaces", "wer", "swer")]
    [('cer', 0.143), ('cer_no_spaces', 0.0), ('wer', 0.5), ('swer', 0.0)]
    >>> result = score("할 수 있어.", "할수 있어")
    >>> round(result.cer, 3), round(result.wer, 3)
    (0.167, 0.667)
    """
    references, hypotheses = _utterances(reference, hypothesis)
    if isinstance(rules, str):
        if rules not in PROFILES:
            raise ValueError(f"unknown scoring profile {rules!r}; choose one of {', '.join(PROFILES)}")
        rules = PROFILES[rules]
    if len(references) != len(hypotheses):
        raise ValueError(f"{len(references)} references but {len(hypotheses)} hypotheses")
    return _scores(
        [rules.apply(text) for text in references], [rules.apply(text) for text in hypotheses], rules
    )


def _utterances(
    reference: str | Sequence[str], hypothesis: str | Sequence[str]
) -> tuple[Sequence[str], Sequence[str]]:
    """Both sides as sequences of utterances; a string is one."""
    if isinstance(reference, str) != isinstance(hypothesis, str):
        raise TypeError("one text against a sequence of texts: give two strings or two sequences")
    if isinstance(reference, str) and isinstance(hypothesis, str):
        return [reference], [hypothesis]
    return reference, hypothesis


def _scores(refs: list[str], hyps: list[str], rules: Rules) -> Scores:
    """All counts of texts that ``rules`` have been applied to."""
    bare_refs, ref_starts = _word_starts(refs)
    bare_hyps, hyp_starts = _word_starts(hyps)
    respaced = _respaced(bare_refs, ref_starts, bare_hyps, hyp_starts)
    jamo = jamo_errors(bare_refs, bare_hyps)
    counts = {
        "cer": _count_all(refs, hyps),
        "cer_no_spaces": _count_all(bare_refs, bare_hyps),
        "wer": _count_all([r.split() for r in refs], [h.split() for h in hyps]),
        "swer": _count_all([r.split() for r in refs], [h.split() for h in respaced]),
        "jamo": np.sum([jamo.counts[role] for role in ROLES], axis=0),
        **jamo.counts,
    }
    return Scores(rules, counts, jamo.confusions, word_confusions(refs, hyps))


def headline_counts(references: Sequence[str], hypotheses: Sequence[str], rules: Rules) -> Counts:
    """The CER that a profile publishes, over all utterances, and nothing else: quick enough for them all."""
    total = np.zeros(4, np.int64)
    for reference, hypothesis in zip(references, hypotheses, strict=True):
        counts = character_counts(rules.apply(reference), rules.apply(hypothesis), rules.spaces)
        total += counts.as_tuple()
    return Counts(*total.tolist())


def _count_all(references: Sequence[Sequence], hypotheses: Sequence[Sequence]) -> np.ndarray:
    rows = [_edit_counts(r, h) for r, h in zip(references, hypotheses, strict=True)]
    return np.array(rows, np.int64).reshape(-1, 4)


def _by_group(values: np.ndarray, groups: Sequence | None) -> np.ndarray:
    if groups is None:
        return values
    _, index = np.unique(np.asarray(groups, dtype=str), return_inverse=True)
    return np.bincount(index, weights=values)


def _resampled_sums(columns: Sequence[np.ndarray], samples: int, seed: int) -> np.ndarray:
    """Sums of each column over bootstrap samples of the rows, float64 [columns, samples]."""
    rng = np.random.default_rng(seed)
    stacked = np.stack([np.asarray(column, np.float64) for column in columns])
    rows = stacked.shape[1]
    sums = np.empty((len(stacked), samples))
    # One sample at a time: 620,000 utterances x 1,000 samples would not fit in memory.
    for k in range(samples):
        weights = np.bincount(rng.integers(0, rows, rows), minlength=rows)
        sums[:, k] = stacked @ weights
    return sums


def bootstrap_interval(
    errors: np.ndarray,
    reference: np.ndarray,
    samples: int = 1000,
    seed: int = 0,
    groups: Sequence | None = None,
    level: float = 0.95,
) -> tuple[float, float]:
    """Percentile bootstrap interval of an error rate, resampling utterances (Bisani and Ney, ICASSP 2004).

    ``errors`` and ``reference`` are [utterances]. With ``groups`` (a speaker for each utterance, say) whole
    groups are drawn, because utterances of one speaker are not independent. (nan, nan) without any reference.

    >>> bootstrap_interval(np.array([1, 1, 1]), np.array([10, 10, 10]))
    (0.1, 0.1)
    """
    errors, reference = _by_group(np.asarray(errors), groups), _by_group(np.asarray(reference), groups)
    if not reference.sum():
        return math.nan, math.nan
    wrong, total = _resampled_sums([errors, reference], samples, seed)
    rates = wrong[total > 0] / total[total > 0]
    low, high = np.quantile(rates, [(1 - level) / 2, (1 + level) / 2])
    return float(low), float(high)


@dataclass(frozen=True)
class PairedResult:
    """Difference of two systems' error rates (first minus second) on the same utterances.

    ``low`` and ``high`` bound 95 % of the bootstrap; ``p_value`` is two-sided; ``first_better`` is the share
    of samples in which the first system has the lower rate.
    """

    difference: float
    low: float
    high: float
    p_value: float
    first_better: float


def paired_bootstrap(
    errors_a: np.ndarray,
    errors_b: np.ndarray,
    reference: np.ndarray,
    samples: int = 10_000,
    seed: int = 0,
    groups: Sequence | None = None,
) -> PairedResult:
    """Test whether two systems differ on the same utterances: both are scored on the same bootstrap samples.

    Arrays are [utterances]. Ties count half, so two equal systems give p = 1. ValueError without a reference.

    >>> paired_bootstrap(np.array([1, 2, 1]), np.array([1, 2, 1]), np.array([9, 9, 9])).p_value
    1.0
    """
    difference = _by_group(np.asarray(errors_a) - np.asarray(errors_b), groups)
    reference = _by_group(np.asarray(reference), groups)
    if not reference.sum():
        raise ValueError("no reference units to compare on")
    wrong, total = _resampled_sums([difference, reference], samples, seed)
    rates = wrong / np.maximum(total, 1)
    first_better = float(np.mean(rates < 0) + np.mean(rates == 0) / 2)
    # add-one smoothing: a finite bootstrap never shows that p is 0
    tail = (min(first_better, 1 - first_better) * samples + 1) / (samples + 1)
    low, high = np.quantile(rates, [0.025, 0.975])
    return PairedResult(
        float(difference.sum() / reference.sum()), float(low), float(high), min(1.0, 2 * tail), first_better
    )
