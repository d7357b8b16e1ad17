"""Which run and checkpoint `ckpt_path` means, and which later files are removed."""

import subprocess
import sys
from pathlib import Path

import pytest
import torch

from ceeh.errors import ConfigError
from ceeh.run.checkpoint import checkpoint_file
from ceeh.run.folder import RunFolder


def checkpoint(folder: Path, rollout_step: int) -> Path:
    (folder / "checkpoints").mkdir(parents=True, exist_ok=True)
    file = checkpoint_file(folder / "checkpoints", rollout_step)
    torch.save({"state_dict": {}, "rollout_step": rollout_step}, file)
    return file


def test_last_is_the_newest_checkpoint_of_the_newest_run(tmp_path: Path) -> None:
    for number in ("", "-2", "-10"):
        checkpoint(tmp_path / f"a{number}", 9)
    newest = checkpoint(tmp_path / "a-10", 100)
    checkpoint(tmp_path / "ab", 200)
    folder, file = RunFolder.resume(str(tmp_path), "a", "last")
    assert (folder.path, file) == (tmp_path / "a-10", newest)
    folder.point_latest()
    assert (tmp_path / "latest").resolve() == folder.path.resolve()


def test_last_is_not_a_run_that_was_given_the_name_with_a_number(tmp_path: Path) -> None:
    first, second = checkpoint(tmp_path / "a", 9), checkpoint(tmp_path / "a-2", 10)
    (tmp_path / "a-3").write_text("")
    (tmp_path / "a-2" / "config.yaml").write_text("name: a-2\nseed: 0\n")
    assert RunFolder.resume(str(tmp_path), "a", "last")[1] == first
    assert RunFolder.resume(str(tmp_path), "a-2", "last")[1] == second
    (tmp_path / "a-2" / "config.yaml").write_text("name: a\nseed: 0\n")
    assert RunFolder.resume(str(tmp_path), "a", "last")[1] == second


def test_last_without_a_run_starts_a_new_one(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder, file = RunFolder.resume(str(tmp_path / "runs"), "a", "last")
    assert (folder.path, file) == (tmp_path / "runs" / "a", None)
    assert "no run called 'a' under" in capsys.readouterr().out


def test_last_restarts_a_run_killed_before_its_first_checkpoint(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    checkpoint(tmp_path / "a", 9)  # an older run of the name is another run
    (tmp_path / "a-2" / "checkpoints").mkdir(parents=True)
    folder, file = RunFolder.resume(str(tmp_path), "a", "last")
    assert (folder.path, file) == (tmp_path / "a-2", None)
    assert "'a-2' has no checkpoint yet" in capsys.readouterr().out.replace(f"{tmp_path}/", "")


def test_a_finished_run_without_checkpoints_is_not_restarted(tmp_path: Path) -> None:
    (tmp_path / "a" / "model").mkdir(parents=True)
    with pytest.raises(ConfigError, match="a' is finished and has no checkpoint left"):
        RunFolder.resume(str(tmp_path), "a", "last")


def test_a_damaged_file_is_refused_with_the_cure(tmp_path: Path) -> None:
    file = checkpoint(tmp_path / "a", 4)
    file.write_bytes(file.read_bytes()[:-30])
    with pytest.raises(
        ConfigError, match=r"cannot resume from .* ckpt_path=last takes the newest good"
    ):
        RunFolder.resume(str(tmp_path), "a", str(file))


def test_files_after_the_checkpoint_and_partial_files_are_removed(tmp_path: Path) -> None:
    run = RunFolder(tmp_path / "a")
    files = [checkpoint(run.path, step) for step in (2, 4, 6)]
    run.rollouts.mkdir()
    for step in (1, 4, 5):
        (run.rollouts / f"step-{step:06d}.parquet").touch()
    (run.rollouts / "skipped-000005.parquet").touch()
    of_others = ("step-old.parquet", "a-b.parquet", "other-000009.parquet", "step-000009.csv")
    for name in of_others:
        (run.rollouts / name).touch()
    for name in (".config.yaml.partial", "checkpoints/.step-000008.ckpt.partial"):
        (run.path / name).touch()
    run.drop_after(4)
    left = {str(path.relative_to(run.path)) for path in run.path.rglob("*") if path.is_file()}
    assert left == {
        "checkpoints/step-000002.ckpt",
        "checkpoints/step-000004.ckpt",
        "checkpoints/step-000006.ckpt.abandoned",
        "rollouts/step-000001.parquet",
        "rollouts/step-000004.parquet",
        *(f"rollouts/{name}" for name in of_others),
    }
    assert run.newest_checkpoint() == files[1]


def test_a_run_in_use_cannot_be_resumed(tmp_path: Path) -> None:
    run = RunFolder(tmp_path / "a")
    run.path.mkdir()
    program = "import sys; sys.stdin.read()"
    with run.claimed():
        # A process that was started meanwhile has no part in the claim.
        child = subprocess.Popen([sys.executable, "-c", program], stdin=subprocess.PIPE)
        with pytest.raises(ConfigError, match=r"the run '.*a' is in use by another process"):
            run.claimed().__enter__()
    with child, run.claimed():
        assert list(run.path.iterdir()) == []


def test_the_newest_configuration_is_that_of_the_last_resume(tmp_path: Path) -> None:
    run = RunFolder(tmp_path)
    names = ["config.yaml", *(f"config.resumed-{number}.yaml" for number in range(1, 12))]
    for name in names:
        assert run.config_file.name != name or name == "config.yaml"
        (tmp_path / name).touch()
        assert run.config_file.name == name  # not in the order of the letters


def test_a_run_that_ended_early_has_the_step_of_its_summary(tmp_path: Path) -> None:
    run = RunFolder(tmp_path)
    assert run.final_step(9) == 9
    (tmp_path / "summary.json").write_text('{"rollout_step": 4}')
    assert run.final_step(9) == 4
