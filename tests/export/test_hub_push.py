"""A run pushes its model after each checkpoint, through huggingface_hub to a server on this machine."""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from threading import Timer
from typing import Any

import pytest
from huggingface_hub import HfApi

from ceeh.assembly.components import build_callbacks
from ceeh.config.settings import load
from ceeh.errors import ConfigError
from ceeh.export import hub_push
from ceeh.export.hub_push import HubPush
from ceeh.fit import fit
from ceeh.runtime.shutdown import Stopped, signals_honored
from tests.hub_server import Hub, served
from tests.runtime.test_distributed import ended_well, two_processes
from tests.test_fit import SMALL, small

ROOT = Path(__file__).parents[2]
TOKEN = "hf_abcdefghijklmnopqrst"
CALLBACK = (
    "callbacks.hub={class_path: ceeh.export.hub_push.HubPush, init_args: {repo_id: me/brief%s}}"
)
pytestmark = pytest.mark.usefixtures("without_figures")


@pytest.fixture
def hub(monkeypatch: pytest.MonkeyPatch) -> Iterator[Hub]:
    monkeypatch.setenv("HF_TOKEN", TOKEN)
    with served(Hub()) as hub:
        monkeypatch.setattr("ceeh.export.run.HfApi", partial(HfApi, endpoint=hub.url))
        yield hub


@pytest.mark.parametrize(
    ("settings", "arguments", "file"),
    [
        ((), "", "model.safetensors"),
        (
            ("model.lora.rank=2", "model.lora.alpha=2"),
            ", adapter: true",
            "adapter_model.safetensors",
        ),
    ],
    ids=["model", "adapter"],
)
def test_each_checkpoint_becomes_a_commit(
    hub: Hub,
    tiny_model_dir: Path,
    tmp_path: Path,
    settings: tuple[str, ...],
    arguments: str,
    file: str,
    capsys: pytest.CaptureFixture[str],
) -> None:
    run = fit(small(tiny_model_dir, tmp_path, CALLBACK % arguments, *settings))
    messages, contents = zip(*hub.commits, strict=True)
    assert messages == tuple(f"Rollout step {step} of a ceeh run" for step in (2, 4))
    assert {"name": "brief", "organization": "me", "visibility": "private"} in hub.created
    first, last = contents
    assert first[file] != last[file]
    if not arguments:
        assert last[file] == (run / "model" / file).read_bytes()
    assert b"4 rollout steps" in last["README.md"]
    assert b'from_pretrained("me/brief"' in last["README.md"]
    assert "pushed rollout step 4 to https://huggingface.co/me/brief" in capsys.readouterr().out
    assert not (run / hub_push.FOLDER).exists()
    assert hub.tokens == {f"Bearer {TOKEN}"}
    written = b"".join(path.read_bytes() for path in run.rglob("*") if path.is_file())
    assert TOKEN.encode() not in written + b"".join(last.values())


def test_a_push_that_fails_is_one_warning_and_the_next_checkpoint_tries_again(
    hub: Hub, tiny_model_dir: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    hub.failing = 1
    run = fit(small(tiny_model_dir, tmp_path, CALLBACK % ""))
    assert [message for message, _ in hub.commits] == ["Rollout step 4 of a ceeh run"]
    (warning,) = (r for r in caplog.records if r.name == hub_push.__name__)
    assert "'me/brief' was not pushed" in warning.getMessage()
    assert "the next checkpoint tries again" in warning.getMessage()
    assert (run / "summary.json").is_file()


@pytest.mark.parametrize("answers", [False, True], ids=["never", "during the last evaluation"])
def test_a_final_model_that_came_during_an_upload_is_named_with_its_command(
    hub: Hub,
    tiny_model_dir: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
    capsys: pytest.CaptureFixture[str],
    answers: bool,
) -> None:
    hub.open.clear()
    end = HubPush.on_train_end

    def end_and_answer(self: HubPush, *args: Any) -> None:
        end(self, *args)
        if answers:
            hub.open.set()
            self.thread.join()
            assert self.uploaded == 2

    monkeypatch.setattr(HubPush, "on_train_end", end_and_answer)
    run = fit(small(tiny_model_dir, tmp_path, CALLBACK % ", wait_minutes: 0.001"))
    (warning,) = (r.getMessage() for r in caplog.records if r.name == hub_push.__name__)
    assert "the model of rollout step 4 was not pushed to 'me/brief'" in warning
    assert f"hf upload me/brief {run / 'model'} --private" in warning
    assert "pushed rollout step" not in capsys.readouterr().out
    # An upload in progress still reads it.
    assert (run / hub_push.FOLDER).exists() != answers


def waiting(folder: Path, *, seconds: float) -> HubPush:
    """With an upload in progress."""
    (folder / "config.json").write_text("{}")
    callback = HubPush("me/brief", wait_minutes=seconds / 60)
    callback.thread = callback._start(folder, 3)
    return callback


def test_a_requested_stop_ends_the_wait(hub: Hub, tmp_path: Path) -> None:
    hub.open.clear()
    callback = waiting(tmp_path, seconds=20)
    with signals_honored():
        timer = Timer(0.2, os.kill, (os.getpid(), signal.SIGTERM))
        timer.start()
        with pytest.raises(Stopped):
            callback._wait()
        timer.join()
    assert callback.seconds_left > 5


def test_two_waits_share_their_minutes(hub: Hub, tmp_path: Path) -> None:
    hub.open.clear()
    callback = waiting(tmp_path, seconds=1.5)
    times = [time.monotonic()]
    for _ in range(2):
        callback._wait()
        times.append(time.monotonic())
    assert times[1] - times[0] >= 1.4
    assert times[2] - times[1] < 1
    assert callback.thread.is_alive()


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ("repo_id: a/b/c", "repo_id: 'a/b/c' is not a hub id"),
        ("repo_id: me/brief", "repo_id needs a token; set HF_TOKEN"),
        ("repo_id: me/brief, wait_minutes: -1", "wait_minutes must be a finite number, at least 0"),
    ],
)
def test_what_cannot_be_pushed_is_told_before_the_run(
    arguments: str, words: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("ceeh.export.run.get_token", lambda: None)
    hub = f"callbacks.hub={{class_path: {HubPush.__module__}.HubPush, init_args: {{{arguments}}}}}"
    with pytest.raises(ConfigError) as raised:
        build_callbacks(load([], [hub]))
    assert str(raised.value).startswith(f"callbacks.hub ({HubPush.__module__}.HubPush): {words}")


def test_an_adapter_needs_one(hub: Hub, tiny_model_dir: Path, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"adapter: true, but model\.lora\.rank is 0"):
        fit(small(tiny_model_dir, tmp_path, CALLBACK % ", adapter: true"))


UPLOAD = """
import sys
from pathlib import Path
from ceeh.export.hub_push import HubPush
thread = HubPush("me/brief")._start(Path(sys.argv[1]), 3)
thread.join(2)
print(thread.is_alive())
"""


def test_an_upload_cannot_keep_a_process_alive(
    hub: Hub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Python waits at its exit for the threads of executors, but not for this one."""
    monkeypatch.setenv("HF_ENDPOINT", hub.url)
    hub.open.clear()
    (tmp_path / "config.json").write_text("{}")
    command = [sys.executable, "-c", UPLOAD, str(tmp_path)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert (done.returncode, done.stdout) == (0, "True\n"), done.stderr
    assert hub.commits == []  # a process that waits for its thread ends after the answer


@pytest.mark.slow
def test_two_processes_push_the_whole_of_their_shards(
    hub: Hub, tiny_model_dir: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HF_ENDPOINT", hub.url)
    given = ["hardware.strategy=fsdp", "rollouts.steps=2", "checkpoints.every_n_steps=1"]
    ended_well(
        two_processes(
            [*SMALL, *given, f"model.path={tiny_model_dir}", CALLBACK % ""], tmp_path / "runs"
        )
    )
    assert [message[:14] for message, _ in hub.commits] == ["Rollout step 1", "Rollout step 2"]
    own = (tmp_path / "runs" / "starter" / "model" / "model.safetensors").read_bytes()
    assert hub.commits[-1][1]["model.safetensors"] == own != hub.commits[0][1]["model.safetensors"]
