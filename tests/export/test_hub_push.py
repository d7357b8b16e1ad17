"""A run pushes its model after each checkpoint, through huggingface_hub to a server on this machine."""

from collections.abc import Iterator
from functools import partial
from pathlib import Path

import pytest
from huggingface_hub import HfApi

from ceeh.errors import ConfigError
from ceeh.export import hub_push
from ceeh.export.hub_push import HubPush
from ceeh.fit import fit
from tests.hub_server import Hub, served
from tests.runtime.test_distributed import ended_well, two_processes
from tests.test_fit import SMALL, small

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


def test_a_hub_that_never_answers_is_waited_for_as_long_as_it_was_allowed(
    hub: Hub, tiny_model_dir: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    hub.open.clear()
    run = fit(small(tiny_model_dir, tmp_path, CALLBACK % ", wait_minutes: 0.001"))
    (warning,) = (r.getMessage() for r in caplog.records if r.name == hub_push.__name__)
    assert "the model of rollout step 2 is still being pushed to 'me/brief'" in warning
    assert f"hf upload me/brief {run / hub_push.FOLDER}" in warning
    assert (run / hub_push.FOLDER / "model.safetensors").is_file()


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ({"repo_id": "a/b/c"}, "callbacks: HubPush: 'a/b/c' is not a hub id"),
        ({"repo_id": "me/brief"}, "callbacks: HubPush needs a token; set HF_TOKEN"),
    ],
)
def test_what_cannot_be_pushed_is_told_before_the_run(
    arguments: dict[str, str], words: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("ceeh.export.run.get_token", lambda: None)
    with pytest.raises(ConfigError, match=words):
        HubPush(**arguments)


def test_an_adapter_needs_one(hub: Hub, tiny_model_dir: Path, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"adapter: true, but model\.lora\.rank is 0"):
        fit(small(tiny_model_dir, tmp_path, CALLBACK % ", adapter: true"))


def test_an_upload_cannot_keep_a_process_alive(hub: Hub, tmp_path: Path) -> None:
    """Python waits at its exit for the threads of executors, but not for this one."""
    hub.open.clear()
    callback = HubPush("me/brief")
    (tmp_path / "config.json").write_text("{}")
    thread = callback.start(tmp_path, 3)
    assert thread.daemon
    assert thread.is_alive()
    hub.open.set()
    thread.join(30)
    assert callback.uploaded == 3
    assert hub.commits == [("Rollout step 3 of a ceeh run", {"config.json": b"{}"})]


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
