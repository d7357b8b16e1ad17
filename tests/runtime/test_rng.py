"""Code that draws random numbers and may not be noticed by it."""

import random

import numpy as np
import pytest
import torch

from ceeh.runtime.rng import rng_preserved


def draws() -> list[float]:
    return [random.random(), float(np.random.random()), float(torch.rand(()))]


@pytest.mark.parametrize("error", [None, MemoryError, KeyboardInterrupt])
def test_generators_go_on_as_if_the_block_had_not_drawn(error: type[BaseException] | None) -> None:
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
