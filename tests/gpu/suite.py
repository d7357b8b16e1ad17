"""The GPU suite, `python -m pytest -m gpu`: its marks, and an update's gradient.

CEEH_GPU_SUITE=cpu runs the same code on the CPU, where the engine is fp32 and has neither graphs nor sleep.
"""

import os
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from ceeh.config.objective import Objective
from ceeh.config.settings import LoRA, Model
from ceeh.modules.batching import microbatches
from ceeh.modules.policy import Policy
from ceeh.modules.timing import StepClock
from ceeh.modules.update import accumulate_gradients
from tests.modules.test_update import denominator, inputs, ragged

CUDA = torch.cuda.is_available()
DEVICE = "cuda" if CUDA else "cpu"
BF16 = torch.bfloat16

GPU = [
    pytest.mark.gpu,
    pytest.mark.engine,
    pytest.mark.skipif(
        not CUDA and os.environ.get("CEEH_GPU_SUITE") != "cpu", reason="needs a CUDA GPU"
    ),
    # A user's torch and transformers may be others than CI's, whose warnings are errors.
    pytest.mark.filterwarnings("default"),
]


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
