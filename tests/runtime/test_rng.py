"""Seeds, and saving and restoring the rng states of a process."""

import random

import numpy as np
import pytest
import torch

from ceeh.runtime.rng import derived_seed, read_rng, rng_preserved, set_rng


def draws() -> list[float]:
    """The second Gaussian of Python and NumPy comes from a cache."""
    return [
        random.gauss(0, 1),
        random.random(),
        float(np.random.standard_normal()),
        float(torch.rand(())),
    ]


def test_states_survive_a_checkpoint(tmp_path) -> None:
    draws()
    torch.save(read_rng(torch.device("cpu")), tmp_path / "states")
    expected = draws()
    set_rng(torch.load(tmp_path / "states", weights_only=True), torch.device("cpu"))
    assert draws() == expected


@pytest.mark.parametrize("error", [None, MemoryError, KeyboardInterrupt])
def test_rng_states_do_not_depend_on_what_the_block_draws(
    error: type[BaseException] | None,
) -> None:
    with rng_preserved():
        expected = draws()

    def drawing() -> None:
        with rng_preserved():
            draws()
            if error:
                raise error

    if error:
        with pytest.raises(error):
            drawing()
    else:
        drawing()
    assert draws() == expected


def test_derived_seeds_depend_on_every_part() -> None:
    seeds = {
        derived_seed(*parts) for parts in [(0, "a"), (1, "a"), (0, "b"), (0, "a", ""), ("0a",)]
    }
    assert len(seeds) == 5
    assert all(0 <= seed < 2**63 for seed in seeds)
