"""`--push-to-hub` sends the folder to the hub; without a hub the folder stays."""

from pathlib import Path
from types import SimpleNamespace

import pytest

from ceeh.export import main
from ceeh.export import run as command
from tests.conftest import FinishedRun


@pytest.fixture
def hub(monkeypatch: pytest.MonkeyPatch) -> SimpleNamespace:
    """A hub that accepts everything, or raises `error` if that is set."""
    calls = SimpleNamespace(created=[], uploaded=[], error=None)

    class Api:
        def create_repo(self, repo: str, *, private: bool, exist_ok: bool) -> None:
            if calls.error:
                raise calls.error
            calls.created.append((repo, private, exist_ok))

        def upload_folder(self, *, repo_id: str, folder_path: Path, commit_message: str) -> None:
            calls.uploaded.append((repo_id, sorted(path.name for path in folder_path.iterdir())))

    monkeypatch.setattr(command, "HfApi", Api)
    monkeypatch.setattr(command, "get_token", lambda: "hf_secret")
    return calls


def test_a_push_sends_the_whole_folder(
    full_run: FinishedRun, tmp_path: Path, hub: SimpleNamespace, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "out"
    assert main([str(full_run.path), str(out), "--push-to-hub", "me/brief", "--private"]) == 0
    assert hub.created == [("me/brief", True, True)]
    assert hub.uploaded == [("me/brief", sorted(path.name for path in out.iterdir()))]
    assert "https://huggingface.co/me/brief" in capsys.readouterr().out
    assert 'from_pretrained("me/brief"' in (out / "README.md").read_text()


def test_an_unreachable_hub_fails_only_the_push(
    full_run: FinishedRun, tmp_path: Path, hub: SimpleNamespace, capsys: pytest.CaptureFixture[str]
) -> None:
    hub.error = ConnectionError("cannot reach https://user:hf_secret@huggingface.co\nand so on")
    out = tmp_path / "out"
    assert main([str(full_run.path), str(out), "--push-to-hub", "me/brief", "--private"]) == 1
    said = capsys.readouterr()
    assert "error: 'me/brief' was not pushed: cannot reach" in said.err
    assert f"hf upload me/brief {out} --private" in said.err
    assert "hf_secret" not in said.out + said.err
    assert (out / "model.safetensors").is_file()
