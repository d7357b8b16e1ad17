"""Sleep and wake as asked of vLLM; the platforms that can do it are not needed."""

import pytest
import torch

from ceeh.data.engine.vllm_engine import VLLMEngine


class SleepingLLM:
    """Stands for vLLM's LLM on CUDA: notes what it is asked for."""

    def __init__(self, asked: list[str]) -> None:
        self.asked = asked

    def sleep(self, level: int) -> None:
        self.asked.append(f"sleep {level}")

    def wake_up(self, tags: list[str]) -> None:
        self.asked += tags


def test_the_trainers_spare_memory_goes_back_before_the_engine_wakes(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    asked: list[str] = []
    monkeypatch.setattr(torch.cuda, "empty_cache", lambda: asked.append("empty_cache"))
    engine = VLLMEngine.__new__(VLLMEngine)
    engine._llm, engine._sleeps, engine._asleep = SleepingLLM(asked), True, set()
    engine._has_weights, engine.policy_version = True, 3
    engine.sleep()
    engine.sleep()
    assert engine.policy_version == -1, "the weights are gone until the next push"
    engine.wake()
    engine.wake()
    assert asked == ["sleep 2", "empty_cache", "weights"]
    assert engine._asleep == {"kv_cache"}, "it follows with the next generation"
    with pytest.raises(RuntimeError, match=r"dropped by sleep\(\); push weights first"):
        engine._run([(1,)], [None], engine_seed=0)
