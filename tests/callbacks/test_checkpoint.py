"""RunCheckpoint: after a resume every rng continues where the stopped run would have."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from lightning import Callback, LightningModule, Trainer

from ceeh.callbacks.checkpoint import RNG_STATES, RunCheckpoint
from ceeh.config.settings import Checkpoints
from ceeh.run.metrics_file import JSONLLogger
from ceeh.runtime.rng import read_rng, set_rng

CPU = torch.device("cpu")
NO_EVALUATION = {"val_check_interval": 100, "check_val_every_n_epoch": None}


def checkpoint(folder: Path) -> RunCheckpoint:
    return RunCheckpoint(folder, Checkpoints(every_n_steps=100), JSONLLogger(folder))


def draws() -> list[float]:
    """Not Python's: beartype draws from that rng while it checks types. NumPy caches a second Gaussian."""
    return [float(np.random.standard_normal()), float(torch.rand(()))]


class DrawsAtStart(Callback):
    """Like a weight push: draws that only a start has. In the list it comes after RunCheckpoint."""

    def on_train_start(self, *_: Any) -> None:
        draws()


def seed(number: int) -> None:
    np.random.seed(number)
    torch.manual_seed(number)


@pytest.fixture(autouse=True)
def rng_unchanged() -> Iterator[None]:
    states = read_rng(CPU)
    yield
    set_rng(states, CPU)


def test_a_resumed_run_draws_what_the_uninterrupted_run_draws(fit, batch, tmp_path):
    def run(seeded: int, **settings) -> list[list[float]]:
        drawn: list[list[float]] = []
        seed(seeded)
        fit(
            [checkpoint(tmp_path), DrawsAtStart()],
            [batch(("a", [(True, 2)])) for _ in range(5)],
            draw=lambda: drawn.append(draws()),
            **NO_EVALUATION,
            **settings,
        )
        return drawn

    whole = run(0, checkpoints=tmp_path / "whole")
    assert run(0, stop_after=2, checkpoints=tmp_path) == whole[:2]
    assert run(99, checkpoints=tmp_path, resume=True) == whole[2:]


def test_a_run_from_scratch_keeps_its_rng(fit, batch, tmp_path):
    seed(3)
    expected = draws()
    seed(3)
    drawn = []
    steps = [batch(("a", [(True, 2)]))]
    fit(
        [checkpoint(tmp_path)],
        steps,
        draw=lambda: drawn.append(draws()),
        checkpoints=tmp_path,
        **NO_EVALUATION,
    )
    assert drawn == [expected]


def test_a_checkpoint_without_rng_states_is_refused(fit, batch, tmp_path):
    steps = [batch(("a", [(True, 2)])) for _ in range(2)]
    fit([], steps, stop_after=1, checkpoints=tmp_path)
    with pytest.raises(ValueError, match="has no rng states"):
        fit([checkpoint(tmp_path)], steps, checkpoints=tmp_path, resume=True, **NO_EVALUATION)


class OfTwoRanks(RunCheckpoint):
    def on_save_checkpoint(
        self, trainer: Trainer, pl_module: LightningModule, checkpoint: dict[str, Any]
    ) -> None:
        super().on_save_checkpoint(trainer, pl_module, checkpoint)
        checkpoint[RNG_STATES] *= 2


def test_a_resume_on_another_number_of_ranks_says_so(fit, batch, tmp_path):
    steps = [batch(("a", [(True, 2)])) for _ in range(2)]
    two = OfTwoRanks(tmp_path, Checkpoints(every_n_steps=100), JSONLLogger(tmp_path))
    fit([two], steps, stop_after=1, checkpoints=tmp_path, **NO_EVALUATION)
    with pytest.warns(UserWarning, match="rng states of 2 ranks, this run has 1"):
        fit([checkpoint(tmp_path)], steps, checkpoints=tmp_path, resume=True, **NO_EVALUATION)
