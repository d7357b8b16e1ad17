"""Length rewards with a reference length of the question: each by hand."""

from dataclasses import replace

import pytest
import torch

from ceeh.modules.shaping.base import Shaping, ShapingInputs
from ceeh.modules.shaping.reference_length import (
    AdaptivePenalty,
    HistoryAware,
    LengthPenalty,
    MinMaxLength,
    SampleOptimalLength,
)
from tests.modules.shaping.shaping_inputs import NAN, inputs


@pytest.mark.parametrize(
    ("shaping", "given", "expected"),
    [
        # Prompt 0: mean 200, std 100 of its correct ones, z = -1 and 1; sigmoid 0.26894 and
        # 0.73106. 1 - 0.2 * 0.26894; 1 - 0.2 * 0.73106. Prompt 1: one response, 1 - 0.2 / 2.
        (
            LengthPenalty(alpha=0.2),
            inputs([1, 1, 0, 1], [100, 300, 900, 70], [0, 0, 0, 1]),
            [0.946212, 0.853788, 0.0, 0.9],
        ),
        # h = 100. Correct: 1 + cos(pi/4); 1 + cos(pi/2); 1 + max(-0.7, cos(3 pi/4) = -0.707); 1 - 0.7.
        # Wrong: min(0, cos(pi/4)); cos(3 pi/4); cos(pi). The second question has no h.
        (
            HistoryAware(),
            inputs([1, 1, 1, 1, 0, 0, 0, 1], [50, 100, 150, 300, 50, 150, 250, 900],
                   [0] * 7 + [1], [100.0, NAN]),
            [1.707107, 1.0, 0.3, 0.3, 0.0, -0.707107, -1.0, 1.0],
        ),
        # SOL = 100: 2; 2 - 0.001 * 50; -0.001 * 20. None correct, mean 50: -0.001 * 10 each.
        (
            SampleOptimalLength(),
            inputs([1, 1, 0, 0, 0], [100, 150, 80, 40, 60], [0, 0, 0, 1, 1]),
            [2.0, 1.95, -0.02, -0.01, -0.01],
        ),
        # beta / N = 0.0025. Three of four correct: 1 - 0.0025 * 0.75 * 100; twice 200; wrong:
        # -0.0025 * 0.75 * 200. None of two: max(0, 1/2): -0.0025 * 0.5 * 40; 0.
        (
            AdaptivePenalty(beta=0.5, max_response_tokens=200),
            inputs([1, 1, 1, 0, 0, 0], [100, 200, 200, 200, 40, 0], [0, 0, 0, 0, 1, 1]),
            [0.8125, 0.625, 0.625, -0.375, -0.05, 0.0],
        ),
        # 100 to 300: s = 0.5, 0.25, 0, -0.5; a wrong one gets no bonus. Equal lengths: s = 0.
        (
            MinMaxLength(weight=0.4),
            inputs([1, 0, 1, 0, 1, 0], [100, 150, 200, 300, 70, 70], [0, 0, 0, 0, 1, 1]),
            [1.2, 0.0, 1.0, -0.2, 1.0, 0.0],
        ),
    ],
    ids=lambda value: type(value).__name__ if isinstance(value, Shaping) else "",
)  # fmt: skip
def test_literal_case(shaping: Shaping, given: ShapingInputs, expected: list[float]):
    torch.testing.assert_close(shaping(given), torch.tensor(expected))


def test_kimi_has_no_length_term_before_its_warm_up_is_over():
    case, shaping = inputs([1, 1], [100, 300], [0, 0]), MinMaxLength(weight=0.4, warmup=0.25)
    torch.testing.assert_close(shaping(replace(case, progress=0.24)), torch.tensor([1.0, 1.0]))
    torch.testing.assert_close(shaping(replace(case, progress=0.25)), torch.tensor([1.2, 0.8]))
