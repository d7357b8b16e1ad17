"""A resumed run reuses its draw while settings and files are what they were."""

import os
import re

import pytest

from ceeh.data.mixture.mixture import Mixture
from ceeh.data.sources.table import Table

pytestmark = pytest.mark.filterwarnings(r"ignore:benchmark '.*' has \d+ questions, not")


@pytest.fixture
def resumed(numbered, tmp_path, capsys):
    """Writes a draw into `run`, then makes the mixture of a resumed run, perhaps with another seed."""
    path = tmp_path / "bench.jsonl"
    path.write_text('{"question": "a 1", "answer": "1 #### 1"}\n')
    parts = {"a": numbered("a", 12, 5)}
    rule = {"benchmarks": {"gsm8k": {"path": str(path)}}}
    run = tmp_path / "run"
    first = Mixture(parts, decontaminate=rule)
    first.write(run)

    def resumed(seed=0):
        mixed = Mixture(parts, seed=seed, decontaminate=rule)
        mixed.run = run
        capsys.readouterr()
        return mixed

    return first, run, resumed


def test_a_resumed_run_reuses_its_draw_without_reading_sources_or_benchmarks(
    resumed, monkeypatch, capsys
):
    first, run, again = resumed
    monkeypatch.setattr(Table, "__iter__", lambda _: pytest.fail("source or benchmark read"))
    mixed, before = again(), (run / "mixture.json").read_bytes()
    assert list(mixed) == list(first)
    assert capsys.readouterr().out == f"mixture: reusing the 5 questions of {run}/questions.jsonl\n"
    mixed.write(run)
    assert (run / "mixture.json").read_bytes() == before


@pytest.mark.parametrize(
    ("seed", "file", "content", "message"),
    [
        (1, None, b"", "a setting or file changed since"),
        (0, "a.jsonl", None, "a setting or file changed since"),
        (0, "bench.jsonl", None, "a setting or file changed since"),
        (0, "run/questions.jsonl", b"{}\n{}\n", "cannot read"),
        (0, "run/questions.jsonl", b"", "cannot read"),
        (0, "run/questions.jsonl", b"\xff", "cannot read"),
    ],
)
def test_a_draw_is_repeated_when_settings_or_files_changed(
    seed, file, content, message, resumed, tmp_path, capsys
):
    first, _, again = resumed
    if content is None:
        os.utime(tmp_path / file, (1, 1))
    elif file:
        (tmp_path / file).write_bytes(content)
    assert (list(again(seed)) == list(first)) == (seed == 0)
    out = capsys.readouterr().out
    assert re.match(rf"mixture: {message} .*drawing again\nmixture: a 5 of 12", out)


def test_metadata_that_json_would_change_is_drawn_again_on_resume(tmp_path):
    (tmp_path / "dated.py").write_text(
        "import datetime\nfrom ceeh.types import Question\nclass Dated:\n    def __iter__(self):\n"
        "        yield Question(uid='1', text='?', answer='1', metadata={'at': datetime.date(2026, 1, 1)})\n"
    )
    mixed = Mixture({"a": {"class_path": f"{tmp_path}/dated.py:Dated"}})
    mixed.write(tmp_path / "run")
    assert {file.name for file in (tmp_path / "run").iterdir()} == {
        "mixture.json",
        "decontamination.jsonl",
    }
