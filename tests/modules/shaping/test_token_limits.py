"""Length rewards with a limit or a target in tokens: each by hand."""

from dataclasses import replace

import pytest
import torch

from ceeh.modules.shaping.base import Shaping, ShapingInputs
from ceeh.modules.shaping.token_limits import LengthLimit, SoftOverlong, TargetLength
from tests.modules.shaping.shaping_inputs import inputs


@pytest.mark.parametrize(
    ("shaping", "given", "expected"),
    [
        # Within the limit, beyond it, wrong, within it but truncated.
        (
            LengthLimit(limits=[64]),
            replace(inputs([1, 1, 0, 1], [64, 65, 10, 64], [0] * 4),
                    finished=torch.tensor([True, True, True, False])),
            [1.0, 0.0, 0.0, 0.0],
        ),
        # 200 with a margin of 40. Correct 1, wrong -1; less 0, (160 - 170) / 40, 1, 1 beyond 200.
        (
            SoftOverlong(margin=40, max_response_tokens=200),
            inputs([1, 1, 0, 0, 0], [160, 170, 160, 200, 230], [0] * 5),
            [1.0, 0.75, -1.0, -2.0, -2.0],
        ),
        # Target 100: correct within it 1 + 0.5, correct beyond it 1, wrong -0.5 however short, no answer -1.
        (
            TargetLength(target_signal="optimal_length"),
            replace(inputs([1, 1, 0, 0], [100, 101, 50, 50], [0] * 4, [100.0]),
                    answered=torch.tensor([True, True, True, False])),
            [1.5, 1.0, -0.5, -1.0],
        ),
    ],
    ids=lambda value: type(value).__name__ if isinstance(value, Shaping) else "",
)  # fmt: skip
def test_literal_case(shaping: Shaping, given: ShapingInputs, expected: list[float]):
    torch.testing.assert_close(shaping(given), torch.tensor(expected))


def test_limits_tighten_over_equal_shares_of_the_run():
    shaping = LengthLimit(limits=[128, 96, 64])
    limits = [shaping.limit(step / 9) for step in range(9)]
    assert limits == [128, 128, 128, 96, 96, 96, 64, 64, 64]
    assert shaping(replace(inputs([1], [100], [0]), progress=0.4)).tolist() == [0.0]
