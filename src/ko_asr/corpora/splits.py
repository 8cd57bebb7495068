"""Names of splits, as tables and folders spell them: train, dev, test, and parts of them.

What is not clearly for training is never trained on: a name that says nothing is refused by whoever reads it.
"""

import re
import unicodedata
from collections.abc import Iterable

from ko_asr.errors import UserError

_WORDS = {
    "train": ("train", "training", "학습", "훈련"),
    "dev": ("dev", "development", "devel", "valid", "validation", "val", "검증"),
    "test": ("test", "testing", "eval", "evaluation", "평가", "테스트"),
}
_KINDS = {word: kind for kind, words in _WORDS.items() for word in words}
_ADDITIONS = "set|data|split|용|셋|세트|집합|자료|데이터|데이터셋|데이터세트"  # which say nothing more
_TOKEN = re.compile(rf"(?:({'|'.join(sorted(_KINDS, key=len, reverse=True))})(?:{_ADDITIONS})*|{_ADDITIONS})")
_KEPT_BACK = re.compile(r"(?:^|[\W\d_])(?:held?[\W_]*out|hold[\W_]*out)(?:$|[\W\d_])")
_NEGATIONS = {"no", "not", "non", "excluded", "unused", "unseen"}
KNOWN = "train, dev (valid, 검증) and test (eval, 평가), also as test_clean and the like"


def split_named(name: str) -> str:
    """Return the split that ``name`` means, "" when it names none.

    A known word is train, dev or test, also in Korean; with more beside it, a name is a split of its own,
    except that parts of the training data are train. Raises ValueError for a name that says two things, or
    that speaks of data kept back.

    >>> [split_named(name) for name in ("Training", "검증", "eval", "test_clean", "dev-other", "train_960")]
    ['train', 'dev', 'test', 'test_clean', 'dev_other', 'train']
    >>> split_named("speaker 7")
    ''
    """
    name = unicodedata.normalize("NFC", name).strip().lower()
    tokens = _tokens(name)
    kinds = _kinds_in(tokens)
    if len(kinds) > 1 or (kinds and _NEGATIONS.intersection(tokens)) or _KEPT_BACK.search(name):
        raise ValueError(f"'{name}' is not clearly train, dev or test")
    if not kinds:
        return ""
    kind = kinds.pop()
    return (
        kind
        if kind == "train" or all(map(_TOKEN.fullmatch, tokens))
        else re.sub(r"[\W_]+", "_", name).strip("_")
    )


def _tokens(name: str) -> list[str]:
    return re.findall(r"[^\W\d_]+|\d+", unicodedata.normalize("NFC", name).lower())


def _kinds_in(tokens: Iterable[str]) -> set[str]:
    matches = map(_TOKEN.fullmatch, tokens)
    return {_KINDS[match.group(1)] for match in matches if match and match.group(1)}


def kind_named(name: str) -> str:
    """Return train, dev or test, for a part of one as well; "" for a name that says none, or not clearly.

    >>> [kind_named(name) for name in ("02.평가", "test_clean", "room 7")]
    ['test', 'test', '']
    """
    kinds = _kinds_in(_tokens(name))
    return kinds.pop() if len(kinds) == 1 else ""


def in_order(splits: Iterable[str]) -> list[str]:
    """Return split names in the order to prepare: train, dev and its parts, test and its parts."""
    kinds = list(_WORDS)
    return sorted(splits, key=lambda s: (kinds.index(kind_named(s) or "test"), s not in kinds, s))


def refused(name: str, where: str) -> UserError:
    """Return the error for a split name in a table that means none of the known ones."""
    return UserError(f"{where}: the split '{name}' is none of {KNOWN}: rename it")
