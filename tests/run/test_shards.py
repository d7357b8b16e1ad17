"""Distributed checkpoints on disk: read by any number of ranks, resumed only when whole."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from ceeh.errors import ConfigError
from ceeh.run.atomic import partial_of, remove_partial
from ceeh.run.checkpoint import checkpoint_file, fault, newest_checkpoint, read_checkpoint
from ceeh.run.checkpoint_io import AtomicCheckpointIO, publish, write_part
from ceeh.run.shards import COMMON, MANIFEST, Rows, rank_file, replaced, tensors
from fault_injection.equality import unequal


def state(rows: int = 5) -> dict[str, Any]:
    torch.manual_seed(0)
    moments = {"exp_avg": torch.randn(rows, 3), "step": torch.tensor(7.0)}
    return {
        "state_dict": {"policy.a": torch.randn(rows, 3), "policy.b": torch.randn(2)},
        "optimizer_states": [{"state": {0: moments}, "param_groups": [{"lr": 0.1}]}],
        "rollout_step": 4,
    }


def save(folder: Path, ranks: int, content: dict[str, Any] | None = None) -> Path:
    """As so many ranks save it: all but the number of steps is sharded, the last ranks may have no row."""
    parts: list[dict[str, Tensor]] = [{} for _ in range(ranks)]

    def cut(place: str, value: Tensor) -> Tensor:
        if not value.dim():
            return value
        size = -(-len(value) // ranks)
        for rank, part in enumerate(parts):
            part[place] = value[rank * size : (rank + 1) * size].clone()
        return torch.empty(value.shape, dtype=value.dtype, device="meta")

    common = replaced(content or state(), cut)
    place = checkpoint_file(folder, 4)
    partial = partial_of(place)
    files = {COMMON: common} | {rank_file(rank): part for rank, part in enumerate(parts)}
    assert write_part(files, partial) is None
    assert publish(partial, place, ranks=ranks) is None
    return place


@pytest.mark.parametrize("ranks", [1, 2, 3, 4])
def test_what_any_number_of_ranks_wrote_is_read_whole_and_in_any_rows(
    ranks: int, tmp_path: Path
) -> None:
    file, whole = save(tmp_path, ranks), state()
    assert fault(file) is None
    assert newest_checkpoint(tmp_path) == file
    for content in (read_checkpoint(file), AtomicCheckpointIO().load_checkpoint(file)):
        assert list(unequal(content, whole, "")) == []
    rows = Rows(file)
    for start in range(6):
        for stop in range(start, 6):
            part = rows.read("optimizer_states[0].state.0.exp_avg", start, stop)
            assert torch.equal(
                part, whole["optimizer_states"][0]["state"][0]["exp_avg"][start:stop]
            )


def test_without_weights_no_file_of_a_rank_is_opened(tmp_path: Path) -> None:
    file = save(tmp_path, 2)
    (file / rank_file(0)).unlink()
    state = read_checkpoint(file, weights=False)
    assert state["rollout_step"] == 4
    assert state["state_dict"]["policy.a"].is_meta


def damaged(name: str) -> Callable[[Path], None]:
    def flip(folder: Path) -> None:
        content = bytearray((folder / name).read_bytes())
        content[len(content) // 2] ^= 1
        (folder / name).write_bytes(content)

    return flip


def without_a_rank(folder: Path) -> None:
    """Consistent in itself, as if fewer ranks had written it."""
    files = json.loads((folder / MANIFEST).read_text())
    del files[rank_file(0)]
    (folder / MANIFEST).write_text(json.dumps(files))


@pytest.mark.parametrize(
    ("spoil", "words"),
    [
        (lambda folder: (folder / rank_file(1)).unlink(), r"not whole: rank-00001\.pt is missing"),
        (lambda folder: (folder / COMMON).unlink(), r"not whole: common\.pt is missing"),
        (
            lambda folder: (folder / MANIFEST).unlink(),
            r"not whole: .* does not name each rank's file",
        ),
        (lambda folder: (folder / MANIFEST).write_text("{}"), "does not name each rank's file"),
        (lambda folder: (folder / MANIFEST).write_text('{"common.pt": 3}'), "is damaged"),
        (lambda folder: (folder / MANIFEST).write_text("[1"), "is damaged"),
        (without_a_rank, "does not name each rank's file"),
        (damaged(rank_file(0)), r"wrong checksum of rank-00000\.pt"),
        (damaged(COMMON), r"wrong checksum of common\.pt"),
    ],
)
def test_a_checkpoint_that_is_not_whole_is_not_resumed(
    spoil: Callable[[Path], None], words: str, tmp_path: Path
) -> None:
    file = save(tmp_path, 2)
    spoil(file)
    with pytest.raises(ConfigError, match=words):
        newest_checkpoint(tmp_path)


@pytest.mark.parametrize("place", ["state_dict.policy.a", "optimizer_states[0].state.0.exp_avg"])
def test_nan_in_the_rows_of_any_rank_is_found(place: str, tmp_path: Path) -> None:
    content = state()
    dict(tensors(content, ""))[place][4, 2] = torch.nan
    assert (
        fault(save(tmp_path, 2, content))
        == f"it contains NaN or infinity, first in rows[1].{place}"
    )


def test_what_a_killed_save_leaves_is_no_checkpoint_and_goes_at_the_next_start(
    tmp_path: Path,
) -> None:
    file = save(tmp_path, 2)
    file.rename(partial_of(file))  # killed before the rename
    assert newest_checkpoint(tmp_path) is None
    remove_partial(tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_one_process_saves_and_removes_a_folder(tmp_path: Path) -> None:
    io, place = AtomicCheckpointIO(), checkpoint_file(tmp_path / "new", 4)
    for _ in range(2):  # the second replaces the first
        io.save_shards(state(), place)
        assert io.failure is None
    assert list(unequal(read_checkpoint(place), state(), "")) == []
    io.remove_checkpoint(place)
    assert list(place.parent.iterdir()) == []


def test_a_save_without_space_leaves_nothing_and_says_how_much_it_takes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("ceeh.run.checkpoint_io.free_bytes", lambda place: 100)
    io, place = AtomicCheckpointIO(), checkpoint_file(tmp_path, 4)
    io.save_shards(state(), place)
    assert io.failure is not None
    assert (io.failure.reason, io.failure.free) == ("No space left on device", 100)
    assert io.failure.needed > 100
    assert list(tmp_path.iterdir()) == []


def test_ranks_that_end_one_by_one_leave_a_whole_checkpoint_with_the_last(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    io, place, ranks = AtomicCheckpointIO(), checkpoint_file(tmp_path, 4), [2, 0, 1]
    for rank in ranks:
        monkeypatch.setenv("RANK", str(rank))
        whole = io.save_own_part(state(), place, ranks=len(ranks))
        assert whole == place.is_dir() == (rank == ranks[-1])
        assert io.failure is None
    assert fault(place) is None
    assert list(unequal(read_checkpoint(place), state(), "")) == []
    assert [path.name for path in tmp_path.iterdir()] == [place.name]
