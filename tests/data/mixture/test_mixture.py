"""Mixtures: seeded draws, no duplicates, no benchmark questions, counts that add up, reuse, the command."""

import json
import os
import re
from dataclasses import replace
from pathlib import Path

import pytest

from ceeh.config.component import Component
from ceeh.config.settings import load
from ceeh.data.benchmarks import benchmark_files
from ceeh.data.mixture.__main__ import main
from ceeh.data.mixture.mixture import Mixture
from ceeh.data.sources.table import Table
from ceeh.errors import ConfigError
from tests.data.tables import fixture, rows

DATA = Path(__file__).parents[3] / "configs" / "data"
BENCHMARKS = ("gsm8k", "math500", "aime24", "aime25", "amc23", "olympiad", "minerva")
# Per training source: how the first question of the fixture begins, and the answers.
READ = {
    "deepmath": (r"Evaluate the limit: \[", ["5", "Yes", r"\dfrac{1}{3}", "21"]),
    "dapo": ("Let $D$ be the midpoint", ["17", "5", "3", "16"]),
    "deepscaler": (r"The operation $a \star b$", ["10", "96", r"9\pi"]),
}
PLACE = "prompts.train.init_args"
LOCAL = [f"{PLACE}.decontaminate.benchmarks.{name}.path={fixture(name)}" for name in BENCHMARKS]
PAPER = [
    *LOCAL,
    *(f"{PLACE}.parts.{name}.init_args.path={fixture(name)}" for name in ("deepmath", "dapo")),
    f"{PLACE}.parts.deepmath.questions=2",
    f"{PLACE}.parts.dapo.questions=2",
]

pytestmark = [
    pytest.mark.filterwarnings(r"ignore:benchmark '.*' has \d+ questions, not"),
    pytest.mark.filterwarnings("ignore:.* dropped 1 of 5 rows that repeat an earlier question"),
]


def mixture(config: str, *overrides: str) -> Mixture:
    return load([DATA / f"{config}.yaml"], overrides).prompts.train.build("prompts.train")


@pytest.fixture
def numbered(tmp_path):
    """A part of `count` questions that share nothing, optionally in another order of rows."""

    def numbered(name, count, questions, *, backwards=False, word=None):
        lines = [
            json.dumps({"question": f"{word or name} {i}?", "answer": str(i)}) for i in range(count)
        ]
        path = tmp_path / f"{name}{'-backwards' * backwards}.jsonl"
        path.write_text("\n".join(lines[::-1] if backwards else lines))
        init_args = {"path": str(path)}
        return {"class_path": "ceeh.data.sources.Table", "init_args": init_args} | (
            {"questions": questions} if questions else {}
        )

    return numbered


def uids(mixed):
    return [question.uid for question in mixed]


def parts_of(mixed):
    return mixed.draw.report["parts"]


@pytest.mark.parametrize("name", READ)
def test_every_training_source_is_read_through_its_columns(name):
    path = f"{PLACE}.parts.{name}.init_args.path={fixture(name)}"
    questions = list(mixture(name, path).sources[name])
    begins, answers = READ[name]
    assert questions[0].text.startswith(begins)
    assert [question.answer for question in questions] == answers
    if name == "deepmath":
        assert [q.metadata["difficulty"] for q in questions] == [4.5, 6.0, 5.0, 5.5]


@pytest.mark.parametrize("file", sorted(DATA.glob("*.yaml")), ids=lambda file: file.stem)
def test_the_overlays_replace_the_training_source_alone(file):
    files = [DATA.parent / "ceeh.yaml", DATA.parent / "math.yaml"]
    before, after = load(files), load([*files, file])
    assert set(after.prompts.train.init_args) == {"seed", "parts", "decontaminate"}
    benchmarks = after.prompts.train.init_args["decontaminate"]["benchmarks"]
    assert set(benchmarks) == {*BENCHMARKS} == {*benchmark_files()} - {"starter", "legs"}
    assert replace(after, prompts=before.prompts) == before
    assert after.prompts.held_out == before.prompts.held_out


@pytest.mark.parametrize("name", READ)
def test_a_wrong_column_names_those_there_are(name):
    path = f"{PLACE}.parts.{name}.init_args.path={fixture(name)}"
    mixed = mixture(name, *LOCAL, path, f"{PLACE}.parts.{name}.init_args.question=q")
    there = next(iter(rows(name)[0]))
    with pytest.raises(ConfigError, match=f"^parts.{name}: .* no column 'q'; it has: {there}"):
        list(mixed)


def test_the_papers_mixture_leaves_out_duplicates_and_benchmark_questions(capsys):
    mixed = mixture("paper_mixture", *PAPER)
    questions = list(mixed)
    # DeepMath's five minus a duplicate and one of AIME 2025; DAPO's four minus one that DeepMath
    # has and one of AIME 2025 in capitals.
    counted = ("read", "duplicates", "contaminated", "clean", "drawn")
    assert [[part[name] for name in counted] for part in parts_of(mixed)] == [
        [5, 1, {"aime25": 1}, 3, 2],
        [4, 1, {"aime25": 1}, 2, 2],
    ]
    assert sorted(q.answer for q in questions if q.metadata["part"] == "dapo") == ["16", "17"]
    assert [q.metadata["part"] for q in questions] == ["deepmath"] * 2 + ["dapo"] * 2
    assert all(q.uid.startswith(f"{q.metadata['part']}/") for q in questions)
    assert capsys.readouterr().out == (
        "mixture: deepmath 2 of 5 (1 duplicates, 1 contaminated: aime25 1);"
        " dapo 2 of 4 (1 duplicates, 1 contaminated: aime25 1);"
        f" against {', '.join(BENCHMARKS)} by 8-grams over 50% of a question\n"
    )
    assert uids(mixed) == uids(questions)
    assert capsys.readouterr().out == ""  # drawn once


def test_the_draw_depends_on_the_seed_and_not_on_the_order_of_rows(numbered):
    one = uids(Mixture({"a": numbered("a", 60, 20)}))
    assert one == uids(Mixture({"a": numbered("a", 60, 20, backwards=True)}))
    assert one != uids(Mixture({"a": numbered("a", 60, 20)}, seed=1))
    # A fair draw of 20 out of 60 keeps 20 / 3 of another on average.
    other = uids(Mixture({"a": numbered("a", 60, 20)}, seed=1))
    assert len(set(one) & set(other)) < 15


def test_another_part_does_not_change_the_draw_of_a_part(numbered):
    alone = uids(Mixture({"a": numbered("a", 30, 9)}))
    both = uids(Mixture({"b": numbered("b", 50, 5), "a": numbered("a", 30, 9)}))
    assert both[5:] == alone


def test_a_question_of_two_parts_belongs_to_the_first(numbered):
    parts = {"a": numbered("a", 6, 2, word="w"), "b": numbered("b", 10, None, word=" w ")}
    mixed = Mixture(parts)
    texts = [question.squeezed for question in mixed]
    assert len(texts) == len(set(texts)) == 2 + 4
    assert (parts_of(mixed)[1]["duplicates"], parts_of(mixed)[1]["drawn"]) == (6, 4)


def test_duplicates_and_contaminated_questions_are_dropped_before_the_draw(numbered, tmp_path):
    path = tmp_path / "bench.jsonl"
    # Ten of twelve questions are short ones of the benchmark: the two left are drawn whatever the seed.
    path.write_text(
        "".join(f'{{"question": "A {i} !", "answer": "1 #### 1"}}\n' for i in range(10))
    )
    rule = {"benchmarks": {"gsm8k": {"path": str(path)}}}
    for seed in range(3):
        mixed = Mixture({"a": numbered("a", 12, 2)}, seed=seed, decontaminate=rule)
        assert {question.text for question in mixed} == {"a 10?", "a 11?"}
        assert parts_of(mixed)[0]["contaminated"] == {"gsm8k": 10}
    with pytest.raises(
        ConfigError,
        match=r"parts.a.questions is 3, but only 2 are left: a 2 of 12 \(0 duplicates, 10"
        r" contaminated: gsm8k 10\); lower it",
    ):
        list(Mixture({"a": numbered("a", 12, 3)}, decontaminate=rule))


def test_without_benchmarks_the_line_says_so(numbered, capsys):
    list(Mixture({"a": numbered("a", 3, None)}))
    assert capsys.readouterr().out == (
        "mixture: a 3 of 3 (0 duplicates, 0 contaminated); not compared with any benchmark\n"
    )


def test_a_benchmark_that_cannot_be_read_is_never_skipped(numbered, monkeypatch):
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    mixed = Mixture({"a": numbered("a", 3, 1)}, decontaminate={"benchmarks": {"aime24": {}}})
    with pytest.raises(
        ConfigError,
        match=r"^decontaminate.benchmarks.aime24: the data set '.*' is not in the cache.*the"
        r" path of a local copy: .*a key of decontaminate.benchmarks.aime24, such as path, replaces",
    ):
        list(mixed)


def test_a_benchmark_copy_may_lack_the_level_column(numbered, tmp_path):
    path = tmp_path / "math.jsonl"
    path.write_text('{"problem": "a 1", "answer": "1"}')
    given = {"path": str(path), "uid": None, "metadata": []}
    rule = {"benchmarks": {"math500": given}}
    assert len(list(Mixture({"a": numbered("a", 3, None)}, decontaminate=rule))) == 2


TABLE = {"class_path": "ceeh.data.sources.Table", "init_args": {"path": "a/b"}}


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"parts": {}}, "parts must name at least one source"),
        ({"parts": {"a": 3}}, "parts.a must be a mapping, got 3"),
        (
            {"parts": {"a": TABLE | {"question": 3}}},
            r"parts.a.question is not a setting; did you mean parts.a.questions\?",
        ),
        (
            {"parts": {"a": TABLE | {"questions": 0}}},
            "parts.a.questions must be at least 1, or null, got 0",
        ),
        ({"parts": {"a": {"questions": 1}}}, "parts.a.class_path must be package.module.Class"),
        (
            {"decontaminate": {}},
            "decontaminate.benchmarks must be a mapping of benchmarks, at least",
        ),
        ({"decontaminate": {"benchmarks": ["gsm8k"]}}, "decontaminate.benchmarks"),
        (
            {"decontaminate": {"benchmarks": {"gsm8k": {}}, "coverage": 1.0}},
            r"decontaminate.coverage must be in \[0, 1\), got 1.0",
        ),
        (
            {"decontaminate": {"benchmarks": {"x": {}}, "ngram": 1}},
            "ngram must be at least 2, got 1",
        ),
    ],
)
def test_invalid_settings_are_refused_with_their_path(arguments, message):
    component = Component("ceeh.data.mixture.Mixture", {"parts": {"a": TABLE}} | arguments)
    with pytest.raises(
        ConfigError, match=rf"^prompts.train \(ceeh.data.mixture.Mixture\): .*{message}"
    ):
        component.build("prompts.train")


def test_the_command_writes_what_the_mixture_draws_and_what_it_left_out(tmp_path, capsys):
    out = tmp_path / "new" / "train.jsonl"
    assert main(["--config", str(DATA / "paper_mixture.yaml"), "--out", str(out), *PAPER]) == 0
    drawn = list(mixture("paper_mixture", *PAPER))
    again = Table(str(out), uid="uid", metadata=["part"])
    assert [(q.uid, q.text, q.answer) for q in again] == [(q.uid, q.text, q.answer) for q in drawn]
    assert f"wrote 4 questions to {out}" in capsys.readouterr().out
    summary = json.loads((out.parent / "mixture.json").read_text())
    assert (summary["seed"], summary["ngram"], summary["coverage"]) == (0, 8, 0.5)
    assert summary["benchmarks"]["gsm8k"] == 4
    assert [part["contaminated"] for part in summary["parts"]] == [{"aime25": 1}, {"aime25": 1}]
    lines = (out.parent / "decontamination.jsonl").read_text().splitlines()
    first, second = map(json.loads, lines)
    # Eight of the fifteen words of AIME's question are shared; \dots for \ldots breaks the rest.
    assert (first["part"], first["benchmark"], first["coverage"]) == ("deepmath", "aime25", 8 / 15)
    assert first["shared"] == "find the number of subsets of 1 2"
    assert (second["part"], second["coverage"]) == ("dapo", 1.0)
    assert second["text"].startswith("FIND THE REMAINDER")


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


def test_the_report_hides_secrets(numbered, tmp_path):
    part = numbered("a", 3, None)
    key = "hf_" + "x" * 20
    part["init_args"]["where"] = {"question": ["a 1?", key]}
    Mixture({"a": part}).write_report(tmp_path)
    assert key not in (tmp_path / "mixture.json").read_text()
