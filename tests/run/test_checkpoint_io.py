"""Checkpoints on disk: written completely or not at all; damage, NaN and infinity are detected."""

import io
import math
import os
import random
from pathlib import Path
from typing import Any

import pytest
import torch

import ceeh.run.checkpoint_io
from ceeh.errors import ConfigError
from ceeh.run.checkpoint import (
    checkpoint_file,
    fault,
    newest_checkpoint,
    read_checkpoint,
    rollout_step_of,
)
from ceeh.run.checkpoint_io import AtomicCheckpointIO, Stream
from fault_injection.equality import unequal
from tests.limits import largest_file


def state(rollout_step: int = 1, weight: float = 0.0, moment: float = 0.0) -> dict[str, Any]:
    torch.manual_seed(rollout_step)
    weights = {f"policy.{name}": torch.randn(40, 30) for name in "ab"}
    weights["policy.b"][3, 4] += weight
    moments = {"exp_avg": torch.zeros(40, 30) + moment, "step": torch.tensor(1.0)}
    return {
        "state_dict": weights,
        "optimizer_states": [{"state": {0: moments}}],
        "callbacks": {"Table": {"values": torch.tensor([math.nan, 1.0])}},
        "rollout_step": rollout_step,
    }


def save(folder: Path, rollout_step: int, **spoiled: float) -> Path:
    file = checkpoint_file(folder, rollout_step)
    ceeh_io = AtomicCheckpointIO()
    ceeh_io.save_checkpoint(state(rollout_step, **spoiled), file)
    assert ceeh_io.failure is None
    return file


def test_torch_loads_a_saved_checkpoint(tmp_path: Path) -> None:
    file = save(tmp_path / "new", 3)
    kept, read = state(3), torch.load(file, weights_only=True)
    assert list(unequal(read, kept, "")) == []
    assert AtomicCheckpointIO().load_checkpoint(file)["rollout_step"] == 3
    assert fault(file) is None  # NaN in a table is allowed
    assert [path.name for path in file.parent.iterdir()] == ["step-000003.ckpt"]


def test_a_flipped_bit_is_detected_or_changes_nothing(tmp_path: Path) -> None:
    file = save(tmp_path, 1)
    whole, dice, seen = file.read_bytes(), random.Random(0), 0
    ends = (range(len(whole)), range(2500), range(len(whole) - 2500, len(whole)))
    for place in [dice.choice(dice.choice(ends)) for _ in range(150)]:
        flipped = bytearray(whole)
        flipped[place] ^= 1 << dice.randrange(8)
        file.write_bytes(flipped)
        if fault(file):
            seen += 1
            continue
        assert list(unequal(read_checkpoint(file, mmap=False), state(1), str(place))) == []
    assert seen > 100  # the others hit padding


def test_a_truncated_file_is_detected_at_any_length(tmp_path: Path) -> None:
    file = save(tmp_path, 1)
    whole = file.read_bytes()
    for length in [*range(0, len(whole), 700), len(whole) - 1]:
        file.write_bytes(whole[:length])
        assert fault(file), length


def test_the_newest_good_checkpoint_is_used_and_the_skipped_ones_are_named(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for step in (2, 4, 6, 10):
        save(tmp_path, step)
    whole = checkpoint_file(tmp_path, 10).read_bytes()
    checkpoint_file(tmp_path, 10).write_bytes(whole[:-900])
    flipped = bytearray(checkpoint_file(tmp_path, 6).read_bytes())
    flipped[len(flipped) // 2] ^= 1
    checkpoint_file(tmp_path, 6).write_bytes(flipped)
    torch.save(state(4, weight=math.nan), checkpoint_file(tmp_path, 4))
    (tmp_path / ".step-000012.ckpt.partial").write_bytes(whole[:100])
    assert newest_checkpoint(tmp_path) == checkpoint_file(tmp_path, 2)
    (line,) = capsys.readouterr().out.splitlines()
    assert line.startswith("resuming from step-000002.ckpt; skipped step-000010.ckpt: ")
    assert "; step-000006.ckpt: it is damaged (wrong checksum of " in line
    assert "; step-000004.ckpt: it contains NaN or infinity, first in state_dict.policy.b" in line
    checkpoint_file(tmp_path, 2).unlink()
    with pytest.raises(
        ConfigError, match=r"no checkpoint in .* can be loaded; step-000010\.ckpt: .*step-000004"
    ):
        newest_checkpoint(tmp_path)
    assert newest_checkpoint(tmp_path / "nowhere") is None


@pytest.mark.parametrize(
    ("spoiled", "name"),
    [
        ({"weight": math.nan}, "state_dict.policy.b"),
        ({"weight": -math.inf}, "state_dict.policy.b"),
        ({"moment": math.inf}, r"optimizer_states\[0\].state.0.exp_avg"),
    ],
)
def test_a_checkpoint_with_nan_or_infinity_is_not_written(
    tmp_path: Path, spoiled: dict[str, float], name: str
) -> None:
    before = save(tmp_path, 2).read_bytes()
    ceeh_io = AtomicCheckpointIO()
    ceeh_io.save_checkpoint(state(2, **spoiled), checkpoint_file(tmp_path, 2))
    assert ceeh_io.failure is not None
    assert not ceeh_io.failure.finite
    assert ceeh_io.failure.reason.replace("[", r"\[").replace("]", r"\]").startswith(name)
    assert checkpoint_file(tmp_path, 2).read_bytes() == before


def test_a_disk_that_fills_up_during_a_save_keeps_the_old_checkpoint(tmp_path: Path) -> None:
    before = save(tmp_path, 2).read_bytes()
    ceeh_io = AtomicCheckpointIO()
    with largest_file(9000):  # of 19 thousand bytes
        for step in (2, 4):
            ceeh_io.save_checkpoint(state(step), checkpoint_file(tmp_path, step))
            failure = ceeh_io.failure
            # a, b, exp_avg; step; the table
            needed = 3 * 4800 + 4 + 8
            assert failure is not None
            assert (failure.reason, failure.finite) == ("File too large", True)
            assert failure.needed == needed
    assert [path.name for path in tmp_path.iterdir()] == ["step-000002.ckpt"]
    assert checkpoint_file(tmp_path, 2).read_bytes() == before
    ceeh_io.save_checkpoint(state(4), checkpoint_file(tmp_path, 4))
    assert ceeh_io.failure is None
    assert fault(checkpoint_file(tmp_path, 4)) is None


def test_a_save_that_does_not_fit_is_not_tried(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(ceeh.run.checkpoint_io, "free_bytes", lambda place: 5000)
    monkeypatch.setattr(torch, "save", lambda *arguments: pytest.fail("tried"))
    ceeh_io = AtomicCheckpointIO()
    ceeh_io.save_checkpoint(state(), tmp_path / "step-000001.ckpt")
    assert ceeh_io.failure is not None
    assert (ceeh_io.failure.reason, ceeh_io.failure.free) == ("No space left on device", 5000)


def test_an_interrupt_during_a_save_leaves_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Target(io.FileIO):
        """torch's C++ writer would end the process if the error came through it."""

        writes = 0

        def write(self, data: Any) -> int:
            self.writes += 1
            if self.writes == 5:
                raise KeyboardInterrupt
            return super().write(data)

    monkeypatch.setattr(
        ceeh.run.checkpoint_io, "Stream", lambda target: Stream(Target(os.devnull, "wb"))
    )
    with pytest.raises(KeyboardInterrupt):
        AtomicCheckpointIO().save_checkpoint(state(), tmp_path / "step-000001.ckpt")
    assert not list(tmp_path.iterdir())


def test_a_run_cannot_resume_from_weights_alone(tmp_path: Path) -> None:
    file = tmp_path / "step-000002.ckpt"
    torch.save({"state_dict": {}, "rollout_step": 2, "loops": {}}, file)
    lacking = "callbacks, lr_schedulers, optimizer_states, pytorch-lightning_version, rng_states"
    words = rf"ckpt_path: a run cannot resume from '.*step-000002.ckpt', it lacks {lacking}; give"
    with pytest.raises(ConfigError, match=words):
        rollout_step_of(file)
