"""Sources of questions, as YAML names them: `class_path: ceeh.data.sources.Table`."""

from ceeh.data.sources.legs import LegCounting
from ceeh.data.sources.reasoning_gym import ReasoningGym
from ceeh.data.sources.starter_task import StarterTask
from ceeh.data.sources.table import Table

__all__ = ["LegCounting", "ReasoningGym", "StarterTask", "Table"]
