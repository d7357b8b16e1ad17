"""What is refused, fails or does not come back as it was trained leaves nothing new behind."""

import re
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from ceeh.export import main
from ceeh.export import run as command
from tests.conftest import FinishedRun
from tests.endings import interrupt


def full_disk(*arguments: object) -> None:
    raise OSError(28, "No space left on device")


@pytest.mark.parametrize(
    ("failure", "status"), [(full_disk, 1), (lambda *_: interrupt(), 130)], ids=["disk", "SIGINT"]
)
def test_an_export_that_fails_leaves_the_older_one(
    full_run: FinishedRun,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    failure: Callable[..., None],
    status: int,
) -> None:
    out = tmp_path / "out"
    assert main([str(full_run.path), str(out)]) == 0
    before = (out / "README.md").read_bytes()
    monkeypatch.setattr(command, "write_card", failure)
    assert main([str(full_run.path), str(out), "--force"]) == status
    assert (out / "README.md").read_bytes() == before
    assert [path.name for path in tmp_path.iterdir()] == ["out"]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["{tmp}/nope", "{tmp}/out"], "the run '.*nope' does not exist"),
        (["{run}/../nope", "{tmp}/out"], "runs in .*: latest, starter"),
        (["{run}/model", "{tmp}/out"], "is already a model, not a run: nothing to export"),
        (["{run}", "{run}/out"], "is inside the run folder"),
        (["{run}", "{run}"], "is inside the run folder"),
        (["{run}", "{run}/.."], "contains the run '.*'; give"),
        (["{run}", "{tmp}/file"], "is a file; give a folder"),
        (["{run}", "{tmp}/out", "--adapter"], "trained all weights .* leave out --adapter"),
        (
            ["{run}", "{tmp}/out", "--checkpoint", "x.ckpt"],
            r"checkpoints of '.*': step-000002\.ckpt",
        ),
        (
            ["{run}", "{tmp}/out", "--checkpoint", "{lora}/checkpoints/step-000002.ckpt"],
            "does not belong to the run",
        ),
        (["{run}", "{tmp}/out", "--push-to-hub", "a/b/c"], "'a/b/c' is not a hub id"),
        (["{run}", "{tmp}/out", "--push-to-hub", "a/b"], "needs a token; set HF_TOKEN"),
    ],
)
def test_refused_exports_write_nothing(
    full_run: FinishedRun,
    lora_run: FinishedRun,
    tmp_path: Path,
    arguments: list[str],
    message: str,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(command, "get_token", lambda: None)
    (tmp_path / "file").write_text("")
    before = sorted(path.name for path in full_run.path.iterdir())
    places = {"run": full_run.path, "lora": lora_run.path, "tmp": tmp_path}
    assert main([word.format(**places) for word in arguments]) == 2
    error = capsys.readouterr().err
    assert error.startswith("error: ")
    assert error.count("\n") == 1
    assert re.search(message, error), error
    assert sorted(path.name for path in full_run.path.iterdir()) == before
    assert [path.name for path in tmp_path.iterdir()] == ["file"]


def test_more_precision_than_the_model_folder_needs_the_last_checkpoint(
    lora_run: FinishedRun, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = lora_run.copy(tmp_path)
    (run / "checkpoints" / "step-000002.ckpt").unlink()
    for option in (["--adapter"], ["--dtype", "float32"]):
        assert main([str(run), str(tmp_path / "out"), *option]) == 2
        assert f"{' '.join(option)} needs the final fp32 weights" in capsys.readouterr().err
    # The dtype of the run's own model/ needs nothing more.
    assert main([str(run), str(tmp_path / "out"), "--dtype", "bfloat16"]) == 0
    shutil.rmtree(run / "model")
    assert main([str(run), str(tmp_path / "other")]) == 2
    assert "ended before its first checkpoint and has no model/" in capsys.readouterr().err


@pytest.mark.parametrize("options", [[], ["--adapter"]], ids=["merged", "adapter"])
@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda value: value * 1.5, "the written model is not the trained one: their log-probs"),
        (lambda value: value[:1], "the written model does not load"),
    ],
    ids=["other values", "other shape"],
)
def test_what_does_not_come_back_as_it_was_trained_is_not_exported(
    lora_run: FinishedRun,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    options: list[str],
    damage: Callable[[torch.Tensor], torch.Tensor],
    message: str,
) -> None:
    def damaging(folder: Path, *arguments: object, **more: object) -> None:
        name = "adapter_model.safetensors" if options else "model.safetensors"
        weights = load_file(folder / name)
        part = next(
            name for name in weights if "down_proj.lora_A" in name or "down_proj.weight" in name
        )
        scale = 20 if options else 1  # an adapter of two steps is small
        weights[part] = damage(weights[part] * scale).contiguous()
        save_file(weights, folder / name, metadata={"format": "pt"})
        return check(folder, *arguments, **more)  # type: ignore[arg-type]

    check = command.check_reload
    monkeypatch.setattr(command, "check_reload", damaging)
    given = [str(lora_run.path), str(tmp_path / "out"), "--dtype", "float32", *options]
    assert main(given) == 1
    error = capsys.readouterr().err
    assert message in error
    assert "nothing was exported" in error
    assert list(tmp_path.iterdir()) == []
