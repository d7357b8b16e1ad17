"""Seeds of unseeded requests under both of vLLM's runners, and sleep on CUDA, with a stand-in for vLLM."""

from types import SimpleNamespace

import numpy as np
import pytest
import torch
from torch import nn

from ceeh.data.engine.base import Sampling
from ceeh.data.engine.vllm_engine import VLLMEngine
from ceeh.data.engine.vllm_weights import check_sleeps
from ceeh.errors import ConfigError
from ceeh.runtime.distributed import TensorParallelGroup
from tests.groups import make_prompt

PROMPTS = [make_prompt(uid) for uid in ("a", "b")]


class DrawingLLM:
    """Stands for vLLM: a request without a seed gets its token from a global generator.

    V1's runner draws from torch's, V2's (every dense model on CUDA) one seed from NumPy's.
    """

    def __init__(self, runner: str) -> None:
        self.runner = runner

    def draw(self) -> int:
        if self.runner == "V1":
            return int(torch.randint(2**31, ()))
        return int(np.random.randint(2**31))

    @property
    def llm_engine(self) -> "DrawingLLM":
        return self

    def enqueue(self, inputs, params, use_tqdm):
        assert len(inputs) == len(params)
        self.waiting = [(number, given["n"]) for number, given in enumerate(params)]

    def has_unfinished_requests(self) -> bool:
        return bool(self.waiting)

    def step(self):
        # The last one finishes first.
        number, n = self.waiting.pop()
        outputs = [self.completion() for _ in range(n)]
        return [SimpleNamespace(request_id=str(number), finished=True, outputs=outputs)]

    def completion(self):
        token = self.draw()
        flat = SimpleNamespace(token_ids=[token], logprobs=[-1.0], start_indices=[0])
        return SimpleNamespace(token_ids=[token], logprobs=flat, finish_reason="length")


def tokens(runner: str, seed: int) -> list[tuple[int, ...]]:
    engine = VLLMEngine.__new__(VLLMEngine)
    engine._llm, engine._asleep, engine._has_weights = DrawingLLM(runner), set(), True
    engine.max_model_len, engine.policy_version = 64, 0
    engine._vllm = SimpleNamespace(TokensPrompt=dict)
    engine._params = dict
    engine._tokenizer = SimpleNamespace(decode=lambda ids, skip_special_tokens: "")
    sampling = Sampling(completions=3, temperature=1.0, max_tokens=4, seed=seed, seeds="step")
    groups = engine.generate(PROMPTS, sampling)
    return [completion.token_ids for group in groups for completion in group.completions]


@pytest.mark.parametrize("runner", ["V1", "V2"])
def test_each_rollout_step_samples_other_text_and_a_repeated_step_the_same(runner):
    before = np.random.get_state()[1].tolist(), torch.get_rng_state().tolist()
    first, second, again = tokens(runner, 1), tokens(runner, 2), tokens(runner, 1)
    assert first == again
    assert not set(first) & set(second)
    assert len(set(first)) == 6, "completions of one step differ"
    assert (np.random.get_state()[1].tolist(), torch.get_rng_state().tolist()) == before


class SleepingLLM:
    """Stands for vLLM's LLM on CUDA: notes what it is asked for."""

    def __init__(self, asked: list[str]) -> None:
        self.asked = asked

    def sleep(self, level: int) -> None:
        self.asked.append(f"sleep {level}")

    def wake_up(self, tags: list[str]) -> None:
        self.asked += tags

    @property
    def llm_engine(self) -> "SleepingLLM":
        return self

    @property
    def engine_core(self) -> "SleepingLLM":
        return self

    def shutdown(self) -> None:
        self.asked.append("shutdown")


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


def test_an_engine_that_sleeps_is_closed_awake(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[str] = []
    monkeypatch.setattr(torch.cuda, "empty_cache", lambda: asked.append("empty_cache"))
    engine = VLLMEngine.__new__(VLLMEngine)
    engine._llm, engine._sleeps, engine._asleep = SleepingLLM(asked), True, set()
    engine._own_group, engine._tp_group = False, TensorParallelGroup.of(1)
    engine.sleep()
    engine.close()
    engine.close()
    assert asked == ["sleep 2", "empty_cache", "kv_cache", "weights", "shutdown"]


def test_sleep_is_refused_where_it_would_lose_the_biases_of_attention() -> None:
    layer = nn.Linear(1, 1)
    check_sleeps(nn.Sequential(layer))
    layer.impl = SimpleNamespace(alibi_slopes=torch.ones(2))
    with pytest.raises(ConfigError, match=r"engine\.init_args\.sleep: .* ALiBi .* set it to false"):
        check_sleeps(nn.Sequential(layer))
