"""The mixtures of configs/data: their columns, the paper's numbers, and the command that writes a draw."""

import json
from dataclasses import replace
from pathlib import Path

import pytest

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
    assert [[part[name] for name in counted] for part in mixed.draw.report["parts"]] == [
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
    assert [q.uid for q in mixed] == [q.uid for q in questions]
    assert capsys.readouterr().out == ""  # drawn once


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
