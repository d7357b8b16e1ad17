"""A run stopped by a signal, in any phase, saves its last finished step and resumes to equal numbers."""

import os
import signal
import time
from pathlib import Path
from typing import Any

import pytest
from torch.optim.lr_scheduler import LambdaLR

import ceeh.fit
from ceeh.config.settings import load
from ceeh.data.verify.reward_function import RewardFunction
from ceeh.modules.module import CEEHModule
from ceeh.run.checkpoint_io import AtomicCheckpointIO
from ceeh.runtime import shutdown
from tests.endings import at_call, interrupt
from tests.test_fit import SHIPPED, SMALL
from tests.test_resume import differing
from tests.torch_engine import TorchEngine

pytestmark = pytest.mark.usefixtures("without_figures")

# Of four steps, only the end has a checkpoint anyway; an evaluation after steps 2 and 4.
RARE = ("checkpoints.every_n_steps=4", "evaluation.every_n_steps=2")


def command(model: Path, output: Path) -> list[str]:
    given = [*SMALL, *RARE, f"model.path={model}", f"output={output}", "ckpt_path=last"]
    return ["--config", str(SHIPPED), *given]


@pytest.fixture(scope="module")
def whole(
    tiny_model_dir: Path, tmp_path_factory: pytest.TempPathFactory, without_figures: None
) -> Path:
    output = tmp_path_factory.mktemp("whole")
    assert ceeh.fit.main(command(tiny_model_dir, output)) == 0
    return output / "starter"


# Each step has two updates; the base's samples are the first generation, validation and scoring.
@pytest.mark.parametrize(
    ("owner", "name", "call", "saved"),
    [
        pytest.param(TorchEngine, "__init__", 1, None, id="start"),
        pytest.param(TorchEngine, "generate", 1, None, id="base"),
        pytest.param(TorchEngine, "generate", 4, 2, id="evaluation of step 2"),
        pytest.param(TorchEngine, "generate", 5, 2, id="generation of step 3"),
        pytest.param(RewardFunction, "__call__", 3, 1, id="scoring of step 2"),
        pytest.param(CEEHModule, "manual_backward", 3, 1, id="backward of step 2"),
        # The weights have changed: the step is finished first.
        pytest.param(LambdaLR, "step", 4, 2, id="optimizer of step 2"),
        pytest.param(TorchEngine, "load_weights", 4, 2, id="push of step 2"),
        pytest.param(TorchEngine, "generate", 7, 4, id="evaluation of step 4"),
        pytest.param(AtomicCheckpointIO, "save_checkpoint", 1, 4, id="save of step 4"),
    ],
)
def test_a_signal_is_honored_in_every_phase(
    whole: Path,
    tiny_model_dir: Path,
    tmp_path: Path,
    capfd: pytest.CaptureFixture[str],
    owner: Any,
    name: str,
    call: int,
    saved: int | None,
) -> None:
    given = command(tiny_model_dir, tmp_path)
    with pytest.MonkeyPatch.context() as patch:
        # A repeat while the state is written.
        repeat = lambda: shutdown.requested() and interrupt()  # noqa: E731
        at_call(patch, AtomicCheckpointIO, "save_checkpoint", 0, repeat)
        at_call(patch, owner, name, call, lambda: os.kill(os.getpid(), signal.SIGTERM))
        assert ceeh.fit.main(given) == 143
    said = capfd.readouterr().err
    assert said.count("stopped by SIGTERM; ") == 1
    assert "Traceback" not in said
    folder = tmp_path / "starter"
    files = [file.name for file in (folder / "checkpoints").glob("*")]
    assert files == ([f"step-{saved:06d}.ckpt"] if saved else [])
    assert not list(folder.rglob("*.partial"))
    assert ceeh.fit.main(given) == 0
    assert differing_at_the_end(whole, folder) == []


def differing_at_the_end(whole: Path, folder: Path) -> list[str]:
    """Apart from the checkpoint of the stop, which an uninterrupted run does not have."""
    for file in (folder / "checkpoints").iterdir():
        if file.name != "step-000004.ckpt":
            file.unlink()
    return differing(whole, folder)


def test_a_stop_between_two_updates_leaves_no_checkpoint_of_half_a_step(
    whole: Path, tiny_model_dir: Path, tmp_path: Path
) -> None:
    def long_step() -> None:
        interrupt()
        time.sleep(0.2)

    given = [*command(tiny_model_dir, tmp_path), "checkpoints.stop_grace_seconds=0.1"]
    with pytest.MonkeyPatch.context() as patch:
        at_call(patch, LambdaLR, "step", 4, long_step)
        assert ceeh.fit.main(given) == 130
    assert list((tmp_path / "starter" / "checkpoints").glob("*")) == []
    assert ceeh.fit.main(given) == 0
    assert differing_at_the_end(whole, tmp_path / "starter") == []


def fails() -> None:
    raise MemoryError("full")


@pytest.mark.parametrize(
    ("name", "call", "saved"),
    [
        ("training_step", 4, 3),
        # Step 2 is over, its evaluation not begun.
        ("on_train_batch_end", 2, 2),
    ],
)
def test_an_error_leaves_the_last_finished_step(
    whole: Path,
    tiny_model_dir: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    name: str,
    call: int,
    saved: int,
) -> None:
    given = command(tiny_model_dir, tmp_path)
    with pytest.MonkeyPatch.context() as patch:
        at_call(patch, CEEHModule, name, call, fails)
        with pytest.raises(MemoryError):
            ceeh.fit.main(given)
    assert f"rollout step {saved} is saved" in capsys.readouterr().out
    assert ceeh.fit.main(given) == 0
    assert differing_at_the_end(whole, tmp_path / "starter") == []


def test_a_signal_while_an_error_is_handled_does_not_lose_the_step(
    tiny_model_dir: Path, tmp_path: Path
) -> None:
    with pytest.MonkeyPatch.context() as patch:
        at_call(patch, CEEHModule, "training_step", 2, fails)
        at_call(patch, AtomicCheckpointIO, "save_checkpoint", 1, interrupt)
        assert ceeh.fit.main(command(tiny_model_dir, tmp_path)) == 130
    assert (tmp_path / "starter" / "checkpoints" / "step-000001.ckpt").is_file()


def test_a_step_that_cannot_be_saved_does_not_hide_why_the_run_ended(
    tiny_model_dir: Path, tmp_path: Path
) -> None:
    def lost() -> None:
        raise RuntimeError("device lost")

    with pytest.MonkeyPatch.context() as patch:
        at_call(patch, CEEHModule, "training_step", 2, fails)
        at_call(patch, AtomicCheckpointIO, "save_checkpoint", 1, lost)
        words = r"rollout step 1 could not be saved \(RuntimeError: device lost\)"
        with pytest.warns(UserWarning, match=words), pytest.raises(MemoryError, match="full"):
            ceeh.fit.main(command(tiny_model_dir, tmp_path))


def test_a_program_that_calls_fit_has_its_signals_back(
    tiny_model_dir: Path, tmp_path: Path
) -> None:
    before = signal.getsignal(signal.SIGINT)
    config = load([SHIPPED], command(tiny_model_dir, tmp_path)[2:])
    with pytest.MonkeyPatch.context() as patch:
        at_call(patch, TorchEngine, "generate", 3, interrupt)
        with pytest.raises(shutdown.Stopped, match="SIGINT"):
            ceeh.fit.fit(config)
    assert signal.getsignal(signal.SIGINT) == before
    assert (tmp_path / "starter" / "checkpoints" / "step-000001.ckpt").is_file()
