"""After a kill, a full disk or damage a run resumes to the numbers of an uninterrupted one."""

import re
import shutil
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import torch

import ceeh.assembly.folder
import ceeh.fit.held_out
import ceeh.reporting.page
import ceeh.reporting.panels
import ceeh.run.checkpoint_io
from ceeh.config.settings import Config
from ceeh.data.verify.reward_function import RewardFunction
from ceeh.errors import ConfigError, RunError
from ceeh.fit import fit
from ceeh.modules.module import CEEHModule
from ceeh.modules.policy import Policy
from ceeh.reporting.run_page import write_report
from ceeh.run.checkpoint import checkpoint_file
from ceeh.run.metrics_file import JSONLLogger
from fault_injection.equality import differences
from tests.commands import contents
from tests.endings import Killed, at_call, die
from tests.limits import bound_by_permissions, largest_file
from tests.test_fit import small

pytestmark = pytest.mark.usefixtures("without_figures")

# A checkpoint after every step; two of the four have an evaluation, too.
EVERY = ("checkpoints.every_n_steps=1", "evaluation.every_n_steps=2")


def differing(one: Path, other: Path) -> list[str]:
    """Python's own generator aside: beartype draws from it while it checks the tests' types."""
    return [words for words in differences(one, other) if "rng_states[0].python" not in words]


@pytest.fixture(scope="module")
def whole(
    tiny_model_dir: Path, tmp_path_factory: pytest.TempPathFactory, without_figures: None
) -> Path:
    return fit(small(tiny_model_dir, tmp_path_factory.mktemp("whole"), *EVERY, "ckpt_path=last"))


@pytest.fixture
def command(tiny_model_dir: Path, tmp_path: Path) -> Callable[..., Config]:
    """The same command, however often it is given."""

    def given(*overrides: str) -> Config:
        return small(tiny_model_dir, tmp_path, *EVERY, "ckpt_path=last", *overrides)

    return given


@pytest.mark.parametrize(
    ("owner", "name", "call", "after", "start"),
    [
        (RewardFunction, "__call__", 2, False, None),  # step 1: no checkpoint yet
        # The checkpoint of step 1 is there, its line of metrics.jsonl is not: line 0 is the first two.
        (JSONLLogger, "log_metrics", 3, False, 1),
        # In the evaluation of step 2, whose checkpoint waits for it: the base's is the first.
        (CEEHModule, "validation_step", 2, True, 1),
        (Policy, "save", 1, True, 4),  # after the last step
    ],
)
def test_a_killed_run_resumes_to_equal_numbers(
    whole: Path,
    command: Callable[..., Config],
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    owner: type,
    name: str,
    call: int,
    after: bool,
    start: int | None,
) -> None:
    with pytest.MonkeyPatch.context() as patch:
        at_call(patch, owner, name, call, die, after=after)
        with pytest.raises(Killed):
            fit(command())
    files = sorted((tmp_path / "starter" / "checkpoints").glob("*.ckpt"))
    assert [file.name for file in files][-1:] == ([f"step-{start:06d}.ckpt"] if start else [])
    assert differing(whole, fit(command())) == []
    if start is None:
        assert "has no checkpoint yet; restarting from step 1" in capsys.readouterr().out


def fill_disk(patch: pytest.MonkeyPatch, *free: int) -> None:
    """What is free at each save, in bytes; a save that finds too little asks again for its warning."""
    asked = iter([size for size in free for _ in range(2 if size == 0 else 1)])
    patch.setattr(ceeh.run.checkpoint_io, "free_bytes", lambda place: next(asked))


def test_a_full_disk_is_survived_with_the_checkpoint_before_it(
    whole: Path, command: Callable[..., Config], monkeypatch: pytest.MonkeyPatch
) -> None:
    fill_disk(monkeypatch, 2**30, 0, 0, 2**30)
    with pytest.warns(UserWarning, match="was not written") as caught:
        folder = fit(command())
    assert len(caught) == 2
    for step, warning in zip((2, 3), caught, strict=True):
        words = (
            rf"the checkpoint of rollout step {step} was not written \(No space left on device\): it takes "
            r"4\d\d\.\d KiB, 0 bytes are free in '.*checkpoints'; the newest is step-000001\.ckpt\. "
            rf"Free space there; training continues. This is failure {step - 1} in a row, number 3 stops .*"
        )
        assert re.fullmatch(words, str(warning.message))
    names = sorted(file.name for file in (folder / "checkpoints").iterdir())
    assert names == ["step-000001.ckpt", "step-000004.ckpt"]
    assert (folder / "metrics.jsonl").read_text().count("\n") == 5


def test_a_disk_that_stays_full_stops_the_run_which_resumes_when_there_is_space(
    whole: Path, command: Callable[..., Config], tmp_path: Path
) -> None:
    stop = r"step 3 .* failure 2 in a row, as many as checkpoints.max_failures allows"
    with pytest.MonkeyPatch.context() as patch:
        fill_disk(patch, 2**30, 0, 0)
        with pytest.warns(UserWarning, match="step 2 was not"), pytest.raises(RunError, match=stop):
            fit(command("checkpoints.max_failures=2"))
    left = [file.name for file in (tmp_path / "starter" / "checkpoints").iterdir()]
    assert left == ["step-000001.ckpt"]
    assert differing(whole, fit(command())) == []


@pytest.mark.parametrize(
    ("module", "name", "call", "file"),
    [
        (ceeh.assembly.folder, "write_config", 1, "config.yaml"),
        (ceeh.fit.held_out, "write_table", 1, "held_out/base.npz"),
        (ceeh.fit.held_out, "write_table", 2, "held_out/tuned.npz"),
        (ceeh.fit.held_out, "atomic_write_text", 1, "summary.json"),
        (ceeh.reporting.panels, "atomic_write", 1, "report.html"),
        (ceeh.reporting.page, "atomic_write_text", 1, "report.html"),
    ],
)
def test_a_file_that_a_full_disk_has_no_place_for_is_written_by_the_resumed_run(
    whole: Path,
    command: Callable[..., Config],
    tmp_path: Path,
    module: ModuleType,
    name: str,
    call: int,
    file: str,
) -> None:
    with ExitStack() as full, pytest.MonkeyPatch.context() as patch:
        patch.setattr(ceeh.fit.held_out, "write_report", write_report)
        at_call(patch, module, name, call, lambda: full.enter_context(largest_file(10)))
        words = rf"{file}' cannot be written \(File too large\), .* are free there; free space and resume"
        with pytest.raises(RunError, match=words):
            fit(command())
    assert not (tmp_path / "starter" / file).exists()
    assert not list((tmp_path / "starter").rglob(".*"))
    (tmp_path / "starter" / "report.png").unlink(missing_ok=True)  # `whole` has none
    assert differing(whole, fit(command())) == []


@pytest.mark.parametrize(
    ("locked", "leftover", "overrides", "words"),
    [
        (".", None, [], "' cannot be written .*latest"),
        ("starter", ".a.partial", [], "starter' cannot be written .*a.partial"),
        (
            "starter",
            None,
            ["optimizer.lr=0.1"],
            "starter/config.yaml' cannot be written .*config.resumed-1",
        ),
        ("starter", None, [], "starter/metrics.jsonl' cannot be written .*metrics.jsonl.partial"),
        ("starter/metrics.jsonl", None, [], "metrics.jsonl' cannot be read .* make it readable"),
    ],
)
def test_a_run_of_another_user_is_refused_with_nothing_changed(
    whole: Path,
    command: Callable[..., Config],
    tmp_path: Path,
    locked: str,
    leftover: str | None,
    overrides: list[str],
    words: str,
) -> None:
    run = Path(shutil.copytree(whole, tmp_path / "starter"))
    if leftover:
        (run / leftover).touch()
    before = contents(run)
    place = tmp_path / locked
    place.chmod(0o555 if place.is_dir() else 0)
    try:
        with bound_by_permissions(), pytest.raises(ConfigError, match=words):
            fit(command(*overrides))
    finally:
        place.chmod(0o755)
    assert contents(run) == before


@pytest.mark.parametrize("content", [b'{"key": "a', b"[1]", b"{}", b"\xff"])
def test_a_damaged_state_of_mlflow_is_refused_with_nothing_changed(
    whole: Path, command: Callable[..., Config], tmp_path: Path, content: bytes
) -> None:
    run = Path(shutil.copytree(whole, tmp_path / "starter"))
    (run / "mlflow.json").write_bytes(content)
    (run / ".a.partial").touch()
    (tmp_path / "latest").symlink_to("another")
    before = contents(run)
    words = r"starter/mlflow.json' is not a file of ceeh's tracking \(.*\); restore a copy, or remove it"
    with pytest.raises(ConfigError, match=words):
        fit(command("tracking.mlflow=true"))
    assert contents(run) == before
    assert (tmp_path / "latest").readlink() == Path("another")


def test_nan_or_infinity_stops_the_run_before_it_is_saved(
    whole: Path, command: Callable[..., Config], tmp_path: Path
) -> None:
    step = CEEHModule.training_step

    def overflowing(self: CEEHModule, *arguments: Any) -> Any:
        outputs = step(self, *arguments)
        if self.rollout_step == 3:
            state = self.optimizers().state[self.policy.trainable[0]]  # type: ignore[union-attr]
            state["exp_avg"][0] = torch.inf
        return outputs

    stop = r"step 3 contains NaN or infinity: .*exp_avg is not finite\. .*000002\.ckpt"
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(CEEHModule, "training_step", overflowing)
        with pytest.raises(RunError, match=stop):
            fit(command())
    left = sorted(file.name for file in (tmp_path / "starter" / "checkpoints").iterdir())
    assert left == ["step-000001.ckpt", "step-000002.ckpt"]
    assert differing(whole, fit(command())) == []


def test_a_damaged_checkpoint_is_skipped_and_later_files_are_abandoned(
    whole: Path, command: Callable[..., Config], capsys: pytest.CaptureFixture[str]
) -> None:
    folder = fit(command())
    checkpoints = folder / "checkpoints"
    damaged = checkpoint_file(checkpoints, 4)
    damaged.write_bytes(damaged.read_bytes()[:-1000])
    (folder / "held_out" / "base.npz").write_bytes(b"PK half of a file")
    with pytest.MonkeyPatch.context() as patch:
        at_call(patch, RewardFunction, "__call__", 2, die)
        with pytest.raises(Killed):
            fit(command())
    out = capsys.readouterr().out
    assert "resuming from step-000003.ckpt; skipped step-000004.ckpt: " in out
    assert "base.npz' cannot be read as samples of a run" in out
    names = sorted(file.name for file in checkpoints.iterdir())
    assert names == ["step-000003.ckpt", "step-000004.ckpt.abandoned"]
