"""CEEH's length penalty: relative to the prompt's shortest correct response so far."""

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from ceeh.modules.shaping.base import ShapingInputs, check_at_least_zero


def optimal_length_penalty(
    correct: Bool[Tensor, " R"],
    lengths: Int[Tensor, " R"],
    optimal_lengths: Float[Tensor, " R"],
    open_gate: Bool[Tensor, " R"],
    *,
    beta: float,
    floor: float,
) -> Float[Tensor, " R"]:
    """max(-floor, -beta (L_i - L_x) / L_x) where correct and the gate is open, else 0.

    L_x is the prompt's shortest correct response of earlier visits. It is NaN before the first one,
    and the term is then 0. A response below L_x earns a bonus.
    CEEH eq. 13 and 14, https://arxiv.org/abs/2602.22642; the floor is the released code's.
    """
    excess = (lengths - optimal_lengths) / optimal_lengths
    applies = correct & open_gate & (optimal_lengths > 0)
    return torch.where(applies, (-beta * excess).clamp(min=-floor), 0.0)


def not_worse_than_history(
    accuracy: Float[Tensor, " R"], history: Float[Tensor, " R"]
) -> Bool[Tensor, " R"]:
    """The gate Acc(x) >= Acc_h(x); open where the history is NaN (the prompt is new).

    CEEH eq. 14, https://arxiv.org/abs/2602.22642, prints >; its released code has >=. With > a question
    solved at every visit, Acc = Acc_h = 1, would never be compressed, although it has the most to give.
    """
    # A moving average of 7/12s is not exactly 7/12; accuracies that differ do so by one response.
    return history.isnan() | (accuracy >= history - 1e-6)


@dataclass(frozen=True, kw_only=True)
class OptimalLengthPenalty:
    """CEEH: R_total = score + `optimal_length_penalty`; without `gate` it applies to every question.

    A correct response keeps at least 1 - `floor`. Raises ValueError for arguments out of range.
    """

    beta: float = 0.1
    gate: bool = True
    floor: float = 0.9
    optimal_length_signal: str = "optimal_length"
    history_signal: str = "accuracy_history"

    def __post_init__(self) -> None:
        check_at_least_zero(beta=self.beta)
        if not 0 < self.floor <= 1:
            raise ValueError(
                f"floor must be in (0, 1], got {self.floor}: above 1 a correct response could be "
                "worth less than a wrong one"
            )
        if not isinstance(self.gate, bool):
            raise ValueError(f"gate must be true or false, got {self.gate!r}")

    @property
    def reads(self) -> tuple[str, ...]:
        history = (self.history_signal,) if self.gate else ()
        return (self.optimal_length_signal, *history)

    def __call__(self, inputs: ShapingInputs) -> Float[Tensor, " R"]:
        return inputs.scores + self.penalty(inputs)

    def penalty(self, inputs: ShapingInputs) -> Float[Tensor, " R"]:
        penalty = optimal_length_penalty(
            inputs.correct,
            inputs.lengths,
            inputs.signal(self.optimal_length_signal),
            self.open_gate(inputs),
            beta=self.beta,
            floor=self.floor,
        )
        return penalty.to(inputs.scores.dtype)

    def open_gate(self, inputs: ShapingInputs) -> Bool[Tensor, " R"]:
        if not self.gate:
            return torch.ones_like(inputs.correct)
        return not_worse_than_history(inputs.accuracy, inputs.signal(self.history_signal))

    def metrics(self, inputs: ShapingInputs) -> Mapping[str, Float[Tensor, " R"]]:
        """`gate_open`: share of rows with an open gate; `length_penalty`: mean over correct responses."""
        return {
            "gate_open": self.open_gate(inputs).float(),
            "length_penalty": torch.where(inputs.correct, self.penalty(inputs), torch.nan),
        }
