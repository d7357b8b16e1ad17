"""Inputs of a length reward: from lists, or ragged and random."""

from dataclasses import replace

import torch
from torch import Tensor

from ceeh.modules.shaping.base import ShapingInputs

NAN = float("nan")


def inputs(
    correct: list[int],
    lengths: list[int],
    group: list[int],
    optimal_length: list[float] | None = None,
    history: list[float] | None = None,
) -> ShapingInputs:
    """Finished responses; signals are NaN where nothing is given."""
    unknown = [NAN] * (max(group) + 1)
    return ShapingInputs(
        scores=torch.tensor(correct).float(),
        correct=torch.tensor(correct).bool(),
        lengths=torch.tensor(lengths),
        finished=torch.ones(len(correct), dtype=torch.bool),
        answered=torch.ones(len(correct), dtype=torch.bool),
        group=torch.tensor(group),
        num_prompts=len(unknown),
        signals={
            "optimal_length": torch.tensor(optimal_length or unknown),
            "accuracy_history": torch.tensor(history or unknown),
        },
        progress=0.0,
    )


def ragged(seed: int, num_prompts: int = 6) -> ShapingInputs:
    generator = torch.Generator().manual_seed(seed)

    def uniform(count: int) -> Tensor:
        return torch.rand(count, generator=generator)

    sizes = torch.randint(1, 9, (num_prompts,), generator=generator)
    group = torch.arange(num_prompts).repeat_interleave(sizes)
    group = group[torch.randperm(len(group), generator=generator)]
    correct = uniform(len(group)) < 0.6
    optimal = torch.where(uniform(num_prompts) < 0.8, 10 + 90 * uniform(num_prompts), torch.nan)
    history = torch.where(uniform(num_prompts) < 0.8, uniform(num_prompts), torch.nan)
    return ShapingInputs(
        scores=torch.where(correct, 1.0, 0.25 * uniform(len(group))),
        correct=correct,
        lengths=torch.randint(1, 400, (len(group),), generator=generator),
        finished=uniform(len(group)) < 0.9,
        answered=correct | (uniform(len(group)) < 0.8),
        group=group,
        num_prompts=num_prompts,
        signals={"optimal_length": optimal, "accuracy_history": history},
        progress=0.0,
    )


def rows(given: ShapingInputs, order: Tensor) -> ShapingInputs:
    names = ("scores", "correct", "lengths", "finished", "answered", "group")
    return replace(given, **{name: getattr(given, name)[order] for name in names})
