"""What only a GPU can show: `python -m pytest -m gpu`, six minutes on an H100.

CEEH_GPU_SUITE=cpu runs the same code on the CPU, where the engine is fp32 and has neither graphs nor sleep.
"""

import os
import subprocess
import sys
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from benchmarks.agreement import agreement
from benchmarks.workload import random_model
from ceeh.config.settings import LoRA, Model, Objective
from ceeh.data.engine.base import Sampling
from ceeh.data.engine.vllm_engine import VLLMEngine
from ceeh.errors import RunError
from ceeh.fit import fit
from ceeh.modules.batching import microbatches
from ceeh.modules.head import chunked_objective
from ceeh.modules.logits import LogitTransform
from ceeh.modules.packing import varlen_attention
from ceeh.modules.policy import Policy
from ceeh.modules.timing import StepClock
from ceeh.modules.update import accumulate_gradients
from ceeh.types import Prompt
from tests.modules.test_update import denominator, inputs, ragged
from tests.test_fit import killed_at, rows, small

CUDA = torch.cuda.is_available()
DEVICE = "cuda" if CUDA else "cpu"
BF16 = torch.bfloat16
OWN_PROCESS = "CEEH_GPU_SUITE_OWN_PROCESS"
"""Set in the environment of a test's own process."""

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.engine,
    pytest.mark.skipif(
        not CUDA and os.environ.get("CEEH_GPU_SUITE") != "cpu", reason="needs a CUDA GPU"
    ),
    # A user's torch and transformers may be others than CI's, whose warnings are errors.
    pytest.mark.filterwarnings("default"),
]


@pytest.mark.parametrize("trained", [True, False], ids=["trained", "frozen"])
@pytest.mark.parametrize(("operands", "limit"), [(None, 1e-5), (BF16, 2e-2)], ids=["fp32", "bf16"])
@pytest.mark.parametrize("transform", [LogitTransform(), LogitTransform(scale=0.5, cap=3.0)])
def test_the_compiled_head_agrees_with_float64_on_the_cpu(
    transform: LogitTransform, operands: torch.dtype | None, limit: float, trained: bool
) -> None:
    generator = torch.Generator().manual_seed(0)
    hidden = torch.randn(700, 64, generator=generator)
    weight = torch.randn(5000, 64, generator=generator) / 4
    bias = torch.randn(5000, generator=generator) / 4
    targets = torch.randint(5000, (700,), generator=generator)

    def objective(logprobs: Tensor, entropy: Tensor, _: slice) -> Tensor:
        return -(logprobs.sum() + 0.1 * entropy.sum()) / 700

    found = []
    for device, dtype, of in (("cpu", torch.float64, None), (DEVICE, torch.float32, operands)):
        h, w, b = (x.to(device, dtype) for x in (hidden, weight, bias))
        h.requires_grad_()
        w.requires_grad_(trained)
        loss = chunked_objective(
            h,
            w,
            targets.to(device),
            objective,
            temperature=0.6,
            chunk_tokens=256,  # the last chunk is shorter: a second compilation
            bias=b,
            transform=transform,
            operands=of,
        )
        loss.backward()
        grads = [h.grad, w.grad] if trained else [h.grad]
        found.append([loss.detach(), *(grad for grad in grads if grad is not None)])
    for exact, got in zip(*found, strict=True):
        error = (got.double().cpu() - exact).norm() / exact.norm()
        assert error < limit


def policy_of(
    folder: Path, *, rank: int = 0, precision: str = "32-true", attention: Any = "sdpa"
) -> Policy:
    torch.manual_seed(0)
    settings = Model(lora=LoRA(rank=rank), gradient_checkpointing=True, attention=attention)
    policy = Policy(
        settings, str(folder), temperature=0.7, keep_reference=False, precision=precision
    )
    with torch.no_grad():
        for weight in policy.trainable:
            weight.add_(0.02 * torch.randn(weight.shape))
    return policy


def gradient(policy: Policy, device: str, *, bf16: bool) -> Tensor:
    # Without clipping: bf16 would put tokens on the other side of a bound.
    settings = Objective(kl_coefficient=0.0, clip_low=0.999, clip_high=1e9, dual_clip=None)
    batch = ragged()
    micro = microbatches(batch.totals, torch.arange(5), 24, packed=policy.packs)
    given, policy = inputs(batch, settings), policy.to(device)
    moved = replace(
        given,
        old_logprobs=given.old_logprobs.to(device),
        advantages=given.advantages.to(device),
        hard=given.hard.to(device),
        entropy_weights=given.entropy_weights.to(device),
        ea_mask=given.ea_mask.to(device),
    )
    with torch.autocast(device, BF16, enabled=bf16, cache_enabled=False):
        accumulate_gradients(
            policy,
            batch.to(device),
            micro,
            moved,
            denominator=denominator(batch, settings).to(device),
            backward=lambda loss, last: loss.backward(),
            clock=StepClock(),
        )
    grads = [weight.grad for weight in policy.trainable if weight.grad is not None]
    return torch.cat([grad.flatten().cpu() for grad in grads])


@pytest.mark.parametrize("rank", [0, 4], ids=["full", "lora"])
@pytest.mark.parametrize(
    ("precision", "limit"), [("32-true", 1e-4), ("bf16-mixed", 5e-2)], ids=["fp32", "bf16"]
)
def test_an_update_has_the_cpus_gradient(
    tiny_model_dir: Path, precision: str, limit: float, rank: int
) -> None:
    exact = gradient(policy_of(tiny_model_dir, rank=rank), "cpu", bf16=False)
    policy = policy_of(tiny_model_dir, rank=rank, precision=precision)
    found = gradient(policy, DEVICE, bf16=precision == "bf16-mixed")
    assert (found - exact).norm() < limit * exact.norm()


@pytest.mark.parametrize("rank", [0, 4], ids=["full", "lora"])
@pytest.mark.parametrize("attention", ["varlen", "flash_attention_2"])
def test_an_update_of_rows_without_padding_has_the_cpus_gradient(
    tiny_model_dir: Path, attention: str, rank: int
) -> None:
    """On the CPU row by row; on CUDA torch's kernel, or that of flash-attn where it is installed."""
    if attention == "flash_attention_2":
        if not CUDA:
            pytest.skip("its kernel is for CUDA")
        pytest.importorskip("flash_attn")
    exact = gradient(policy_of(tiny_model_dir, rank=rank), "cpu", bf16=False)
    policy = policy_of(tiny_model_dir, rank=rank, precision="bf16-mixed", attention=attention)
    assert policy.packs
    found = gradient(policy, DEVICE, bf16=True)
    assert (found - exact).norm() < 5e-2 * exact.norm()


@pytest.mark.parametrize("window", [None, 4], ids=["all", "window"])
def test_torchs_kernel_gives_the_attention_of_each_row(window: int | None) -> None:
    """Forward and backward, rows of 130, 1 and 61 tokens, fewer heads of keys; fp32 on the CPU is exact."""
    generator = torch.Generator().manual_seed(0)
    lengths = (130, 1, 61)
    shapes = [(1, heads, sum(lengths), 64) for heads in (4, 2, 2)]
    given = [torch.randn(shape, generator=generator) for shape in shapes]
    found = []
    for device, dtype in (("cpu", torch.float32), (DEVICE, BF16)):
        q, k, v = (each.detach().to(device, dtype).requires_grad_() for each in given)
        ends = torch.tensor([0, 130, 131, 192], dtype=torch.int32, device=device)
        out, _ = varlen_attention(
            torch.nn.Identity(),
            q,
            k,
            v,
            None,
            scaling=0.125,
            sliding_window=window,
            cu_seq_lens_q=ends,
            row_lengths=lengths,
        )
        weights = torch.randn(out.shape, generator=torch.Generator().manual_seed(1)).to(device)
        grads = torch.autograd.grad((out.float() * weights).sum(), (q, k, v))
        found.append([each.detach().float().cpu() for each in (out, *grads)])
    for exact, got in zip(*found, strict=True):
        assert (got - exact).norm() < 1e-2 * exact.norm()


@pytest.mark.skipif(not CUDA, reason="counts what waits for a GPU")
@pytest.mark.parametrize("attention", ["sdpa", "varlen"])
def test_a_micro_batch_waits_for_nothing_but_transformers_mask(
    tiny_model_dir: Path, attention: str
) -> None:
    policy = policy_of(tiny_model_dir, precision="bf16-mixed", attention=attention)
    gradient(policy, DEVICE, bf16=True)  # compiles
    torch.cuda.set_sync_debug_mode("warn")
    try:
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            gradient(policy, DEVICE, bf16=True)
    finally:
        torch.cuda.set_sync_debug_mode("default")
    places = [f"{each.filename}:{each.lineno}" for each in caught]
    ours = [place for place in places if "/ceeh/modules/" in place]
    # Totals and the mask, once; the step's numbers, once.
    assert len(ours) <= 3, places
    if attention == "varlen":
        assert not [place for place in places if "/transformers/" in place], places


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


@pytest.fixture
def own_process(request: pytest.FixtureRequest) -> None:
    """The test runs in a process of its own: vLLM's allocator for sleep serves one engine in each."""
    if not CUDA or OWN_PROCESS in os.environ:
        return
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", request.node.nodeid]
    ended = subprocess.run(
        command,
        cwd=request.config.rootpath,
        env=os.environ | {OWN_PROCESS: "1"},
        capture_output=True,
        text=True,
    )
    assert ended.returncode == 0, ended.stdout[-4000:] + ended.stderr[-2000:]
    pytest.skip("passed in a process of its own")


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


RUN = (
    "engine.class_path=ceeh.data.engine.VLLMEngine",
    f"engine.init_args={{kv_cache_gib: 0.5, sleep: {str(CUDA).lower()}}}",
    f"hardware.accelerator={DEVICE}",
)


@pytest.mark.usefixtures("own_process", "without_figures")
@pytest.mark.parametrize("overrides", [(), ("model.lora.rank=4", "objective.entropy.method=ea")])
def test_a_run_of_the_default_precision_trains(
    tiny_model_dir: Path, tmp_path: Path, overrides: tuple[str, ...]
) -> None:
    folder = fit(small(tiny_model_dir, tmp_path, *RUN, "rollouts.steps=3", *overrides))
    lines = [line for line in rows(folder) if "engine/canary_difference" in line]
    assert len(lines) == 3
    assert all(line["engine/canary_difference"] < 0.1 for line in lines)


@pytest.mark.usefixtures("without_figures")
def test_a_resumed_run_has_the_numbers_of_a_whole_one(tiny_model_dir: Path, tmp_path: Path) -> None:
    """In fp32, where kernels differ by the order of sums alone; three engines in turn, so without sleep."""
    fixed = (*RUN, "engine.init_args.sleep=false", "hardware.precision=32-true")
    whole = fit(small(tiny_model_dir, tmp_path / "whole", *fixed))
    with killed_at(VLLMEngine, 6):  # rollout step 4; the checkpoint is of step 2
        fit(small(tiny_model_dir, tmp_path / "parts", *fixed))
    parts = fit(small(tiny_model_dir, tmp_path / "parts", *fixed, "ckpt_path=last"))
    for one, other in zip(rows(whole), rows(parts), strict=True):
        assert one.keys() == other.keys()
        for name, value in one.items():
            if not name.startswith(("engine/canary", "engine/mismatch", "optimizer/mfu")):
                close = value and pytest.approx(value, rel=1e-3, abs=1e-5, nan_ok=True)
                assert other[name] == close, name


@pytest.mark.skipif(not CUDA, reason="asks for more than a GPU's memory")
def test_memory_that_runs_out_in_an_update_is_told_with_settings_that_help(
    tiny_model_dir: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def too_much(self: Policy, *given: Any, **named: Any) -> Tensor:
        return torch.empty(2**45, device=DEVICE)

    monkeypatch.setattr(Policy, "loss", too_much)
    with pytest.raises(RunError, match=r"micro-batch of .*optimizer\.tokens_per_microbatch"):
        gradient(policy_of(tiny_model_dir), DEVICE, bf16=False)


@pytest.mark.usefixtures("own_process")
@pytest.mark.skipif(not CUDA, reason="bitsandbytes is for CUDA here")
def test_a_run_with_a_4_bit_base_and_8_bit_moments_trains(
    tiny_model_dir: Path, tmp_path: Path
) -> None:
    pytest.importorskip("bitsandbytes")
    quantized = ("model.lora.rank=4", "model.lora.base=nf4", "optimizer.moments=8bit")
    folder = fit(small(tiny_model_dir, tmp_path, *RUN, "rollouts.steps=3", *quantized))
    lines = [line for line in rows(folder) if "engine/canary_difference" in line]
    assert all(line["engine/canary_difference"] < 0.2 for line in lines)
