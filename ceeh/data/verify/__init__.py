"""Verifiers, as YAML names them: `verifier.class_path: ceeh.data.verify.MathAnswer`."""

from ceeh.data.verify.base import Verifier
from ceeh.data.verify.exact_answer import ExactAnswer
from ceeh.data.verify.math_answer import MathAnswer
from ceeh.data.verify.reward_function import RewardFunction

__all__ = ["ExactAnswer", "MathAnswer", "RewardFunction", "Verifier"]
