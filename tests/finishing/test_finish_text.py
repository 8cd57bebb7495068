"""recipes/finish_text.py by its front door: what goes in a line comes out a line, whatever it is."""

import json
import os
import signal
import subprocess
import sys
import unicodedata
from pathlib import Path

import pytest

from ko_asr.finishing.rule_book import rule_book

ROOT = Path(__file__).resolve().parents[2]
SCRIPT = ROOT / "recipes" / "finish_text.py"
DATE, DATE_WRITTEN = "이천이십사년 삼월 오일에 만 오천 원", "2024년 3월 5일에 15,000원"


def finish(data: str | bytes, *arguments: object, **how: object) -> subprocess.CompletedProcess[bytes]:
    data = data.encode() if isinstance(data, str) else data
    command = [sys.executable, SCRIPT, *map(str, arguments)]
    return subprocess.run(command, input=data, capture_output=True, timeout=300, check=False, **how)


def lines(done: subprocess.CompletedProcess[bytes]) -> list[str]:
    assert done.stdout == b"" or done.stdout.endswith(b"\n")
    return done.stdout.decode().split("\n")[:-1]


def test_lines_stay_in_step() -> None:
    done = finish(f"{DATE}\n\n  일이   많다 \r\n{DATE}")
    assert (done.returncode, done.stderr) == (0, b"")
    assert lines(done) == [DATE_WRITTEN, "", "일이 많다", DATE_WRITTEN]
    assert finish("").stdout == b""


def test_json_tells_where_each_word_came_from() -> None:
    (data,) = map(json.loads, lines(finish(f" {DATE}\n", "--json")))
    assert list(data) == ["spoken", "text", "words", "dropped", "sentences", "paragraphs"]
    assert (data["spoken"], data["text"], data["dropped"]) == (DATE, DATE_WRITTEN, [])
    assert [(word["text"], word["sources"]) for word in data["words"]] == [
        ("2024년", [0]), ("3월", [1]), ("5일에", [2]), ("15,000원", [3, 4, 5]),
    ]  # fmt: skip


def test_styles() -> None:
    spoken = "만 오천 원 사점팔 퍼센트"
    assert lines(finish(spoken, "--style", "commas=none", "--style", "percent=word")) == ["15000원 4.8퍼센트"]
    assert lines(finish(spoken, "--no-itn")) == [spoken]


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (("--style", "comma=none"), "'comma'"),
        (("--style", "commas=some"), "'some'"),
        (("--style", "commas"), "NAME=VALUE"),
        (("--json", "--paragraphs", "0"), "paragraph_max is 0"),
        (("--paragraphs",), "--paragraphs needs --json"),
        (("--reverse", "--json"), "--reverse takes no other option"),
        (("--terms", "no.txt"), "no.txt"),
        (("--masks", __file__), "is no entry"),
    ],
)
def test_bad_options_end_in_one_sentence(options: tuple[str, ...], words: str) -> None:
    done = finish(DATE, *options)
    (sentence,) = done.stderr.decode().splitlines()
    assert done.returncode == 2 and done.stdout == b"" and words in sentence


def test_lists_of_a_user(tmp_path: Path) -> None:
    (tmp_path / "terms.txt").write_text("챗지피티 -> ChatGPT\n", encoding="utf-8")
    (tmp_path / "masks.txt").write_text("# mild\n바보\n", encoding="utf-8")
    options = ("--terms", tmp_path / "terms.txt", "--masks", tmp_path / "masks.txt", "--profanity-keep-first")
    assert lines(finish("음 챗지피티는 바보", *options, "--disfluency-filter")) == ["ChatGPT는 바*"]
    assert lines(finish("야 씨발", "--profanity-keep-first")) == ["야 씨*"]
    (tmp_path / "terms.txt").write_text("챗지피티 ->\n", encoding="utf-8")
    assert b"terms.txt, line 1" in finish("네", *options).stderr
    (tmp_path / "terms.txt").write_text("챗지피티 -> ChatGPT\n", encoding="cp949")
    assert b"terms.txt, line 1" in finish("네", *options).stderr


def test_the_other_way() -> None:
    done = finish(f"{DATE_WRITTEN}\n\n오후 3시 30분\n", "--reverse")
    assert lines(done) == [DATE, "", "오후 세 시 삼십 분"] and not done.stderr


def test_a_bad_line_is_named_and_the_others_go_on() -> None:
    data = b"\n".join(
        [b"\xef\xbb\xbf" + DATE.encode(), DATE.encode("cp949"), b"\x00", b"a" * (1 << 21), DATE.encode()]
    )
    done = finish(data)
    assert done.returncode == 1 and lines(done) == [DATE_WRITTEN, "", "", "", DATE_WRITTEN]
    errors = done.stderr.decode().splitlines()
    assert [error.split(":")[1].split()[:2] for error in errors[:3]] == [["line", str(n)] for n in (2, 3, 4)]
    assert (
        "iconv" in errors[0] and "NUL" in errors[1] and "1 MiB" in errors[2] and "3 lines failed" in errors[3]
    )
    in_json = [json.loads(line) for line in lines(finish(data, "--json"))]
    assert [sorted(one)[0] for one in in_json] == ["dropped", "error", "error", "error", "dropped"]


def test_text_in_parts_of_syllables_is_composed() -> None:
    assert lines(finish(unicodedata.normalize("NFD", DATE))) == [DATE_WRITTEN]


def test_a_line_of_a_megabyte() -> None:
    plain = " ".join(["일이 많다"] * 70_000)
    done = finish(f"{DATE} {plain} {DATE}")
    assert lines(done) == [f"{DATE_WRITTEN} {plain} {DATE_WRITTEN}"] and len(done.stdout) > 980_000


def test_each_line_comes_out_as_soon_as_it_has_come_in() -> None:
    """From any folder, whatever the locale, and until it is killed."""
    environment = {**os.environ, "LC_ALL": "C", "PYTHONUTF8": "0"}
    command = [sys.executable, SCRIPT]
    with subprocess.Popen(
        command,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        cwd="/",
        env=environment,
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),  # ignored in background jobs
    ) as child:
        for _ in range(3):
            child.stdin.write(f"{DATE}\n".encode())
            child.stdin.flush()
            assert child.stdout.readline().decode() == f"{DATE_WRITTEN}\n"
        child.send_signal(signal.SIGINT)
        assert child.wait(60) == 130
        assert child.stderr.read() == b"interrupted\n" and child.stdout.read() == b""


def test_a_reader_that_leaves_is_no_error() -> None:
    with subprocess.Popen(
        [sys.executable, SCRIPT], stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE
    ) as child:
        child.stdin.write(f"{DATE}\n".encode())
        child.stdin.flush()
        child.stdout.readline()
        child.stdout.close()
        try:
            child.stdin.write(f"{DATE}\n".encode() * 10)
            child.stdin.close()
        except BrokenPipeError:
            pass
        assert child.wait(60) == 0 and child.stderr.read() == b""


def test_memory_does_not_grow_with_a_line_that_does_not_end() -> None:
    limited = f"ulimit -v 500000; head -c 1000000000 /dev/zero | {sys.executable} {SCRIPT} | wc -l"
    done = subprocess.run(["bash", "-c", limited], capture_output=True, timeout=300, check=False)
    assert done.stdout.split() == [b"1"] and b"1 MiB" in done.stderr


@pytest.mark.parametrize("closed", ["<&-", ">&-"])
def test_closed_streams_end_in_one_sentence(closed: str) -> None:
    done = subprocess.run(
        ["bash", "-c", f"{sys.executable} {SCRIPT} {closed}"], capture_output=True, check=False
    )
    assert done.returncode == 2 and done.stderr.count(b"\n") == 1 and b"is closed" in done.stderr


def test_a_full_disk_ends_in_one_sentence() -> None:
    with Path("/dev/full").open("wb") as full:
        done = subprocess.run(
            [sys.executable, SCRIPT], input=DATE.encode(), stdout=full, stderr=subprocess.PIPE, check=False
        )
    assert done.returncode == 2 and done.stderr == b"error: No space left on device\n"


def test_help_lists_the_styles_of_the_rule_book() -> None:
    text = "".join(finish("", "--help").stdout.decode().split())
    for name, option in rule_book()["options"].items():
        assert f"{name}={option['default']}|" in text
        assert all(value in text for value in option["values"])
