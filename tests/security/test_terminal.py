"""Text from data, models and servers reaches a terminal without control characters and a page as text."""

import json
import logging
import shutil
import warnings
from contextlib import closing
from pathlib import Path

import pytest

from ceeh import compare, evaluate
from ceeh.data.prompts import load_prompts
from ceeh.data.verify.reward_function import RewardFunction
from ceeh.errors import ConfigError
from ceeh.runtime.cli import complain
from ceeh.runtime.distributed import say
from ceeh.runtime.text import escape
from ceeh.types import Question
from tests.commands import assert_refused, said
from tests.data.test_prompts import builder
from tests.data.verify.scoring import verdict
from tests.test_compare import write

# Clears the screen, renames the window, rings the bell, returns to the start of the line, reverses the
# direction of writing; the last is the one-character start of an escape sequence.
HOSTILE = "\x1b[2J\x1b]0;owned\x07\r\x08\u202e\x9b31m"
MARKUP = "<script>alert(1)</script><img src=x onerror=alert(2)>"


def test_control_characters_are_escaped_and_other_text_is_kept() -> None:
    assert escape(HOSTILE) == r"\x1b[2J\x1b]0;owned\x07\r\x08\u202e\x9b31m"
    ordinary = "Größe 3 · 4 = 12\n\tπ — 数学 ✓ \\boxed{a}"
    assert escape(ordinary) == ordinary
    assert escape("\ud800") == r"\ud800"


def test_printed_lines_and_errors_are_escaped(capfd: pytest.CaptureFixture[str]) -> None:
    say(f"uid {HOSTILE}")
    complain(ConfigError(f"uid {HOSTILE} at https://me:hunter2@host/"))
    out, err = capfd.readouterr()
    assert not {"\x1b", "\x07", "\r", "\x08", "\u202e", "\x9b"} & set(out + err)
    assert "hunter2" not in err


def test_a_reward_error_that_quotes_the_response_is_logged_escaped(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    (tmp_path / "mine.py").write_text("def reward(prompt, response): raise ValueError(response)\n")
    function = RewardFunction(f"{tmp_path / 'mine.py'}:reward")
    with caplog.at_level(logging.WARNING), closing(function):
        verdict(function, "1", HOSTILE)
    (record,) = caplog.records
    shown = logging.Formatter().format(record)
    assert r"\x1b[2J" in shown
    assert "\x1b" not in shown


@pytest.mark.parametrize("uid", [HOSTILE, "a\nb", "", " ", "\ud800", 7, None])
def test_a_uid_is_text_that_can_be_shown(uid: object) -> None:
    question = Question(uid="x", text="1+1?", answer="2")
    object.__setattr__(question, "uid", uid)  # as an unchecked custom source may
    with pytest.raises(ConfigError, match=r"^prompts\.train: the uid ") as error:
        load_prompts([question], builder(), "prompts.train")
    assert escape(str(error.value)) == str(error.value)


def test_a_hostile_file_sends_no_escapes_through_its_error_message(tmp_path: Path) -> None:
    file = tmp_path / "hostile.yaml"
    escaped = HOSTILE.encode("unicode_escape").decode()
    file.write_text(f'"{escaped}": 1\n')
    assert_refused(
        said(evaluate.main, ["starter", "--benchmarks", "starter", "--config", str(file)])
    )
    folder = tmp_path / f"m{HOSTILE[1:4]}\x1b"
    folder.mkdir()
    (folder / f"a{HOSTILE.replace('/', '')}").touch()
    assert_refused(said(evaluate.main, [str(folder), "--benchmarks", "starter"]), "is not a model")


def test_names_in_untrusted_results_are_escaped_on_screen_and_page(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(
        __import__("tests.test_compare").test_compare.TITLES,
        "sums",
        f"{HOSTILE}{MARKUP} $\\frac{{$",
    )
    write(tmp_path / "a", 0.5, 90, benchmarks=("sums",), questions=6, level=MARKUP)
    write(
        tmp_path / "b", 0.6, 60, benchmarks=("sums",), questions=6, level=MARKUP, temperature=MARKUP
    )
    label = "<b>b</b>$x$"
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)  # of glyphs that a font lacks
        answer = said(
            compare.main,
            [str(tmp_path / "a"), f"{label}={tmp_path / 'b'}", "--output", str(tmp_path / "out")],
        )
    assert answer.code == 0, answer.err
    assert not {"\x1b", "\x07", "\r", "\x9b"} & set(answer.out + answer.err)
    page = (tmp_path / "out" / "report.html").read_text()
    assert "<script>alert" not in page
    assert "<img src=x" not in page
    assert "&lt;script&gt;" in page


def test_results_of_another_shape_are_refused(tmp_path: Path) -> None:
    write(tmp_path / "a", 0.5, 90, benchmarks=("sums",), questions=6)
    whole = (tmp_path / "a" / "results.json").read_text()
    missing = (
        *("format", "name", "benchmarks", "model", "protocol", "average"),
        *(f"benchmarks.sums.{key}" for key in ("settings", "metrics", "levels", "samples")),
        *(
            f"benchmarks.sums.{key}"
            for key in ("settings.title", "metrics.accuracy", "metrics.tokens.low")
        ),
    )
    records: list[object] = [[], "x", None]
    for key in missing:
        record = node = json.loads(whole)
        *parents, last = key.split(".")
        for parent in parents:
            node = node[parent]
        del node[last]
        records.append(record)
    records += [json.loads(whole) | {key: 3} for key in ("name", "benchmarks", "model")]
    for number, record in enumerate(records):
        other = Path(shutil.copytree(tmp_path / "a", tmp_path / f"other-{number}"))
        (other / "results.json").write_text(json.dumps(record))
        given = [str(tmp_path / "a"), f"x={other}", "--output", str(tmp_path / "out")]
        answer = said(compare.main, given)
        assert_refused(answer, str(other), "is not a file of python -m ceeh.evaluate ... again")
    assert not (tmp_path / "out").exists()
