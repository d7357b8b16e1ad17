"""The commands and code of the README and of docs/, as a reader would run them."""

import json
import math
import re
from contextlib import closing
from dataclasses import replace
from inspect import signature
from pathlib import Path

import pytest
import torch
import yaml
from lightning import Callback
from lightning.pytorch.loggers import Logger

from ceeh.assembly.components import build_callbacks, check_trainer
from ceeh.compare import main as compare
from ceeh.config.loading import fill
from ceeh.config.reference import entries
from ceeh.config.settings import Config, load
from ceeh.data.engine import VLLMEngine
from ceeh.data.sources import Table
from ceeh.data.verify.build import build_verifier
from ceeh.evaluate import main as evaluate
from ceeh.evaluation.config import load_evaluation_config
from ceeh.export import main as export
from ceeh.fit import main as fit
from ceeh.modules.shaping.checked import build_shaping, trial_inputs
from ceeh.types import Finish, GradingOutcome, GroupOutcome, RolloutGroup
from tests.data.verify.scoring import group
from tests.test_evaluate import SMALL as EVALUATION
from tests.test_fit import SMALL

ROOT = Path(__file__).parent.parent
README = (ROOT / "README.md").read_text()
PAGES = [README, *(file.read_text() for file in sorted((ROOT / "docs").glob("*.md")))]


def blocks_of(page: str) -> list[tuple[str, str]]:
    return re.findall(r"^```(\w+)\n(.*?)^```$", page, flags=re.MULTILINE | re.DOTALL)


BLOCKS = [found for page in PAGES for found in blocks_of(page)]


def block(kind: str, holding: str) -> str:
    (found,) = (text for language, text in BLOCKS if language == kind and holding in text)
    return found


def commands(blocks: list[tuple[str, str]] = BLOCKS) -> list[str]:
    """Lines of the shell blocks, continuations joined."""
    shell = "".join(text for language, text in blocks if language == "bash")
    joined = shell.replace("\\\n", " ")
    return [
        line.split("#")[0].strip() for line in joined.splitlines() if line.split("#")[0].strip()
    ]


def test_the_two_commands_are_there_and_the_makefile_knows_every_target() -> None:
    targets = set(re.findall(r"^([\w-]+):", (ROOT / "Makefile").read_text(), flags=re.MULTILINE))
    made = [command.split()[1] for command in commands() if command.startswith("make ")]
    assert {"fit", "test"} <= set(made) <= targets


def test_every_configuration_file_and_key_of_the_commands_exists() -> None:
    fits = [command for command in commands() if "-m ceeh.fit" in command]
    assert len(fits) >= 3
    for command in fits:
        words = command.split()[command.split().index("ceeh.fit") + 1 :]
        files = [words[i + 1] for i, word in enumerate(words) if word == "--config"]
        named = [word for word in words if "=" in word]
        shipped = [ROOT / file for file in files if (ROOT / file).is_file()]
        assert shipped, command
        load(shipped, named)


def test_every_page_and_picture_that_is_linked_exists() -> None:
    for file in (
        ROOT / "README.md",
        ROOT / "CONTRIBUTING.md",
        *sorted((ROOT / "docs").glob("*.md")),
    ):
        for target in re.findall(r"\]\(([^)#]+)", file.read_text()):
            if "://" not in target:
                assert (file.parent / target).exists(), f"{file.name} links to {target}"


def test_every_method_and_benchmark_is_in_the_documents() -> None:
    method, protocol = ((ROOT / "docs" / name).read_text() for name in ("method.md", "protocol.md"))
    methods = {file.stem for file in (ROOT / "configs/methods").glob("*.yaml")}
    assert {name for name in methods if f"`{name}`" not in method} == set()
    benchmarks = {file.stem for file in (ROOT / "configs/benchmarks").glob("*.yaml")}
    assert {name for name in benchmarks if f"`{name}`" not in protocol} == set()


@pytest.mark.usefixtures("without_figures")
def test_the_python_of_the_docs_trains_and_evaluates(
    tiny_model_dir: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)  # its file is found in the package
    quick = [*SMALL, f"model.path={tiny_model_dir}", f"output={tmp_path}"]
    monkeypatch.setattr(
        "ceeh.config.settings.load", lambda files, given: load(files, [*quick, *given])
    )
    monkeypatch.setattr(
        "ceeh.evaluate.load_evaluation_config",
        lambda names, files, given: load_evaluation_config(names, files, [*EVALUATION, *given]),
    )
    names: dict = {}
    exec(block("python", "from ceeh import Config, evaluate, fit, load"), names)
    assert (names["run"] / "summary.json").is_file()
    assert (names["run"] / "model").is_dir()
    assert names["results"] == names["run"] / "evaluation"
    assert (names["results"] / "results.json").is_file()


def test_our_settings_beside_those_of_trl_and_verl_exist() -> None:
    units, settings = (ROOT / "docs/coming_from.md").read_text().split("## Settings")
    cells = [
        line.split("|")[column]
        for part, column in ((units, 4), (settings, 3))
        for line in part.splitlines()
        if line.startswith("| ")
    ]
    names = {name.partition("=")[0] for cell in cells for name in re.findall(r"`([^`]+)`", cell)}
    known = {entry.path for entry in entries(Config)}
    for place, owner in {"engine": VLLMEngine, "prompts.train": Table}.items():
        known |= {f"{place}.init_args.{name}" for name in signature(owner).parameters}
    # Values of a setting, a class, a command, and any argument of vLLM.
    values = {"token_mean", "sequence_mean", "constant", "group_std", "batch_std", "group_mean"}
    others = {"ceeh.export.hub_push.HubPush", "torchrun --nproc-per-node", "--nnodes"}
    unknown = {name for name in names - known if not name.startswith("verifier.class_path")}
    assert unknown == values | others
    assert len(names & known) > 40


def test_the_loggers_and_trainer_arguments_of_the_docs_are_accepted() -> None:
    for holding in ("loggers:", "HubPush"):
        config = fill(Config, yaml.safe_load(block("yaml", holding)), "")
        check_trainer(config.trainer)
        for name, component in (config.callbacks | config.loggers).items():
            assert issubclass(component.imported(name), Callback | Logger)


def test_the_signal_of_the_readme_does_what_it_says(tmp_path: Path) -> None:
    source = tmp_path / "often_truncated.py"
    source.write_text(block("python", "class OftenTruncated"))
    namespace: dict = {}
    exec(compile(source.read_text(), source, "exec"), namespace)
    signal = namespace["OftenTruncated"]()
    assert signal.read("a") == {"often_truncated": 0.0}
    cut = GroupOutcome(uid="a", correct=(False, True), lengths=(9, 3), finished=(False, False))
    signal.observe(cut)
    assert signal.read("a") == {"often_truncated": 1.0}


def test_the_reward_function_of_the_documents_does_what_it_says(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "my_task.py").write_text(block("python", "def reward(prompt: Prompt"))
    (words,) = (command.split() for command in commands() if "my_task.py" in command)
    overrides = [word for word in words if "=" in word]
    verifier = build_verifier(load([ROOT / "configs/ceeh.yaml"], overrides).verifier)
    with closing(verifier):
        # Within 0.01 of 42; then no number, and a truncated response, which is not scored.
        (plain,) = verifier([group("42", "41.995 km", "41.5 km", "none")])
        (cut,) = verifier([group("42", "42", finish=Finish.LENGTH)])
        (asked,) = verifier([with_metadata(group("42", "42 km", "42"), {"unit": "km"})])
    scores = [[verdict.score for verdict in each.verdicts] for each in (plain, cut, asked)]
    assert scores == [[1, 0, 0], [0], [1, 0.5]]
    assert [verdict.outcome for verdict in plain.verdicts] == [GradingOutcome.OK] * 3


def with_metadata(group: RolloutGroup, metadata: dict[str, str]) -> RolloutGroup:
    return replace(group, prompt=replace(group.prompt, metadata=metadata))


def test_the_length_reward_of_the_documents_does_what_it_says(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "capped_excess.py").write_text(block("python", "class CappedExcess"))
    (words,) = (command.split() for command in commands() if "capped_excess.py" in command)
    overrides = [word for word in words if "=" in word]
    shaping = build_shaping(load([ROOT / "configs/ceeh.yaml"], overrides))
    inputs = trial_inputs(shaping.reads)
    # Lengths 3 and 5 at a shortest of 2: 1 - 0.2 (3/2 - 1) and 1 - 0.2 (5/2 - 1); then unknown.
    known = replace(inputs, signals={"optimal_length": torch.tensor([2.0, 2.0])})
    assert shaping(known).tolist() == pytest.approx([0.9, 0.7, 0, 0, 0, 0])
    unknown = replace(inputs, signals={"optimal_length": torch.tensor([math.nan, math.nan])})
    assert shaping(unknown).tolist() == [1, 1, 0, 0, 0, 0]


def test_the_controller_of_the_documents_does_what_it_says(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "length_by_tokens.py").write_text(block("python", "class LengthByTokens"))
    overlay = tmp_path / "overlay.yaml"
    overlay.write_text(block("yaml", "length_by_tokens.py:LengthByTokens"))
    config = load([ROOT / "configs/ceeh.yaml", overlay])
    # The penalty reads what the controller writes, or there would be no callbacks.
    assert "length_coefficient" in build_shaping(config).reads
    (controller,) = (each for each in build_callbacks(config) if hasattr(each, "coefficient"))
    # Twice the target of 40 tokens: 0.1 + 0.05 (2 - 1).
    outcome = GroupOutcome(uid="a", correct=(False, True), lengths=(90, 70), finished=(True, True))
    controller.after_step([outcome], [])
    assert controller.read("a") == {"length_coefficient": pytest.approx(0.15)}


@pytest.fixture(scope="module")
def steered_run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder in which a reader has followed the README: his own signal, five steps, the real engine."""
    folder = tmp_path_factory.mktemp("reader")
    (folder / "often_truncated.py").write_text(block("python", "class OftenTruncated"))
    overlay = block("yaml", "often_truncated.py:OftenTruncated")
    assert yaml.safe_load(overlay)["objective"]["hard_signal"] == "often_truncated"
    (folder / "often_truncated.yaml").write_text(overlay)
    given = ["--config", str(ROOT / "configs/ceeh.yaml"), "--config", "often_truncated.yaml"]
    small = [
        "rollouts.steps=5",
        "rollouts.prompts_per_step=8",
        "rollouts.completions_per_prompt=4",
        "rollouts.max_response_tokens=40",
        "evaluation.questions=8",
        "tracking.mlflow=false",
    ]
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        assert fit([*given, *small]) == 0
    return folder


@pytest.mark.engine
def test_a_users_signal_from_his_own_file_steers_a_run_with_the_real_engine(
    steered_run: Path,
) -> None:
    lines = (steered_run / "runs/latest/metrics.jsonl").read_text().splitlines()
    steps = [row for row in map(json.loads, lines) if "loss/policy" in row]
    assert len(steps) == 5
    # Cut at 40 tokens, most questions' groups run into the limit once they are seen again; until
    # then nothing is known of them and nothing is hard.
    assert steps[0]["loss/entropy_easy"] > 0
    assert steps[0]["loss/entropy_hard"] is None


@pytest.mark.engine
def test_the_run_is_evaluated_compared_and_exported_by_the_commands_as_they_stand(
    steered_run: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(steered_run)
    small = {"evaluate": ["limit=8", "samples=2", "bootstrap_draws=100", "tracking.mlflow=false"]}
    shown = [
        command.split()
        for command in commands(blocks_of(README))
        if re.search(r"-m ceeh\.(evaluate|compare|export)\b", command)
    ]
    names = [words[words.index("-m") + 1].removeprefix("ceeh.") for words in shown]
    assert names == ["evaluate", "evaluate", "compare", "export"]
    mains = {"evaluate": evaluate, "compare": compare, "export": export}
    for name, words in zip(names, shown, strict=True):
        given = words[words.index("-m") + 2 :] + small.get(name, [])
        assert mains[name](given) == 0, words
    assert "base" in capsys.readouterr().out
    assert (steered_run / "comparison/report.png").is_file()
    assert (steered_run / "runs/latest/evaluation/results.json").is_file()
    assert (steered_run / "exported/README.md").is_file()
