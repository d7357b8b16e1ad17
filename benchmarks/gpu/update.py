"""An optimizer step of 1.5B and 7B parameters: tokens per second, MFU, memory, host waits."""

import tempfile
import warnings
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import torch

from benchmarks.gpu.measured import BF16, CUDA, DEVICE, Row, row, seconds
from benchmarks.workload import random_config
from ceeh.config.objective import Objective
from ceeh.config.settings import LoRA, Model, Optimizer
from ceeh.data.batch import RolloutBatch
from ceeh.modules import policy as policy_module
from ceeh.modules.batching import microbatches, padding_fraction
from ceeh.modules.flops import utilization
from ceeh.modules.policy import Policy
from ceeh.modules.schedule import build_optimizer
from ceeh.modules.timing import StepClock
from ceeh.modules.update import UpdateInputs, accumulate_gradients

FULL = Model(gradient_checkpointing=True)
ADAPTER = replace(FULL, lora=LoRA(rank=32))
PACKED = replace(ADAPTER, attention="varlen")


def random_batch(rows: int, prompt: int, longest: int, vocabulary: int) -> RolloutBatch:
    """Rows of random tokens; responses of an eighth of `longest` to all of it, as ragged as real ones."""
    generator = torch.Generator().manual_seed(0)
    lengths = torch.linspace(longest // 8, longest, rows).long()
    places, total = torch.arange(prompt + longest), prompt + lengths
    mask = (places >= prompt) & (places < total[:, None])
    tokens = torch.randint(2, vocabulary, mask.shape, generator=generator)
    return RolloutBatch(
        token_ids=tokens * (places < total[:, None]),
        response_mask=mask,
        engine_logprobs=-11.0 * mask,
        group=torch.arange(rows) // 4,
        scores=torch.zeros(rows),
        correct=torch.zeros(rows).bool(),
        lengths=lengths,
        groups=(),
        policy_version=0,
    ).to(DEVICE)


def made_on_the_device(path: str, *, dtype: torch.dtype, attention: str, **_: Any) -> Any:
    """In place of `load_model`: random weights, without 15 GB of files."""
    from transformers import AutoConfig, AutoModelForCausalLM

    with torch.device(DEVICE):
        return AutoModelForCausalLM.from_config(
            AutoConfig.from_pretrained(path), dtype=dtype, attn_implementation=attention
        )


def measure_update(shape: str, tiny: bool, *settings: Model) -> Iterator[Row]:
    policy_module.load_model = made_on_the_device
    config = random_config(
        "tiny" if tiny else shape, vocabulary=2000 if tiny else 151_936, dtype=torch.bfloat16
    )
    rows, longest, budget = (8, 32, 128) if tiny else (24, 4096, 16_384)
    for given in settings:
        with tempfile.TemporaryDirectory() as folder:
            config.save_pretrained(folder)
            policy = Policy(
                given, folder, temperature=1.0, keep_reference=False, precision="bf16-mixed"
            ).to(DEVICE)
        batch = random_batch(rows, 16, longest, config.vocab_size)
        totals = batch.totals.cpu()
        micro = microbatches(totals, torch.arange(rows), budget, packed=policy.packs)
        inputs = UpdateInputs(
            old_logprobs=batch.engine_logprobs,
            advantages=torch.linspace(-1, 1, rows, device=DEVICE),
            hard=torch.zeros(rows, device=DEVICE),
            settings=Objective(kl_coefficient=0.0),
            entropy_weights=torch.zeros(rows, device=DEVICE),
            ea_mask=torch.zeros(rows, device=DEVICE),
        )
        optimizer = build_optimizer(Optimizer(lr=1e-6), policy.trainable, torch.device(DEVICE))

        def step(
            policy: Policy = policy,
            batch: RolloutBatch = batch,
            micro: Any = micro,
            inputs: UpdateInputs = inputs,
            optimizer: torch.optim.Optimizer = optimizer,
        ) -> None:
            optimizer.zero_grad()
            with torch.autocast(DEVICE, BF16, cache_enabled=False):
                accumulate_gradients(
                    policy,
                    batch,
                    micro,
                    inputs,
                    denominator=batch.lengths.sum().double(),
                    backward=lambda loss, last: loss.backward(),
                    clock=StepClock(),
                )
            torch.nn.utils.clip_grad_norm_(policy.trainable, 1.0)
            optimizer.step()

        rank = given.lora.rank
        name = f"{shape}, {f'LoRA of rank {rank}' if rank else 'all weights'}, {given.attention}"
        used = seconds(step, 2)
        share = utilization(policy, batch.totals, used).get("optimizer/mfu")
        mfu = "" if share is None else f"MFU {share:.1%}, recomputation not counted"
        yield row(f"{name}, update", int(totals.sum()) / used, "tokens/s", mfu)
        yield row(f"{name}, padding", padding_fraction(totals, micro), "of tokens")
        if CUDA:
            peak = torch.cuda.max_memory_allocated() / 2**30
            yield row(f"{name}, memory", peak, "GiB", f"{budget} tokens a micro-batch")
            torch.cuda.set_sync_debug_mode("warn")
            with warnings.catch_warnings(record=True) as caught:
                warnings.simplefilter("always")
                step()
            torch.cuda.set_sync_debug_mode("default")
            waits = sum("synchronizing" in str(each.message) for each in caught)
            yield row(f"{name}, waits", waits, "a step", f"{len(micro)} micro-batches")
            torch.cuda.reset_peak_memory_stats()
        del policy, optimizer, inputs, step
