"""Lightning's own callbacks, loggers and Trainer arguments, given in the configuration."""

import csv
import json
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from lightning import Callback, LightningModule, Trainer

import ceeh.fit
from ceeh.assembly.components import check_trainer
from ceeh.assembly.inputs import gather_inputs
from ceeh.errors import ConfigError
from ceeh.fit import fit
from ceeh.pretrained.locate import open_trained
from tests.commands import assert_refused, fit_arguments, said
from tests.test_fit import rows, small, steps, weights

CSV = "loggers={csv: {class_path: lightning.pytorch.loggers.CSVLogger, init_args: {save_dir: %s}}}"


class Counter(Callback):
    """Counts steps, and keeps the count in checkpoints."""

    steps = 0

    def on_train_batch_end(self, trainer: Trainer, pl_module: LightningModule, *_: Any) -> None:
        self.steps += 1

    def state_dict(self) -> dict[str, int]:
        return {"steps": self.steps}

    def load_state_dict(self, state_dict: dict[str, int]) -> None:
        self.steps = Counter.loaded = state_dict["steps"]


COUNTER = f"callbacks.counter={{class_path: {__file__}:Counter}}"


@pytest.mark.usefixtures("without_figures")
def test_a_callback_and_a_logger_of_lightning_run_and_resume(
    tiny_model_dir: Path, tmp_path: Path
) -> None:
    overrides = (COUNTER, CSV % (tmp_path / "csv"))
    folder = fit(small(tiny_model_dir, tmp_path, "rollouts.steps=2", *overrides))
    with next((tmp_path / "csv").rglob("metrics.csv")).open() as file:
        logged = [float(row["loss/policy"]) for row in csv.DictReader(file) if row["loss/policy"]]
    assert logged == [
        pytest.approx(row["loss/policy"]) for row in rows(folder) if "loss/policy" in row
    ]
    assert len(logged) == 2
    checkpoint = max((folder / "checkpoints").glob("*.ckpt"))
    resumed = small(
        tiny_model_dir, tmp_path, "rollouts.steps=3", COUNTER, f"ckpt_path={checkpoint}"
    )
    fit(resumed)
    assert sys.modules["ceeh_user_test_lightning_doors"].Counter.loaded == 2


@pytest.mark.usefixtures("without_figures")
def test_max_time_ends_training_and_the_run_is_still_evaluated(
    tiny_model_dir: Path, tmp_path: Path
) -> None:
    config = small(
        tiny_model_dir, tmp_path, "rollouts.steps=500", "trainer={max_time: {seconds: 1}}"
    )
    folder = fit(config)
    steps = [row for row in rows(folder) if "loss/policy" in row]
    assert 1 <= len(steps) < 500
    assert (folder / "summary.json").is_file()
    assert (folder / "model" / "config.json").is_file()


class EndsEarly(Callback):
    """Ends the training after step 1; like EarlyStopping it does not say how many steps there were."""

    def on_train_batch_end(self, trainer: Trainer, pl_module: LightningModule, *_: Any) -> None:
        trainer.should_stop = True


@pytest.mark.usefixtures("without_figures")
def test_a_run_that_ends_early_is_a_model_and_can_be_continued(
    tiny_model_dir: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    settings = ("rollouts.steps=3", "checkpoints.every_n_steps=10")
    ends = f"callbacks.ends={{class_path: {__file__}:EndsEarly}}"
    folder = fit(small(tiny_model_dir, tmp_path, *settings, ends))
    assert "ended the training after rollout step 1 of 3" in capsys.readouterr().out
    assert json.loads((folder / "summary.json").read_text())["rollout_step"] == 1
    source = open_trained(str(folder))
    assert (source.checkpoint, source.rollout_step) == (None, 1)
    whole = fit(small(tiny_model_dir, tmp_path, *settings, "name=whole"))
    fit(small(tiny_model_dir, tmp_path, *settings, "ckpt_path=last"))
    assert open_trained(str(folder)).rollout_step == 3
    first, *others = steps(folder)  # the first has the evaluation of its end besides
    expected, *rest = steps(whole)
    assert {name: first[name] for name in expected if name != "epoch"} | {"epoch": 0} == expected
    assert others == rest
    for name, value in weights(whole).items():
        assert torch.equal(value, weights(folder)[name]), name


class Leaver(Callback):
    """Ends the process in the second step, before the weights change."""

    def on_train_batch_start(
        self, trainer: Trainer, pl_module: LightningModule, batch: Any, batch_idx: int
    ) -> None:
        if batch_idx == 1:
            sys.exit()


@pytest.mark.usefixtures("without_figures")
def test_a_hook_that_ends_the_process_is_named_and_the_finished_step_saved(
    tiny_model_dir: Path, tmp_path: Path
) -> None:
    leaver = f"callbacks.leaver={{class_path: {__file__}:Leaver}}"
    rare = "checkpoints.every_n_steps=4"
    answer = said(ceeh.fit.main, fit_arguments(tiny_model_dir, tmp_path, leaver, rare))
    assert_refused(answer, "ended the process (SystemExit, test_lightning_doors.py line ")
    assert "rollout step 1 is saved" in answer.out


class MadeInSetup(Callback):
    """Has no state before training begins."""

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        self.steps = 0

    def state_dict(self) -> dict[str, int]:
        return {"steps": self.steps}


def test_a_callback_may_make_its_state_in_setup(tiny_model_dir: Path, tmp_path: Path) -> None:
    late = f"callbacks.late={{class_path: {__file__}:MadeInSetup}}"
    inputs = gather_inputs(small(tiny_model_dir, tmp_path, late))
    assert any(type(each).__name__ == "MadeInSetup" for each in inputs.callbacks)
    inputs.verifier.close()


def test_two_states_of_one_key_are_refused_before_the_engine(
    tiny_model_dir: Path, tmp_path: Path
) -> None:
    second = COUNTER.replace("callbacks.counter", "callbacks.second")
    words = r"callbacks.second \(.*:Counter\) has the state_key of callbacks.counter .* property state_key"
    with pytest.raises(ConfigError, match=words):
        gather_inputs(small(tiny_model_dir, tmp_path, COUNTER, second))


def test_a_time_as_lightning_writes_it_is_passed_on() -> None:
    for time in ("01:00:00:00", {"hours": 0.5}, None):
        check_trainer({"max_time": time})


@pytest.mark.parametrize(
    ("override", "words"),
    [
        ("trainer.max_steps=5", r"trainer\.max_steps is not passed on; use rollouts\.steps"),
        ("trainer.gradient_clip_val=1", r"use optimizer\.max_grad_norm"),
        ("trainer.max_tim=5", r"did you mean max_time"),
        *(
            (f"trainer.max_time={time}", rf"trainer\.max_time must be DD:HH:MM:SS .*, got .*{word}")
            for time, word in {
                **{"soon": "soon", "{hours: -1}": "-1", "{hours: x}": "'x'", "{hour: 1}": "hour"},
                **{"{hours: 1e300}": "1e", "5": "5", "00:00:00:00": "00", "'-1:00:00:00'": "-1"},
            }.items()
        ),
        ("trainer.profiler=fast", r"trainer: .*fast"),
        (
            "loggers.mine={class_path: torch.nn.Identity}",
            r"loggers\.mine: torch\.nn\.Identity is not a Logger",
        ),
        (
            "callbacks.mine={class_path: torch.nn.Identity}",
            r"callbacks\.mine: .* is not a Callback",
        ),
    ],
)
def test_what_contradicts_the_run_is_refused_with_the_setting_to_use(
    override: str, words: str, tiny_model_dir: Path, tmp_path: Path
) -> None:
    with pytest.raises(ConfigError, match=words):
        gather_inputs(small(tiny_model_dir, tmp_path, override))
