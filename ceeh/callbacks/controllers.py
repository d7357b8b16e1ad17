"""Controllers: coefficients that follow what the run measures, as signals that all questions share.

`objective.shaping.init_args.beta_signal` or `objective.entropy.coefficient_signal` names the signal. A
coefficient used in a step comes from the steps before it.
"""

import math
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from statistics import fmean, variance

from ceeh.callbacks.signal import SignalCallback
from ceeh.config.rules import POSITIVE, UNIT, UNIT_ABOVE_0, UNIT_BELOW_1, at_least, check
from ceeh.types import GroupOutcome


class Controller(SignalCallback, ABC):
    """Abstract: a coefficient that becomes clip(`updated`, 0, maximum) after each step.

    A subclass names its signal in `writes` and gives `updated`; it names further state than the coefficient
    in `state`. All ranks see the same outcomes, so their coefficients agree. Raises ValueError for a `start`
    outside [0, maximum].
    """

    writes: tuple[str, ...] = ()
    state: tuple[str, ...] = ("coefficient",)

    def __init__(self, start: float, maximum: float) -> None:
        if not 0 <= start <= maximum < math.inf:
            raise ValueError(f"start must be from 0 to maximum, got {start} with maximum {maximum}")
        self.coefficient = start
        self.maximum = maximum

    @abstractmethod
    def updated(self, outcomes: Sequence[GroupOutcome], probe: Sequence[GroupOutcome]) -> float:
        """The coefficient after a step with these groups, before it is clipped."""

    def read(self, uid: str) -> Mapping[str, float]:
        return dict.fromkeys(self.writes, self.coefficient)

    def observe(self, outcome: GroupOutcome) -> None:
        """A controller looks at whole steps."""

    def after_step(self, outcomes: Sequence[GroupOutcome], probe: Sequence[GroupOutcome]) -> None:
        self.coefficient = min(max(self.updated(outcomes, probe), 0.0), self.maximum)

    def metrics(self) -> Mapping[str, float]:
        return dict.fromkeys(self.writes, self.coefficient)


class RelativeController(Controller, ABC):
    """Abstract: a coefficient that is multiplied after each step, by a factor of its `error`.

        coefficient <- clip(coefficient exp(rate e), minimum, maximum),  e = clip(error, -1, 1)

    So the rate is about the largest relative change in one step, whatever the coefficient's scale, and a
    start that is wrong by a factor of ten is corrected in ln(10) / rate steps or more. From a small
    `minimum` the coefficient takes long to return. Raises ValueError for arguments out of range.
    """

    def __init__(self, start: float, rate: float, minimum: float, maximum: float) -> None:
        super().__init__(start, maximum)
        check(POSITIVE, start=start, rate=rate)
        if not 0 <= minimum <= start:
            raise ValueError(f"minimum must be from 0 to start, got {minimum} with start {start}")
        self.rate = rate
        self.minimum = minimum

    def track(self, outcomes: Sequence[GroupOutcome], probe: Sequence[GroupOutcome]) -> None:
        """Takes in a step, before `error` is asked for."""

    @abstractmethod
    def error(self, outcomes: Sequence[GroupOutcome], probe: Sequence[GroupOutcome]) -> float:
        """Above 0 where the coefficient should rise, below 0 where it should fall; 0 leaves it as it is."""

    def updated(self, outcomes: Sequence[GroupOutcome], probe: Sequence[GroupOutcome]) -> float:
        self.track(outcomes, probe)
        error = min(max(self.error(outcomes, probe), -1.0), 1.0)
        return max(self.coefficient * math.exp(self.rate * error), self.minimum)


class LengthByAccuracy(RelativeController):
    """`length_coefficient`: the length penalty grows while accuracy is not below the best so far.

        beta <- clip(beta exp(rate e), minimum, maximum)
        e = clip((Acc - (reference - slack - SE)) / band, -1, 1)

    Acc is the mean accuracy in the last `window` steps, of the probe questions (`rollouts.probe`); without
    any, of the step's own questions, which the policy can memorize. Without a `reference` there is no length
    penalty in the first `window` steps; then the reference is the highest value so far of a running mean of
    the accuracy, in which a new step has the weight `smoothing`. While beta is at its minimum it is the
    running mean itself: what is lost there is not lost to the penalty. SE is the standard error of one
    step's accuracy (`accuracy_variance`), in the same running mean: the highest of many noisy values is too
    high, and without SE noise alone would push beta down. `slack` is the loss of accuracy to allow besides.

    A policy can lose the long responses that it needs in fewer steps than a controller needs to see it, and
    hardly finds them again, so `maximum` has to be a penalty that does little harm in a few steps. After
    A-DLP, https://arxiv.org/abs/2505.18298, which adds rate (Acc - reference) instead: its rate has to fit
    the coefficient's scale. Raises ValueError for arguments out of range.
    """

    writes = ("length_coefficient",)
    state = ("coefficient", "recent", "mean", "variance", "best", "steps")

    def __init__(
        self,
        start: float = 0.03,
        rate: float = 0.5,
        slack: float = 0.0,
        band: float = 0.02,
        minimum: float = 0.003,
        maximum: float = 0.3,
        reference: float | None = None,
        window: int = 3,
        smoothing: float = 0.1,
    ) -> None:
        super().__init__(start, rate, minimum, maximum)
        check(UNIT_BELOW_1, slack=slack)
        check(UNIT_ABOVE_0, band=band, smoothing=smoothing)
        check(at_least(1), window=window)
        if reference is not None:
            check(UNIT, reference=reference)
        self.slack = slack
        self.band = band
        self.reference = reference
        self.window = window
        self.smoothing = smoothing
        self.recent: list[float] = []
        self.mean = 0.0
        self.variance = 0.0
        self.best = 0.0
        self.steps = 0

    def read(self, uid: str) -> Mapping[str, float]:
        measuring = self.reference is None and self.steps < self.window
        return {"length_coefficient": 0.0 if measuring else self.coefficient}

    def metrics(self) -> Mapping[str, float]:
        return self.read("")

    def track(self, outcomes: Sequence[GroupOutcome], probe: Sequence[GroupOutcome]) -> None:
        accuracy = fmean(outcome.accuracy for outcome in probe or outcomes)
        squared_error = accuracy_variance(probe or outcomes, same=bool(probe))
        self.steps += 1
        self.recent = [*self.recent, accuracy][-self.window :]
        # The first values have equal weights; later the past fades.
        weight = max(self.smoothing, 1 / self.steps)
        self.mean += weight * (accuracy - self.mean)
        self.variance += weight * (squared_error - self.variance)
        if self.steps >= self.window:
            penalized = self.coefficient > self.minimum
            self.best = max(self.best, self.mean) if penalized else self.mean

    def error(self, outcomes: Sequence[GroupOutcome], probe: Sequence[GroupOutcome]) -> float:
        if self.reference is None and self.steps <= self.window:
            return 0.0
        reference = self.best if self.reference is None else self.reference
        lowest = reference - self.slack - math.sqrt(self.variance)
        return (fmean(self.recent) - lowest) / self.band


def accuracy_variance(outcomes: Sequence[GroupOutcome], *, same: bool) -> float:
    """Squared standard error of the mean accuracy of these groups; 0 where it cannot be estimated.

    `same`: every step has these questions, so only the sampling of responses varies; of one response it is
    estimated from the mean accuracy, which is an upper bound. Otherwise the questions vary, too.
    """
    values = [outcome.accuracy for outcome in outcomes]
    if not same:
        return variance(values) / len(values) if len(values) > 1 else 0.0
    mean = fmean(values)
    of_groups = [
        accuracy * (1 - accuracy) / (size - 1) if size > 1 else mean * (1 - mean)
        for accuracy, size in ((each.accuracy, len(each.correct)) for each in outcomes)
    ]
    return sum(of_groups) / len(values) ** 2


def step_entropy(outcomes: Sequence[GroupOutcome], *, hard: bool = False) -> float:
    """Nats per response token of the groups that were trained on, or of the hard ones; NaN without any."""
    weighted = [
        (sum(each.lengths) * (each.hard if hard else 1.0), each.entropy)
        for each in outcomes
        if math.isfinite(each.entropy)
    ]
    weighted = [(tokens, entropy) for tokens, entropy in weighted if tokens > 0]  # drops NaN, too
    total = sum(tokens for tokens, _ in weighted)
    return sum(tokens * entropy for tokens, entropy in weighted) / total if total else math.nan


class AnchoredEntropy(RelativeController):
    """`entropy_coefficient`: holds the entropy of hard questions at a fraction of its starting value.

        lambda <- min(lambda exp(rate e), maximum),  e = clip(1 - H / (fraction H0), -1, 1)

    H is the step's entropy of the questions that `objective.hard_signal` marks, in nats per token, and H0
    its first value. A step without one changes nothing. After AER, https://arxiv.org/abs/2510.10959, and
    SIREN, https://arxiv.org/abs/2509.25133, which anchor the entropy of all questions, and add rate times the
    difference. Raises ValueError for arguments out of range.
    """

    writes = ("entropy_coefficient",)
    state = ("coefficient", "anchor")
    observes_hard = True

    def __init__(
        self,
        start: float = 0.001,
        rate: float = 0.1,
        fraction: float = 0.3,
        maximum: float = 0.01,
    ) -> None:
        super().__init__(start, rate, 0.0, maximum)
        check(POSITIVE, fraction=fraction)
        self.fraction = fraction
        self.anchor: float | None = None
        self.entropy = math.nan

    def track(self, outcomes: Sequence[GroupOutcome], probe: Sequence[GroupOutcome]) -> None:
        self.entropy = step_entropy(outcomes, hard=True)
        if self.anchor is None and not math.isnan(self.entropy):
            self.anchor = self.entropy

    def error(self, outcomes: Sequence[GroupOutcome], probe: Sequence[GroupOutcome]) -> float:
        if self.anchor is None or math.isnan(self.entropy):
            return 0.0
        target = self.fraction * self.anchor
        return 1 - self.entropy / target if target > 0 else 0.0


class SkyworkEntropy(Controller):
    """`entropy_coefficient`: c while the entropy is at most `target`, else 0; c moves by `step` each step.

        c <- clip(c + step, 0, maximum) where H <= target, else clip(c - step, 0, maximum)

    H is the last step's entropy over all response tokens, in nats. Skywork-OR1's adaptive entropy control,
    https://arxiv.org/abs/2505.22312, has no maximum. Raises ValueError for arguments out of range.
    """

    writes = ("entropy_coefficient",)
    state = ("coefficient", "entropy")

    def __init__(
        self, target: float = 0.2, step: float = 0.005, start: float = 0.0, maximum: float = 0.1
    ) -> None:
        super().__init__(start, maximum)
        check(POSITIVE, target=target, step=step)
        self.target = target
        self.step = step
        self.entropy = math.nan

    def read(self, uid: str) -> Mapping[str, float]:
        return {"entropy_coefficient": self.coefficient if self.entropy <= self.target else 0.0}

    def updated(self, outcomes: Sequence[GroupOutcome], probe: Sequence[GroupOutcome]) -> float:
        entropy = step_entropy(outcomes)
        if math.isnan(entropy):
            return self.coefficient
        self.entropy = entropy
        return self.coefficient + (self.step if entropy <= self.target else -self.step)
