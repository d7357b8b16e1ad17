"""The update on a GPU: its gradient beside the CPU's, its kernels, its waits and its memory."""

import warnings
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from ceeh.errors import RunError
from ceeh.modules.packing import varlen_attention
from ceeh.modules.policy import Policy
from tests.gpu.suite import BF16, CUDA, DEVICE, GPU, gradient, policy_of

pytestmark = GPU


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


@pytest.mark.skipif(not CUDA, reason="asks for more than a GPU's memory")
def test_memory_that_runs_out_in_an_update_is_told_with_settings_that_help(
    tiny_model_dir: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def too_much(self: Policy, *given: Any, **named: Any) -> Tensor:
        return torch.empty(2**45, device=DEVICE)

    monkeypatch.setattr(Policy, "loss", too_much)
    with pytest.raises(RunError, match=r"micro-batch of .*optimizer\.tokens_per_microbatch"):
        gradient(policy_of(tiny_model_dir), DEVICE, bf16=False)
