"""RunCheckpoint: after a resume every rng continues where the stopped run would have."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from lightning import Callback, Trainer

from ceeh.callbacks.checkpoint import RunCheckpoint
from ceeh.config.settings import Checkpoints
from ceeh.run.checkpoint import RNG_STATES
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
    def run(seeded: int, callbacks: list[Callback], **settings) -> list[list[float]]:
        drawn: list[list[float]] = []
        seed(seeded)
        fit(
            callbacks,
            [batch(("a", [(True, 2)])) for _ in range(5)],
            draw=lambda: drawn.append(draws()),
            **NO_EVALUATION,
            **settings,
        )
        return drawn

    both = [checkpoint(tmp_path), DrawsAtStart()]
    whole = run(0, both, checkpoints=tmp_path / "whole")
    assert run(0, both, stop_after=2, checkpoints=tmp_path) == whole[:2]
    assert run(99, both, checkpoints=tmp_path, resume=True) == whole[2:]
    # A run from scratch keeps its rng.
    seed(3)
    expected = draws()
    assert run(3, both[:1], stop_after=1, checkpoints=tmp_path / "first") == [expected]


def test_a_callback_that_would_change_a_saved_step_is_refused(tmp_path, tiny_module):
    last, other = checkpoint(tmp_path), DrawsAtStart()
    trainer = Trainer(accelerator="cpu", logger=False, callbacks=[last, other])
    last.setup(trainer, tiny_module, "fit")  # Lightning has put it last
    trainer.callbacks.reverse()
    with pytest.raises(RuntimeError, match=r"must be called last, but .*'DrawsAtStart'.* come"):
        last.setup(trainer, tiny_module, "fit")


class OfTwoRanks(RunCheckpoint):
    def on_save_checkpoint(self, trainer: Any, pl_module: Any, checkpoint: dict[str, Any]) -> None:
        super().on_save_checkpoint(trainer, pl_module, checkpoint)
        checkpoint[RNG_STATES] *= 2


def test_a_resume_on_another_number_of_ranks_warns(fit, batch, tmp_path):
    steps = [batch(("a", [(True, 2)])) for _ in range(2)]
    two = OfTwoRanks(tmp_path, Checkpoints(every_n_steps=100), JSONLLogger(tmp_path))
    fit([two], steps, stop_after=1, checkpoints=tmp_path, **NO_EVALUATION)
    with pytest.warns(UserWarning, match="rng states of 2 ranks, this run has 1"):
        fit([checkpoint(tmp_path)], steps, checkpoints=tmp_path, resume=True, **NO_EVALUATION)
