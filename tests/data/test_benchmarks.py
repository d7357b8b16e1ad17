"""Every benchmark file: its columns on rows of the real schema, its verifier, its protocol; errors."""

from dataclasses import replace
from pathlib import Path

import pytest

from ceeh.config.settings import load
from ceeh.data.benchmarks import (
    INSTRUCTION,
    benchmark_files,
    benchmark_name,
    benchmark_questions,
    load_benchmark,
)
from ceeh.errors import ConfigError
from tests.data.tables import fixture, rows
from tests.data.verify.scoring import CORRECT, INCORRECT, verdict

# Per benchmark: the start of the fixture's first question, the answers, a correct and an incorrect
# response to that question.
READ = {
    "gsm8k": ("Nora packs 12 crates", ["91", "1,234", "-7", "80"], r"\boxed{91}", r"\boxed{96}"),
    "math500": (
        r"What is $\frac{1}{2} + ",
        [r"\frac{3}{4}", "6", "(x-3)(x+3)"],
        r"\boxed{0.75}",
        r"\boxed{\frac{4}{3}}",
    ),
    "aime24": (
        "Find the number of ordered pairs",
        ["025", "182", "017"],
        r"\boxed{25}",
        r"\boxed{26}",
    ),
    "aime25": ("Find the largest three-digit", ["868", "21", "3"], r"\boxed{868}", r"\boxed{861}"),
    "amc23": ("Ada walks north", ["27", "0.5", "18"], r"\boxed{27}", r"\boxed{2.7}"),
    "olympiad": (
        "Determine the least positive",
        ["12", "2, -3", "$4,-4$", "20"],
        r"\boxed{12}",
        r"\boxed{38}",
    ),
    "minerva": (
        "A star at a distance",
        ["4.75", "3e-19", r"\frac{1}{8}"],
        r"\boxed{4.75}",
        r"\boxed{4.8}",
    ),
}


def local(name, *overrides):
    """The benchmark with its fixture in place of the id on the hub."""
    return load_benchmark(name, [f"questions.init_args.path={fixture(name)}", *overrides])


def test_every_shipped_benchmark_is_tested_here():
    assert set(benchmark_files()) == {*READ, "starter", "legs"}


@pytest.mark.parametrize("name", READ)
def test_a_local_copy_is_read_through_the_shipped_columns(name):
    with pytest.warns(UserWarning, match=rf"has {len(rows(name))} questions, not \d+; a mirror"):
        questions = benchmark_questions(local(name))
    begins, answers, _, _ = READ[name]
    assert questions[0].text.startswith(begins)
    assert [question.answer for question in questions] == answers


@pytest.mark.parametrize("name", READ)
def test_the_verifier_of_a_benchmark_grades_its_answers(name):
    _, _, right, wrong = READ[name]
    benchmark = local(name, f"expected_questions={len(rows(name))}")
    verifier = benchmark.verifier.build("verifier")
    answer = benchmark_questions(benchmark)[0].answer
    assert verdict(verifier, answer, right) == CORRECT
    assert verdict(verifier, answer, wrong) == INCORRECT
    verifier.close()


def test_all_references_can_be_read_by_the_verifier(mathematics):
    for name in READ:
        for question in benchmark_questions(local(name, f"expected_questions={len(rows(name))}")):
            boxed = rf"\boxed{{{question.answer}}}"
            assert verdict(mathematics, question.answer, boxed) == CORRECT, (name, question.answer)
    assert verdict(mathematics, "2, -3", r"\boxed{-3, 2}") == CORRECT
    assert verdict(mathematics, "2, -3", r"\boxed{2}") == INCORRECT


def test_the_defaults_are_the_papers_protocol():
    for name in READ:
        b = load_benchmark(name)
        assert (b.samples, b.temperature, b.top_p, b.max_response_tokens) == (16, 0.6, 0.95, 16000)
        assert (b.chat_template, b.system_prompt, b.instruction) == (True, None, INSTRUCTION)


def test_the_starter_benchmark_matches_the_shipped_configuration():
    starter = load_benchmark("starter")
    questions = benchmark_questions(starter)
    assert len(questions) == 1000
    assert [q.metadata[starter.level or ""] for q in questions[:7]] == [1, 2, 3, 4, 5, 6, 1]
    shipped = load([Path(__file__).parents[2] / "configs" / "ceeh.yaml"])
    assert (starter.questions, starter.verifier) == (shipped.prompts.held_out, shipped.verifier)
    assert starter.max_response_tokens == shipped.rollouts.max_response_tokens
    verifier = starter.verifier.build("verifier")
    assert verdict(verifier, questions[0].answer, f"so {questions[0].answer}") == CORRECT
    assert (starter.instruction, starter.chat_template, starter.top_p) == (None, False, 1.0)


def test_the_legs_benchmark_samples_as_the_example_trains_on_other_questions():
    configs = Path(__file__).parents[2] / "configs"
    run = load([configs / "ceeh.yaml", configs / "examples" / "smollm2_cpu.yaml"])
    legs = load_benchmark("legs")
    questions = benchmark_questions(legs)
    assert {question.metadata["level"] for question in questions} == {1, 2, 3}
    trained = {question.text for question in run.prompts.train.build("prompts.train")}
    assert trained & {question.text for question in questions} == set()
    assert legs.verifier == run.verifier
    assert (legs.system_prompt, legs.chat_template) == (run.prompts.system_prompt, True)
    assert legs.max_response_tokens == run.rollouts.max_response_tokens
    (first,) = {question.answer for question in questions[:1]}
    verifier = legs.verifier.build("verifier")
    for response in (rf"\boxed{{{first}}}", rf"So the answer is \boxed{{{first}}}."):
        assert verdict(verifier, first, response) == CORRECT
    assert verdict(verifier, first, rf"\boxed{{{first}0}}") == INCORRECT


def test_metadata_carries_the_difficulty():
    benchmark = local("math500", "expected_questions=3")
    questions = benchmark_questions(benchmark)
    assert [question.metadata["level"] for question in questions] == [1, 3, 5]
    assert questions[0].uid == "test/prealgebra/9001.json"
    without = replace(benchmark, level="grade")
    with pytest.raises(ConfigError, match=r"level is 'grade', .* it has: level, subject; add it"):
        benchmark_questions(without)


def test_a_custom_file_and_one_in_the_working_folder_are_found(tmp_path, monkeypatch):
    shipped = benchmark_files()["aime24"].read_text()
    mine = tmp_path / "mine.yaml"
    mine.write_text(shipped.replace("AIME 2024", "Mine"))
    assert load_benchmark(str(mine), ["samples=2"]).title == "Mine"
    here = tmp_path / "configs" / "benchmarks"
    here.mkdir(parents=True)
    (here / "aime24.yaml").write_text(mine.read_text())
    (here / "own.yaml").write_text(mine.read_text())
    monkeypatch.chdir(tmp_path)
    assert load_benchmark("aime24").title == "Mine"
    assert {"own", "gsm8k"} < set(benchmark_files())


@pytest.mark.parametrize(
    ("name", "overrides", "message"),
    [
        ("zzz", [], r"no benchmark 'zzz'; known: aime24.*; add configs/benchmarks/zzz.yaml"),
        ("none.jsonl", [], r"--benchmarks: no file 'none.jsonl'; paths are relative to /"),
        ("none.yaml", [], r"no file 'none.yaml': it is not in /"),
        ("gsm8k", ["samples=0"], "samples must be at least 1, got 0"),
        ("gsm8k", ["top_p=1.5"], r"top_p must be in \(0, 1\], got 1.5"),
        ("gsm8k", ["temperature=0"], r"temperature must be greater than 0, got 0"),
        ("gsm8k", ["levl=a"], r"levl is not a setting; did you mean level\?"),
        ("gsm8k", ["instruction=' '"], "instruction must be non-empty text, or null, got ' '"),
    ],
)
def test_invalid_names_and_settings_are_refused(name, overrides, message):
    with pytest.raises(ConfigError, match=message):
        load_benchmark(name, overrides)


def test_a_file_or_folder_of_questions_is_a_benchmark_with_the_defaults_protocol(tmp_path):
    mine = tmp_path / "my set.v1.jsonl"
    mine.write_text('{"question": "1+1?", "answer": "2"}\n{"question": "1/2?", "answer": "0.5"}\n')
    benchmark = load_benchmark(str(mine), ["samples=2"])
    assert (benchmark.title, benchmark.samples, benchmark.temperature) == ("my set.v1", 2, 0.6)
    assert [q.answer for q in benchmark_questions(benchmark)] == ["2", "0.5"]
    verifier = benchmark.verifier.build("verifier")
    assert verdict(verifier, "0.5", r"\boxed{\frac12}") == CORRECT
    verifier.close()
    folder = tmp_path / "set"
    folder.mkdir()
    (folder / "train.jsonl").write_text('{"problem": "1+1?", "answer": "2"}\n')
    benchmark = load_benchmark(str(folder), ["questions.init_args.question=problem"])
    assert [q.text for q in benchmark_questions(benchmark)] == ["1+1?"]


@pytest.mark.parametrize(
    ("given", "name"),
    [("gsm8k", "gsm8k"), ("a/b.yaml", "b"), ("a/b.test.jsonl.gz", "b.test"), ("data/set", "set")],
)
def test_a_benchmark_is_called_by_its_files_name(given, name):
    assert benchmark_name(given) == name
