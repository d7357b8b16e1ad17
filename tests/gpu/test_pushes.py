"""Pushed weights: engine and trainer agree, with graphs, after sleep, and for a model of Qwen2's shapes."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import pytest
import torch

from benchmarks.agreement import agreement
from benchmarks.workload import random_model
from ceeh.data.engine.base import Sampling
from ceeh.data.engine.vllm_engine import VLLMEngine
from ceeh.modules.policy import Policy
from ceeh.types import Prompt
from tests.gpu.suite import BF16, CUDA, DEVICE, GPU, policy_of

pytestmark = GPU


@dataclass
class Pair:
    engine: VLLMEngine
    policy: Policy
    bf16: bool

    @torch.no_grad()
    def push(self, seed: int) -> None:
        generator = torch.Generator().manual_seed(seed)
        for weight in self.policy.trainable:
            weight.add_((0.02 * torch.randn(weight.shape, generator=generator)).to(weight.device))
        self.engine.wake()
        self.engine.load_weights(self.policy.engine_weights(), policy_version=seed)

    @torch.no_grad()
    def difference(self) -> float:
        """Mean |nats| over the canary."""
        prompt, completion = self.engine.canary(temperature=0.7)
        ids = torch.tensor([prompt + completion.token_ids], device=DEVICE)
        mask = torch.arange(ids.shape[1], device=DEVICE)[None] >= len(prompt)
        with torch.autocast(DEVICE, BF16, enabled=self.bf16):
            found = self.policy(ids, mask)[0][mask].float().cpu()
        return float((found - torch.tensor(completion.logprobs)).abs().mean())


@contextmanager
def paired(folder: Path, *, bf16: bool, graphs: bool, sleep: bool = False) -> Iterator[Pair]:
    precision = "bf16-mixed" if bf16 else "32-true"
    policy = policy_of(folder, precision=precision).to(DEVICE).eval()
    options = {"enforce_eager": not graphs or not CUDA, "max_num_seqs": 32}
    engine = VLLMEngine(
        str(folder),
        256,
        dtype="bfloat16" if bf16 else "float32",
        kv_cache_gib=0.5,
        sleep=sleep and CUDA,
        options=options,
    )
    with engine:
        yield Pair(engine, policy, bf16)


@pytest.mark.parametrize("model", ["tiny_model_dir", "untied_model_dir"], ids=["tied", "untied"])
@pytest.mark.parametrize(
    ("bf16", "graphs", "limit"),
    [(False, False, 1e-4), (True, False, 0.1), (True, True, 0.1)],
    ids=["fp32", "bf16", "bf16 with graphs"],
)
def test_engine_and_trainer_agree_over_twenty_pushes(
    request: pytest.FixtureRequest, model: str, bf16: bool, graphs: bool, limit: float
) -> None:
    """With graphs: those captured at the start read the pushed weights."""
    with paired(request.getfixturevalue(model), bf16=bf16, graphs=graphs) as pair:
        for seed in range(20):
            pair.push(seed)
            assert pair.difference() < limit
        prompts = [Prompt(uid=str(i), text="", token_ids=(5 + i, 7), answer="") for i in range(4)]
        for seeds in ("request", "step"):
            texts = [
                [
                    completion.token_ids
                    for group in pair.engine.generate(
                        prompts,
                        Sampling(
                            completions=2, temperature=1.0, max_tokens=16, seed=seed, seeds=seeds
                        ),
                    )
                    for completion in group.completions
                ]
                for seed in (1, 2, 1)
            ]
            assert texts[0] == texts[2] != texts[1]


@pytest.mark.usefixtures("own_process")
@pytest.mark.parametrize("graphs", [False, True], ids=["eager", "graphs"])
def test_memory_is_given_back_while_asleep_and_the_pushed_weights_are_used_after(
    tiny_model_dir: Path, graphs: bool
) -> None:
    with paired(tiny_model_dir, bf16=True, graphs=graphs, sleep=True) as pair:
        for seed in range(3):
            pair.push(seed)
            assert pair.difference() < 0.1
            awake = torch.cuda.mem_get_info()[0] if CUDA else 0
            pair.engine.sleep()
            if CUDA:
                assert torch.cuda.mem_get_info()[0] - awake > 0.4 * 2**30  # the KV cache's 0.5


@pytest.mark.usefixtures("own_process")
@pytest.mark.parametrize("sleep", [False, True], ids=["awake", "sleep"])
def test_a_model_of_qwen2s_shapes_agrees(tmp_path: Path, sleep: bool) -> None:
    """Head size 128, grouped heads, biases, a vocabulary of 151,936, graphs: docs/gpu.md, open fault."""
    shape, vocabulary = ("qwen2-1.5b", 151_936) if CUDA else ("tiny", 2000)
    random_model(tmp_path, shape, layers=4, vocabulary=vocabulary, dtype=torch.bfloat16)
    with paired(tmp_path, bf16=True, graphs=True, sleep=sleep) as pair:
        for _ in range(2):
            pair.engine.load_weights(pair.policy.engine_weights(), policy_version=0)
            found = agreement(pair.policy, pair.engine, DEVICE)
            assert not found.wrong_weights
            assert found.rotary < 5e-3
            assert found.engine_bf16 < 0.05, found
