"""PotentialScaledWeight: how much correctness counts beside efficiency, by what is left to learn of each."""

from collections.abc import Sequence

import torch
from jaxtyping import Float
from torch import Tensor

from ceeh.callbacks.controllers import Controller
from ceeh.config.rules import UNIT, UNIT_BELOW_1, check
from ceeh.modules.shaping.adaptive_target import symmetric_efficiency
from ceeh.modules.shaping.base import Responses
from ceeh.types import GroupOutcome

EPSILON = 1e-8


def instability(
    values: Float[Tensor, " R"], rows: Responses, *, lowest: float
) -> tuple[float, float]:
    """std / |mean| of `values`, and the potential (1 - mean) / (1 - lowest).

    The variance is that within groups plus that of their means. The potential is the share of the range
    [lowest, 1] that the mean has not reached. Groups without values do not count; (0, 1) without any. LEAD's
    released code, https://arxiv.org/abs/2605.09806.
    """
    means = rows.mean(values)
    within = rows.mean((values - means[rows.group]).square())
    means, within = means[~means.isnan()], within[~within.isnan()]
    if not len(means):
        return 0.0, 1.0
    mean = float(means.mean())
    std = float((within.mean() + means.var(unbiased=False) + EPSILON).sqrt())
    return std / (abs(mean) + EPSILON), (1 - min(max(mean, lowest), 1.0)) / (1 - lowest)


class PotentialScaledWeight(Controller):
    """`correctness_weight` w of `EfficiencyBalance`: an average of what each reward still has to teach.

        w <- momentum w + (1 - momentum) D_c / (D_c + D_e),   D = CV potential

    CV is a reward's `instability` as a share of both rewards' sum. D_c is of correctness, over all responses,
    D_e of `symmetric_efficiency`, over the correct ones. The signal is at least `minimum`. LEAD,
    https://arxiv.org/abs/2605.09806, and its released code, which has these defaults, starts at 0.5, and
    uses a step's weight in the step itself; here it acts in the next one.
    """

    writes = ("correctness_weight",)

    def __init__(
        self, shortest: int, longest: int, momentum: float = 0.95, minimum: float = 0.3
    ) -> None:
        super().__init__(start=0.5, maximum=1.0)
        check(UNIT_BELOW_1, momentum=momentum)
        check(UNIT, minimum=minimum)
        self.shortest = shortest
        self.longest = longest
        self.momentum = momentum
        self.minimum = minimum

    def read(self, uid: str) -> dict[str, float]:
        return {"correctness_weight": max(self.coefficient, self.minimum)}

    def updated(self, outcomes: Sequence[GroupOutcome], probe: Sequence[GroupOutcome]) -> float:
        sizes = torch.tensor([len(each.correct) for each in outcomes])
        rows = Responses(
            correct=torch.tensor([flag for each in outcomes for flag in each.correct]),
            lengths=torch.tensor([length for each in outcomes for length in each.lengths]),
            group=torch.arange(len(outcomes)).repeat_interleave(sizes),
            num_prompts=len(outcomes),
        )
        efficiency = symmetric_efficiency(rows, shortest=self.shortest, longest=self.longest)
        solved = rows.only(rows.correct)
        cv_c, left_c = instability(rows.correct.double(), rows, lowest=0.0)
        cv_e, left_e = instability(efficiency[rows.correct], solved, lowest=-1.0)
        both = cv_c + cv_e + EPSILON
        d_c, d_e = cv_c / both * left_c, cv_e / both * left_e
        target = d_c / (d_c + d_e + EPSILON)
        return self.momentum * self.coefficient + (1 - self.momentum) * target
