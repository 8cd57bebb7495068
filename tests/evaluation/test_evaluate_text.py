"""recipes/evaluate_text.py through its front door: figures, failures, other normalisers, and bad input."""

import json
import subprocess
import sys
from pathlib import Path

import pytest
from commands import run, sentence

ROOT = Path(__file__).parents[2]
NEMO = ROOT / ".nemo-itn" / "bin" / "python"  # made by make setup-nemo-itn
CASES = """class\tspoken\twritten
time\t세 시에 만나요\t3시에 만나요|3:00에 만나요
money\t만 오천 원이에요\t15,000원이에요

keep\t이 사람이 왔어요\t이 사람이 왔어요
keep\t만일 비가 오면\t못 맞힐 것
"""


@pytest.fixture
def cases(tmp_path) -> Path:
    (tmp_path / "cases.tsv").write_text(CASES, encoding="utf-8")
    return tmp_path / "cases.tsv"


def evaluate(*arguments: object) -> subprocess.CompletedProcess[str]:
    return run("recipes/evaluate_text.py", *arguments)


def test_a_table_by_class(cases):
    done = evaluate(cases)
    assert done.returncode == 0, done.stderr
    rows = {line.split()[0]: line.split()[1:] for line in done.stdout.splitlines()}
    assert rows["class"][:2] == ["n", "rules"] and list(rows) == ["class", "time", "money", "keep", "all"]
    assert rows["keep"] == ["2", "1", "50.0", "%", "1", "50.0", "%"]
    assert rows["all"] == ["4", "3", "75.0", "%", "3", "75.0", "%"]


def test_failures_name_their_lines_and_what_came(cases):
    done = evaluate(cases, "--failures")
    assert f"! {cases}:6 keep: 만일 비가 오면" in done.stdout
    assert "came 만일 비가 오면" in done.stdout and "not  못 맞힐 것" in done.stdout
    assert "세 시에" not in done.stdout


def test_a_style_that_nobody_accepts_may_have_the_right_value(cases):
    done = evaluate(cases, "--style", "commas=none", "--json")
    classes = json.loads(done.stdout)["rules"]["classes"]
    assert classes["money"] == {"n": 1, "exact": 0, "right": 1}
    found = json.loads(done.stdout)["rules"]["results"][1]
    assert found["written"] == "15000원이에요" and found["value_right"] and not found["exact"]


def test_any_command_is_compared(cases):
    same = f"{sys.executable} -c 'import sys; sys.stdout.write(sys.stdin.read())'"
    done = evaluate(cases, "--normaliser", "rules", "--normaliser", same, "--json")
    found = json.loads(done.stdout)
    assert found["rules"]["classes"]["all"]["exact"] == 3 and found[same]["classes"]["all"]["exact"] == 1


def test_cases_in_nvidias_format(tmp_path):
    (tmp_path / "test_cases_date.txt").write_text("삼월 오일~3월5일\n유월~6월", encoding="utf-8")
    (tmp_path / "test_cases_money.txt").write_text("만 이천 원~₩12,000\n", encoding="utf-8")
    done = evaluate("--nvidia", tmp_path, "--json")
    assert done.returncode == 0, done.stderr
    classes = json.loads(done.stdout)["rules"]["classes"]
    assert classes["money"] == {"n": 1, "exact": 0, "right": 1}
    assert classes["date"]["n"] == 2 and classes["all"]["n"] == 3


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (b"spoken\twritten\n", "cases.tsv:1: the first line is class<tab>spoken<tab>written"),
        (CASES.encode() + "keep\t하나뿐\n".encode(), "cases.tsv:7: not class, spoken and written"),
        (CASES.encode() + "keep\t둘\t\n".encode(), "cases.tsv:7: not class, spoken and written"),
        (CASES.encode() + "keep\t둘\t2||이\n".encode(), "cases.tsv:7: an empty style beside a |"),
        (CASES.encode() + "keep\t둘\t둘\n".encode("cp949"), "cases.tsv:7: not UTF-8"),
        (b"class\tspoken\twritten\n", "cases.tsv holds no case"),
        (b"", "cases.tsv holds no case"),
    ],
)
def test_a_bad_line_is_one_sentence_with_file_and_line(cases, text, message):
    cases.write_bytes(text)
    assert message in sentence(evaluate(cases))


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("--style", "commas"), "--style commas is not NAME=VALUE"),
        (("--style", "comma=none"), "style has no option 'comma'"),
        (("--normaliser", "no-such-command"), "the normaliser no-such-command does not start"),
        (("--normaliser", "head -n 1"), "wrote 1 lines for 4"),
        (("--normaliser", "false"), "the normaliser false failed (1)"),
        (("--normaliser", "sh -c 'oops"), "is no command"),
        (("--normaliser", " "), "is no command"),
    ],
)
def test_bad_arguments_are_one_sentence(cases, arguments, message):
    assert message in sentence(evaluate(cases, *arguments))


def test_missing_files_are_one_sentence(tmp_path):
    assert "no cases at" in sentence(evaluate(tmp_path / "none.tsv"))
    assert "no test_cases_*.txt in" in sentence(evaluate("--nvidia", tmp_path))
    (tmp_path / "test_cases_date.txt").write_text("삼월~3월\n오월\n", encoding="utf-8")
    assert "test_cases_date.txt:2: not spoken~written" in sentence(evaluate("--nvidia", tmp_path))
    assert evaluate().returncode == 2 and evaluate("--help").returncode == 0


@pytest.mark.skipif(not NEMO.exists(), reason="NVIDIA's normaliser is not installed: make setup-nemo-itn")
def test_nvidias_normaliser_answers_line_by_line(cases):
    done = evaluate(cases, "--normaliser", "nemo", "--json")
    assert done.returncode == 0, done.stderr
    results = json.loads(done.stdout)["nemo"]["results"]
    assert [row["spoken"] for row in results][:2] == ["세 시에 만나요", "만 오천 원이에요"]
    assert any(row["written"] != row["spoken"] for row in results)
