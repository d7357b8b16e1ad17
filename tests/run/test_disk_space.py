"""Disk space: the estimate is what is written, and a message says how much is missing."""

import warnings
from pathlib import Path

import pytest
import torch

import ceeh.run.disk_space
from ceeh.errors import RunError
from ceeh.modules.restore import load_policy
from ceeh.pretrained.locate import open_trained
from ceeh.run.checkpoint import read_checkpoint, tensors
from ceeh.run.disk_space import check_space, format_bytes, storage_bytes
from tests.conftest import FinishedRun

MIB = 2**20


@pytest.mark.parametrize("kind", ["full", "lora"])
def test_a_checkpoint_has_the_estimated_size(kind: str, request: pytest.FixtureRequest) -> None:
    run: FinishedRun = request.getfixturevalue(f"{kind}_run")
    file = run.path / "checkpoints" / "step-000002.ckpt"
    state = read_checkpoint(file)
    estimate = load_policy(open_trained(str(file))).checkpoint_bytes
    kept = [
        value
        for part in ("state_dict", "optimizer_states")
        for _, value in tensors(state[part], part)
    ]
    steps = sum(
        value.nbytes for value in kept if value.dim() == 0
    )  # Adam's counters, 4 bytes a tensor
    assert estimate + steps == storage_bytes(kept)


def test_shared_storages_are_counted_once_and_whole() -> None:
    table = torch.zeros(100)
    assert storage_bytes([table, table[:3], table.view(10, 10)]) == 400


@pytest.mark.parametrize(
    ("free", "message"),
    [
        (39 * MIB, None),
        (
            29 * MIB,
            "takes about 10.0 MiB, and 29.0 MiB are free .*checkpoints.keep = 3, .* take 30.0 MiB more",
        ),
        (
            9 * MIB,
            "takes about 10.0 MiB, and 9.0 MiB are free .* too little for even one; free space",
        ),
    ],
)
def test_little_space_is_a_warning_and_no_space_an_error(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, free: int, message: str | None
) -> None:
    monkeypatch.setattr(ceeh.run.disk_space, "free_bytes", lambda place: free)
    (tmp_path / "step-000002.ckpt").write_bytes(bytes(10 * MIB))  # one of the four is there
    if message is None:
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            check_space(tmp_path, 10 * MIB, 3)
    elif "even one" in message:
        with pytest.raises(RunError, match=message):
            check_space(tmp_path, 10 * MIB, 3)
    else:
        with pytest.warns(UserWarning, match=message):
            check_space(tmp_path, 10 * MIB, 3)


def test_free_space_of_a_missing_folder_is_that_of_its_disk(tmp_path: Path) -> None:
    assert ceeh.run.disk_space.free_bytes(tmp_path / "a" / "b") > 0


@pytest.mark.parametrize(
    ("size", "words"),
    [
        (0, "0 bytes"),
        (1023, "1023 bytes"),
        (1024, "1.0 KiB"),
        (1.5 * MIB, "1.5 MiB"),
        (84 * 2**30, "84.0 GiB"),
        (2**43, "8.0 TiB"),
        (2**53, "8192.0 TiB"),
    ],
)
def test_sizes_are_readable(size: float, words: str) -> None:
    assert format_bytes(size) == words
