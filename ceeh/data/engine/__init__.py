"""Rollout engines, as YAML names them: `engine.class_path: ceeh.data.engine.VLLMEngine`."""

from ceeh.data.engine.base import RolloutEngine, Sampling
from ceeh.data.engine.vllm_engine import VLLMEngine

__all__ = ["RolloutEngine", "Sampling", "VLLMEngine"]
