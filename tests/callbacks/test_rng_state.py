"""RNGState: after a resume every generator goes on where the stopped run would have."""

import random

import numpy as np
import pytest
import torch
from lightning import Callback

from ceeh.callbacks.rng_state import KEY, RNGState
from ceeh.runtime.rng import read_rng, set_rng

CPU = torch.device("cpu")


def draws() -> list[float]:
    """Two of each generator; the second Gaussian of Python and NumPy comes from a cache."""
    return [
        random.gauss(0, 1),
        float(np.random.standard_normal()),
        float(torch.rand(())),
        random.random(),
    ]


class DrawsAtStart(Callback):
    """As a weight push may: extra draws that only a start has."""

    def on_train_start(self, *_):
        draws()


def seed(number: int) -> None:
    random.seed(number)
    np.random.seed(number)
    torch.manual_seed(number)


@pytest.fixture(autouse=True)
def leave_generators_alone():
    states = read_rng(CPU)
    yield
    set_rng(states, CPU)


def test_a_resumed_run_draws_what_the_uninterrupted_run_draws(fit, batch, tmp_path):
    def run(seeded: int, **settings) -> list[list[float]]:
        drawn: list[list[float]] = []
        seed(seeded)
        fit(
            [DrawsAtStart(), RNGState()],
            [batch(("a", [(True, 2)])) for _ in range(5)],
            draw=lambda: drawn.append(draws()),
            **settings,
        )
        return drawn

    whole = run(0)
    assert run(0, stop_after=2, checkpoints=tmp_path) == whole[:2]
    assert run(99, checkpoints=tmp_path, resume=True) == whole[2:]


def test_the_checkpoint_loads_with_weights_only(fit, batch, tmp_path):
    fit([RNGState()], [batch(("a", [(True, 2)]))], checkpoints=tmp_path)
    expected = draws()  # a fit ends where its checkpoint was written: nothing was drawn since
    checkpoint = torch.load(tmp_path / "step.ckpt", weights_only=True)
    (states,) = checkpoint[KEY]
    set_rng(states, CPU)
    assert draws() == expected


def test_setting_does_not_disturb_a_run_from_scratch(fit, batch):
    # NumPy and torch only: beartype itself draws from Python's generator while it checks types.
    seed(3)
    expected = draws()[1:3]
    seed(3)
    drawn = []
    fit([RNGState()], [batch(("a", [(True, 2)]))], draw=lambda: drawn.append(draws()[1:3]))
    assert drawn == [expected]


def test_a_checkpoint_without_generators_is_refused(fit, batch, tmp_path):
    steps = [batch(("a", [(True, 2)])) for _ in range(2)]
    fit([], steps, stop_after=1, checkpoints=tmp_path)
    with pytest.raises(ValueError, match="holds no random generator states"):
        fit([RNGState()], steps, checkpoints=tmp_path, resume=True)


def test_a_resume_on_another_number_of_ranks_says_so(fit, batch, tmp_path):
    class OfTwoRanks(RNGState):
        def on_save_checkpoint(self, trainer, pl_module, checkpoint):
            super().on_save_checkpoint(trainer, pl_module, checkpoint)
            checkpoint[KEY] *= 2

    steps = [batch(("a", [(True, 2)])) for _ in range(2)]
    fit([OfTwoRanks()], steps, stop_after=1, checkpoints=tmp_path)
    with pytest.warns(UserWarning, match="random generators of 2 ranks, this run has 1"):
        fit([RNGState()], steps, checkpoints=tmp_path, resume=True)
