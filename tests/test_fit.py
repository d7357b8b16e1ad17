"""A whole run through a real Trainer, with an engine in plain torch: order, resume, LoRA, errors."""

import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import torch

from ceeh.config.settings import Config, load
from ceeh.errors import ConfigError
from ceeh.fit import fit
from ceeh.run.folder import RunFolder
from tests.endings import Killed
from tests.metric_table import differences
from tests.torch_engine import TorchEngine

SHIPPED = Path(__file__).parent.parent / "configs" / "ceeh.yaml"
SMALL = (
    "engine.class_path=tests.torch_engine.TorchEngine",
    "verifier.class_path=ceeh.data.verify.RewardFunction",
    "verifier.init_args={class_path: tests.rewards.even_length}",
    "prompts.train.init_args.questions=24",
    "prompts.held_out.init_args.questions=5",
    "rollouts.steps=4",
    "rollouts.prompts_per_step=4",
    "rollouts.completions_per_prompt=3",
    "rollouts.max_response_tokens=8",
    "optimizer.prompts_per_minibatch=2",
    "optimizer.lr=0.01",
    "evaluation.samples=2",
    "evaluation.split_samples=1",
    "evaluation.bootstrap_draws=100",
    "checkpoints.every_n_steps=2",
    "tracking.rollouts_every_n_steps=1",
    "tracking.mlflow=false",
    "hardware.accelerator=cpu",
)


def small(model: Path, output: Path, *overrides: str) -> Config:
    return load([SHIPPED], [*SMALL, f"model.path={model}", f"output={output}", *overrides])


def rows(folder: Path) -> list[dict]:
    """Lines of metrics.jsonl without wall times and rates."""
    lines = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    clock = ("time/", "rollout/tokens_per_second", "optimizer/tokens_per_second")
    return [{k: v for k, v in line.items() if not k.startswith(clock)} for line in lines]


def newest(folder: Path) -> dict:
    """The newest checkpoint of a run."""
    return torch.load(max((folder / "checkpoints").glob("*.ckpt")), weights_only=True)


def weights(folder: Path) -> dict[str, torch.Tensor]:
    return newest(folder)["state_dict"]


def steps(folder: Path) -> list[dict]:
    """The lines of `rows` that a rollout step wrote."""
    return [row for row in rows(folder) if "loss/policy" in row]


@contextmanager
def killed_at(engine: Any, version: int) -> Iterator[None]:
    """Inside, the run dies when `engine` generates with the weights of policy `version`."""
    generate = engine.generate

    def stopping(self, *arguments):
        if self.policy_version == version:
            raise Killed
        return generate(self, *arguments)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(engine, "generate", stopping)
        with pytest.raises(Killed):
            yield


@pytest.fixture(scope="module")
def whole(tiny_model_dir: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, list[str]]:
    """The folder of an uninterrupted run, and what its engine did."""
    TorchEngine.events.clear()
    folder = fit(small(tiny_model_dir, tmp_path_factory.mktemp("whole")))
    return folder, list(TorchEngine.events)


def test_rollouts_are_exactly_on_policy(whole: tuple[Path, list[str]]) -> None:
    # Two optimizer steps per rollout step: versions 0, 2, 4, 6; the held-out set before and after.
    per_step = [
        event
        for version in (0, 2, 4, 6)
        for event in (f"generate {version}", "sleep", f"load {version + 2}")
    ]
    assert whole[1] == ["load 0", "generate 0", "load 0", *per_step, "generate 8"]


def test_a_run_leaves_everything_in_its_folder(
    whole: tuple[Path, list[str]], tiny_model_dir: Path
) -> None:
    folder = whole[0]
    assert folder.name == "starter"
    assert (folder.parent / "latest").resolve() == folder.resolve()
    summary = json.loads((folder / "summary.json").read_text())
    assert set(summary["base"]["all"]) == {"accuracy", "tokens", "pass_at_2", "entropy"}
    assert summary["train_seconds"] > 0
    assert [line["rollout_step"] for line in steps(folder)] == [1, 2, 3, 4]
    assert len(list((folder / "rollouts").glob("*.parquet"))) == 4
    files = (
        "config.yaml",
        "report.html",
        "model/model.safetensors",
        "checkpoints/step-000004.ckpt",
    )
    assert [name for name in files if not (folder / name).is_file()] == []
    assert load([folder / "config.yaml"]).seed == 0
    again = fit(small(tiny_model_dir, folder.parent, "rollouts.steps=1"))
    assert again == folder.parent / "starter-2"


def test_a_run_logs_the_metrics_of_the_table_and_no_other(whole: tuple[Path, list[str]]) -> None:
    assert differences(whole[0], "fit", load([whole[0] / "config.yaml"])) == []


@pytest.mark.usefixtures("without_figures")
def test_a_run_on_a_mixture_keeps_its_draw_and_reuses_it_on_resume(
    tiny_model_dir: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    part = "{class_path: ceeh.data.sources.StarterTask, init_args: {questions: 24}, questions: 9}"
    # The benchmark is made to hold the first eight of the 24 training questions.
    rule = "{benchmarks: {starter: {split: train, questions: 8}}}"
    mixed = (
        "prompts.train.class_path=ceeh.data.mixture.Mixture",
        f"prompts.train.init_args={{parts: {{chains: {part}}}, decontaminate: {rule}}}",
        "rollouts.steps=1",
    )
    with pytest.warns(UserWarning, match="'Starter' has 8 questions, not 1000"):
        folder = fit(small(tiny_model_dir, tmp_path, *mixed))
    (chains,) = json.loads((folder / "mixture.json").read_text())["parts"]
    assert (chains["read"], chains["clean"], chains["drawn"]) == (24, 16, 9)
    assert len((folder / "decontamination.jsonl").read_text().splitlines()) == 8
    assert load([folder / "config.yaml"]).prompts.train.class_path.endswith("Mixture")
    resumed = (*mixed[:2], "rollouts.steps=2", "ckpt_path=last")
    assert fit(small(tiny_model_dir, tmp_path, *resumed)) == folder
    assert f"reusing the 9 questions of {folder}/questions.jsonl" in capsys.readouterr().out


@pytest.mark.usefixtures("without_figures")
def test_a_resumed_lora_run_in_a_moved_folder_equals_the_uninterrupted_one(
    tiny_model_dir: Path, tmp_path: Path
) -> None:
    lora = "model.lora.rank=2"
    first = fit(small(tiny_model_dir, tmp_path / "a", lora))
    with killed_at(TorchEngine, 6):
        fit(small(tiny_model_dir, tmp_path / "b", lora))
    (tmp_path / "b").rename(tmp_path / "c")
    again = fit(small(tiny_model_dir, tmp_path / "c", lora, "ckpt_path=last"))
    assert again == tmp_path / "c" / "starter"
    names = sorted(path.name for path in (again / "checkpoints").iterdir())
    assert names == ["step-000002.ckpt", "step-000004.ckpt"]
    assert rows(again) == rows(first)
    for name, value in weights(first).items():
        assert torch.equal(value, weights(again)[name]), name
        assert ".lora_" in name, "a LoRA checkpoint holds the adapter alone"


@pytest.mark.usefixtures("without_figures")
def test_fewer_steps_than_were_done_are_refused(tiny_model_dir: Path, tmp_path: Path) -> None:
    folder = fit(small(tiny_model_dir, tmp_path))
    before = (folder / "metrics.jsonl").read_text()
    with pytest.raises(
        ConfigError, match=r"rollouts\.steps is 3, but the checkpoint .* after step 4"
    ):
        fit(small(tiny_model_dir, tmp_path, "rollouts.steps=3", "ckpt_path=last"))
    assert (folder / "metrics.jsonl").read_text() == before


@pytest.mark.usefixtures("without_figures")
@pytest.mark.parametrize("end", [1, 3])  # before the first checkpoint is due, and between two
def test_a_longer_run_resumes_from_the_end_with_its_own_learning_rate(
    tiny_model_dir: Path, tmp_path: Path, end: int
) -> None:
    folder = fit(small(tiny_model_dir, tmp_path, f"rollouts.steps={end}"))
    assert newest(folder)["rollout_step"] == end
    fit(small(tiny_model_dir, tmp_path, "ckpt_path=last", "optimizer.lr=0.001"))
    assert [row["rollout_step"] for row in steps(folder)] == [1, 2, 3, 4]
    # 0.01 after a warm-up of 3 optimizer steps, of which there are 2 a rollout step.
    rates = [row["optimizer/lr"] for row in steps(folder)]
    assert rates == pytest.approx([0.01] * end + [0.001] * (4 - end))


def test_a_run_in_use_by_another_process_is_left_unchanged(
    whole: tuple[Path, list[str]], tiny_model_dir: Path
) -> None:
    folder = RunFolder(whole[0])
    before = sorted(folder.path.rglob("*"))
    with folder.claimed(), pytest.raises(ConfigError, match="in use by another process"):
        fit(small(tiny_model_dir, folder.path.parent, f"ckpt_path={folder.newest_checkpoint()}"))
    assert sorted(folder.path.rglob("*")) == before


@pytest.mark.usefixtures("without_figures")
def test_the_engine_is_closed_after_any_error(
    tiny_model_dir: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    closed = []
    monkeypatch.setattr(TorchEngine, "close", lambda self: closed.append(self))

    def broken(*arguments: object) -> None:
        raise RuntimeError("no trainer today")

    monkeypatch.setattr("ceeh.fit.train.build_trainer", broken)
    with pytest.raises(RuntimeError, match="no trainer today"):
        fit(small(tiny_model_dir, tmp_path))
    assert len(closed) == 1


@pytest.mark.usefixtures("without_figures")
def test_a_base_measured_on_other_questions_is_measured_again(
    tiny_model_dir: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    fit(small(tiny_model_dir, tmp_path, "rollouts.steps=2"))
    same = fit(small(tiny_model_dir, tmp_path, "rollouts.steps=3", "ckpt_path=last"))
    assert capsys.readouterr().out.count("measuring base") == 1
    fit(small(tiny_model_dir, tmp_path, "ckpt_path=last", "prompts.held_out.init_args.seed=1"))
    assert "measured on other questions or with other samples" in capsys.readouterr().out
    assert json.loads((same / "summary.json").read_text())["questions"]["all"] == 5
