"""The commands of docs/reproduce.md resolve, and its computed numbers are computed."""

import re
import shlex
from math import sqrt
from pathlib import Path

import pytest

from ceeh.config.settings import load
from ceeh.data.benchmarks import Benchmark, benchmark_files, load_benchmark
from ceeh.evaluate import main
from ceeh.evaluate.run import default_output
from ceeh.fit import main as fit
from ceeh.memory.devices import GIB
from ceeh.memory.plan import PHASES
from ceeh.pretrained.locate import ModelSource
from ceeh.run.folder import RunFolder
from tests.memory.recipes import distilled, planned  # noqa: F401  # a fixture

ROOT = Path(__file__).parent.parent
PAGE = (ROOT / "docs" / "reproduce.md").read_text()
COMMANDS = [
    shlex.split(command)
    for block in re.findall(r"```bash\n(.*?)```", PAGE, flags=re.DOTALL)
    for command in block.replace("\\\n", " ").splitlines()
]
SYSTEM = r"Please reason step by step, and put your final answer within \boxed{}."


def of(module: str) -> list[list[str]]:
    return [words[3:] for words in COMMANDS if words[:3] == ["python", "-m", f"ceeh.{module}"]]


def table(after: str) -> dict[str, list[str]]:
    """The rows of the table that follows a text, by their first cell."""
    lines = PAGE.partition(after)[2].partition("\n\n|")[2].partition("\n\n")[0].splitlines()[2:]
    cells = ([cell.strip() for cell in line.strip("| ").split("|")] for line in lines)
    return {first: rest for first, *rest in cells}


def test_the_page_has_only_commands_of_ceeh() -> None:
    assert len(COMMANDS) == sum(map(len, map(of, ("evaluate", "compare", "fit")))) == 9


@pytest.mark.parametrize("arguments", of("evaluate"), ids=lambda words: words[0])
def test_each_evaluation_has_the_papers_protocol(
    arguments: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: dict[str, Benchmark] = {}
    monkeypatch.setattr(
        "ceeh.evaluate.run.open_trained",
        lambda place, **_: ModelSource(name=place, model_path=place),
    )
    monkeypatch.setattr(
        "ceeh.evaluate.run.evaluate", lambda _, benchmarks, *__: asked.update(benchmarks)
    )
    assert main(arguments) == 0
    assert set(asked) == {"gsm8k", "math500", "aime24", "amc23", "olympiad", "aime25"}
    for each in asked.values():
        assert (each.samples, each.temperature, each.top_p) == (16, 0.6, 0.95)
        assert (each.max_response_tokens, each.chat_template) == (16000, True)
        assert (each.system_prompt, each.instruction) == (SYSTEM, None)


def test_what_is_compared_was_evaluated_before() -> None:
    written = {
        str(default_output(ModelSource(name=words[0], model_path=words[0], run=run)))
        for words in of("evaluate")
        for run in [RunFolder(Path(words[0])) if words[0].startswith("runs/") else None]
    }
    read = {place.partition("=")[2] for words in of("compare") for place in words}
    runs = {place for place in read if place.startswith("runs/")}
    assert {f"{place}/evaluation" for place in runs} | (read - runs) <= written


def test_the_training_command_is_the_papers_recipe_and_its_plan_is_the_pages(
    distilled: Path,  # noqa: F811
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    [arguments] = of("fit")
    files = [ROOT / word for word in arguments if word.startswith("configs/")]
    overrides = [word for word in arguments if word.startswith("prompts.")]
    config = load(files, overrides)
    assert (config.name, config.rollouts.prompts_per_step) == ("1.5b_ea", 512)
    assert config.model.path == "deepseek-ai/DeepSeek-R1-Distill-Qwen-1.5B"
    if not distilled.name.startswith("1.5b"):
        return
    monkeypatch.chdir(ROOT)
    assert fit([*arguments, f"model.path={distilled}", "--dry-run", "--devices", "1x80GB"]) == 0
    printed = capsys.readouterr().out
    phases = table("Of the 76.0 GiB that a plan may use:")
    assert set(phases) == set(PHASES)
    for phase, [size] in phases.items():
        [total] = re.findall(rf"total of {phase} +([\d.]+)", printed)
        assert f"{float(total):.1f}" == size
    assert "holds 674,084 tokens: 29 of" in printed
    larger = load(files, [*overrides, "engine.init_args.kv_cache_gib=50"])
    assert f"({planned(larger, distilled, '1x80GB').peak / GIB:.1f} GiB at most)" in PAGE


def test_the_tolerances_follow_from_the_papers_accuracies() -> None:
    stated, tolerances = table("Accuracy in % / mean tokens."), table("either\neasy or hard")
    questions = [int(count) for count in tolerances.pop("questions")]
    names = ("gsm8k", "math500", "aime24", "amc23", "olympiad", "aime25")
    assert set(names) < set(benchmark_files())
    assert questions == [load_benchmark(name).expected_questions for name in names]
    assert stated.keys() == tolerances.keys()
    for model, row in tolerances.items():
        for cell, count, tolerance in zip(stated[model], questions, row, strict=True):
            p = float(cell.partition("/")[0]) / 100
            assert f"{196 * sqrt(2 * p * (1 - p) / (16 * count)):.1f}" == tolerance, (model, cell)


def test_the_numbers_of_tokens_follow_from_the_papers_lengths() -> None:
    stated, tolerances = table("Accuracy in % / mean tokens."), table("either\neasy or hard")
    questions = [int(count) for count in tolerances["questions"]]
    text = PAGE.partition("**What it costs.**")[2]
    found = [int(number) for number in re.findall(r"(\d+) million", text)]
    assert found == [
        round(
            sum(
                16 * count * int(cell.partition("/")[2])
                for cell, count in zip(row, questions, strict=True)
            )
            / 1e6
        )
        for row in stated.values()
    ]
