"""What identifies weights: their content, whatever the commit or the place."""

from pathlib import Path

import pytest

from ceeh.runtime import versions
from ceeh.runtime.versions import tensors_digest, weights_digest


def model(folder: Path, weights: bytes, readme: str) -> Path:
    folder.mkdir()
    (folder / "model.safetensors").write_bytes(weights)
    (folder / "config.json").write_text("{}")
    (folder / "README.md").write_text(readme)
    return folder


def test_another_commit_with_the_same_tensors_has_their_digest(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    one, two = (model(tmp_path / name, b"weights", name) for name in ("1a", "2b"))
    other = model(tmp_path / "3c", b"others!", "1a")
    found = []
    for snapshot in (one, two, other):
        monkeypatch.setattr(versions, "_snapshot", lambda _, folder=snapshot: folder)
        assert weights_digest("user/model") == f"commit {snapshot.name}"
        found.append(tensors_digest("user/model"))
        assert found[-1] == tensors_digest(str(snapshot))
    assert found[0] == found[1] != found[2]


def test_a_changed_setting_of_the_model_is_no_change_of_its_tensors(tmp_path: Path) -> None:
    folder = model(tmp_path / "model", b"weights", "")
    tensors, weights = tensors_digest(str(folder)), weights_digest(folder)
    (folder / "config.json").write_text('{"eos_token_id": 1}')
    assert tensors_digest(str(folder)) == tensors
    assert weights_digest(folder) != weights
