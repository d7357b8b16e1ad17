"""Length rewards, as YAML names them: `class_path: ceeh.modules.shaping.OptimalLengthPenalty`."""

from ceeh.modules.shaping.adaptive_target import (
    CalibratedLength,
    EfficiencyBalance,
    ExperienceLimit,
)
from ceeh.modules.shaping.base import NoShaping, Shaping, ShapingInputs
from ceeh.modules.shaping.optimal_length import BudgetPenalty, OptimalLengthPenalty
from ceeh.modules.shaping.reference_length import (
    AdaptivePenalty,
    HistoryAware,
    LengthPenalty,
    MinMaxLength,
    SampleOptimalLength,
)
from ceeh.modules.shaping.token_limits import LengthLimit, SoftOverlong, TargetLength

__all__ = [
    "AdaptivePenalty",
    "BudgetPenalty",
    "CalibratedLength",
    "EfficiencyBalance",
    "ExperienceLimit",
    "HistoryAware",
    "LengthLimit",
    "LengthPenalty",
    "MinMaxLength",
    "NoShaping",
    "OptimalLengthPenalty",
    "SampleOptimalLength",
    "Shaping",
    "ShapingInputs",
    "SoftOverlong",
    "TargetLength",
]
