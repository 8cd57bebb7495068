"""Words at a cut through sound: each once."""

import numpy as np
import pytest

from ko_asr.gateway.engine.pieces import FRAME_MS
from ko_asr.gateway.engine.seams import Seams
from ko_asr.recognition.window import Window
from ko_asr.runtime.results import Word

SEAM, CONTEXT = 100, 12  # frames
CUT = SEAM * FRAME_MS


def told(first: list[tuple[str, int, int]], second: list[tuple[str, int, int]]) -> list[str]:
    """The words of two pieces, whose times are in ms from the cut."""
    silence = np.zeros(0, np.float32)
    one = Window(silence, 0, 0, SEAM)
    two = Window(silence, SEAM - CONTEXT, SEAM, 2 * SEAM, pause=True)
    seams, found = Seams(), []
    for window, words in ((one, first), (two, second)):
        offset = CUT - window.start * FRAME_MS
        heard = [Word(text, begin + offset, end + offset, 1.0) for text, begin, end in words]
        found += seams.add(window, heard)
    assert [word.start_ms for word in found] == sorted(word.start_ms for word in found)
    return [word.text for word in found]


@pytest.mark.parametrize(
    ("first", "second"),
    [
        ([("가", -900, -600), ("나", 100, 400)], [("가", -880, -600), ("나", 90, 380)]),
        ([("가", -900, -600), ("나", -240, 200)], [("나", -180, 220)]),  # both say that it is theirs
        ([("가", -900, -600), ("나", -180, 220)], [("나", -240, 200)]),  # each says that it is the other's
        ([("가", -900, -600)], [("나", 90, 380)]),
    ],
)
def test_each_word_is_told_once(first, second) -> None:
    assert told(first, second) == ["가", "나"]


def test_neighbours_are_not_taken_for_one_word() -> None:
    assert told([("가", -400, -20)], [("가", -30, 300)]) == ["가", "가"]


def test_a_piece_after_a_pause_is_its_own() -> None:
    silence = np.zeros(0, np.float32)
    seams = Seams()
    seams.add(Window(silence, 0, 0, 10, pause=True), [Word("가", 100, 700, 1.0)])
    found = seams.add(Window(silence, 20, 20, 30, pause=True), [Word("나", 0, 300, 1.0)])
    assert [(word.text, word.start_ms) for word in found] == [("나", 20 * FRAME_MS)]
