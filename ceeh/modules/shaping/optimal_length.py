"""Length penalties relative to the prompt's shortest correct response so far: CEEH's, and a one-sided one.

Axis: R rollout rows. Lengths are in tokens.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from ceeh.config.rules import NOT_NEGATIVE, check, one_of
from ceeh.modules.shaping.base import ShapingInputs


def optimal_length_penalty(
    correct: Bool[Tensor, " R"],
    lengths: Int[Tensor, " R"],
    optimal_lengths: Float[Tensor, " R"],
    open_gate: Bool[Tensor, " R"],
    *,
    beta: Float[Tensor, " R"] | float,
    floor: float,
    floor_on: str = "scaled",
) -> Float[Tensor, " R"]:
    """max(-floor, -beta (L_i - L_x) / L_x) where correct and the gate is open, else 0.

    L_x is the signal `optimal_length`, NaN where no correct response is known; the term is then 0. A
    response below L_x earns a bonus.
    CEEH eq. 13 and 14, https://arxiv.org/abs/2602.22642; the floor is the released code's. `unscaled` is how
    the paper's text reads: beta max(-floor, -(L_i - L_x) / L_x).
    """
    term = -(lengths - optimal_lengths) / optimal_lengths
    penalty = (beta * term).clamp(min=-floor)
    if floor_on == "unscaled":
        penalty = beta * term.clamp(min=-floor)
    return torch.where(correct & open_gate & (optimal_lengths > 0), penalty, 0.0)


def not_worse_than_history(
    accuracy: Float[Tensor, " R"], history: Float[Tensor, " R"], *, strict: bool = False
) -> Bool[Tensor, " R"]:
    """The gate Acc(x) >= Acc_h(x), or > if `strict`; open where the history is NaN (the prompt is new).

    CEEH eq. 14, https://arxiv.org/abs/2602.22642, prints >; its released code has >=. With > a question
    solved at every visit, Acc = Acc_h = 1, would never be compressed, although it has the most to give.
    """
    # A moving average of 7/12s is not exactly 7/12; accuracies that differ do so by one response.
    limit = history + 1e-6 if strict else history - 1e-6
    return history.isnan() | (accuracy >= limit)


@dataclass(frozen=True, kw_only=True)
class OptimalLengthPenalty:
    """CEEH: R_total = score + `optimal_length_penalty`; without `gate` it applies to every question.

    A correct response keeps at least 1 - `floor`. `beta_signal` names a signal to read beta from instead,
    e.g. of `ceeh.callbacks.controllers`. Raises ValueError for arguments out of range.
    """

    beta: float = 0.1
    gate: bool = True
    strict_gate: bool = False
    floor: float = 0.9
    floor_on: Literal["scaled", "unscaled"] = "scaled"
    beta_signal: str | None = None
    optimal_length_signal: str = "optimal_length"
    history_signal: str = "accuracy_history"

    def __post_init__(self) -> None:
        check(NOT_NEGATIVE, beta=self.beta)
        check_floor(self.floor)
        check(one_of("scaled", "unscaled"), floor_on=self.floor_on)

    @property
    def reads(self) -> tuple[str, ...]:
        history = (self.history_signal,) if self.gate else ()
        return (self.optimal_length_signal, *history, *named(self.beta_signal))

    def __call__(self, inputs: ShapingInputs) -> Float[Tensor, " R"]:
        return inputs.scores + self.penalty(inputs)

    def penalty(self, inputs: ShapingInputs) -> Float[Tensor, " R"]:
        penalty = optimal_length_penalty(
            inputs.correct,
            inputs.lengths,
            inputs.signal(self.optimal_length_signal),
            self.open_gate(inputs),
            beta=inputs.signal(self.beta_signal) if self.beta_signal else self.beta,
            floor=self.floor,
            floor_on=self.floor_on,
        )
        return penalty.to(inputs.scores.dtype)

    def open_gate(self, inputs: ShapingInputs) -> Bool[Tensor, " R"]:
        if not self.gate:
            return torch.ones_like(inputs.correct)
        history = inputs.signal(self.history_signal)
        return not_worse_than_history(inputs.accuracy, history, strict=self.strict_gate)

    def metrics(self, inputs: ShapingInputs) -> Mapping[str, Float[Tensor, " R"]]:
        """`gate_open`: share of rows with an open gate; `length_penalty`: mean over correct responses."""
        return {
            "gate_open": self.open_gate(inputs).float(),
            "length_penalty": torch.where(inputs.correct, self.penalty(inputs), torch.nan),
        }


def budget_penalty(
    correct: Bool[Tensor, " R"],
    lengths: Int[Tensor, " R"],
    budgets: Float[Tensor, " R"],
    *,
    beta: Float[Tensor, " R"] | float,
    floor: float,
) -> Float[Tensor, " R"]:
    """max(-floor, -beta max(0, L_i / B - 1)) where correct, else 0; 0 where the budget B is NaN.

    A response within its budget loses nothing, and one below it gains nothing: B is a target. LACONIC,
    https://arxiv.org/abs/2602.14468, with one budget for all questions, for wrong responses too.
    """
    excess = (lengths / budgets - 1).clamp(min=0)
    return torch.where(correct & (budgets > 0), (-beta * excess).clamp(min=-floor), 0.0)


@dataclass(frozen=True, kw_only=True)
class BudgetPenalty:
    """R_total = score + `budget_penalty`, B = `kappa` L_x; L_x by `OptimalLength`, rule median.

    `beta_signal` as in `OptimalLengthPenalty`. Raises ValueError for arguments out of range.
    """

    beta: float = 0.1
    kappa: float = 1.0
    floor: float = 0.9
    beta_signal: str | None = None
    optimal_length_signal: str = "optimal_length"

    def __post_init__(self) -> None:
        check(NOT_NEGATIVE, beta=self.beta, kappa=self.kappa)
        check_floor(self.floor)

    @property
    def reads(self) -> tuple[str, ...]:
        return (self.optimal_length_signal, *named(self.beta_signal))

    def __call__(self, inputs: ShapingInputs) -> Float[Tensor, " R"]:
        penalty = budget_penalty(
            inputs.correct,
            inputs.lengths,
            self.kappa * inputs.signal(self.optimal_length_signal),
            beta=inputs.signal(self.beta_signal) if self.beta_signal else self.beta,
            floor=self.floor,
        )
        return inputs.scores + penalty.to(inputs.scores.dtype)


def named(signal: str | None) -> tuple[str, ...]:
    return () if signal is None else (signal,)


def check_floor(floor: float) -> None:
    if not 0 < floor <= 1:
        raise ValueError(
            f"floor must be in (0, 1], got {floor}: above 1 a correct response could be worth less than a "
            "wrong one"
        )
