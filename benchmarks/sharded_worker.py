"""One process of `benchmarks.sharding`: three updates of its share of the rows, and one stream of weights.

Its answer is `rank-N.json` in the job's folder; sizes in bytes above those of the process without a model.
"""

import json
import sys
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from lightning import Callback, LightningModule, Trainer
from torch import Tensor

from benchmarks.memory import peak_memory
from benchmarks.our_worker import settings
from benchmarks.workload import scored_groups
from ceeh.config.settings import LoRA
from ceeh.data.batch import RolloutBatch, collate
from ceeh.modules.module import CEEHModule
from ceeh.modules.policy import Policy
from ceeh.run.checkpoint_io import AtomicCheckpointIO
from ceeh.run.sharded_strategy import ShardedStrategy
from ceeh.runtime.distributed import join_processes, rank, world_size
from ceeh.runtime.quiet import quieten

STEPS = 3
JOINED_EACH = "fsdp, gradients joined in each micro-batch"


class Batches:
    """The same rows for each step."""

    def __init__(self, batch: RolloutBatch) -> None:
        self.batch = batch

    def __len__(self) -> int:
        return STEPS

    def __iter__(self) -> Iterator[RolloutBatch]:
        for step in range(STEPS):
            yield replace(self.batch, policy_version=step)


class Peak(Callback):
    """Forgets the peak before the last step: loading holds all weights, the first step makes the moments.

    Keeps what the first step computed: AdamW turns rounding errors of small gradients into whole steps.
    """

    def __init__(self) -> None:
        self.first: dict[str, float] = {}

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        if batch_idx == 0:
            logged = trainer.callback_metrics
            self.first = {
                "loss": float(logged["loss/policy"]),
                "grad_norm": float(logged["optimizer/grad_norm"]),
            }

    def on_train_batch_start(
        self, trainer: Trainer, pl_module: LightningModule, batch: Any, batch_idx: int
    ) -> None:
        if batch_idx == STEPS - 1:
            Path("/proc/self/clear_refs").write_text("5")


class JoinedEach(CEEHModule):
    def backward_of(self, loss: Tensor, last: bool) -> None:
        super().backward_of(loss, True)


def main() -> None:
    job = json.loads(Path(sys.argv[1]).read_text())
    torch.set_num_threads(1)
    quieten()
    join_processes("cpu")
    config = settings(job)
    config = replace(
        config,
        model=replace(config.model, lora=LoRA(rank=job["lora_rank"])),
        # No engine has sampled the rows.
        objective=replace(config.objective, old_logprobs="trainer"),
    )
    lengths = job["lengths"]
    shape = {name: job[name] for name in ("group_size", "prompt_tokens", "vocabulary")}
    own = scored_groups(lengths, **shape)[rank() :: world_size()]
    kept = Peak()
    torch.manual_seed(0)  # of an adapter, which all processes must make equal
    with ExitStack() as training:
        peak = training.enter_context(peak_memory())
        policy = Policy(config.model, job["model"], temperature=1.0, keep_reference=False)
        module = (JoinedEach if job["strategy"] == JOINED_EACH else CEEHModule)(config, policy)
        trainer = Trainer(
            accelerator="cpu",
            devices=world_size(),
            strategy="ddp" if job["strategy"] == "ddp" else ShardedStrategy(distributed=True),
            max_epochs=1,
            logger=False,
            enable_checkpointing=False,
            enable_progress_bar=False,
            enable_model_summary=False,
            use_distributed_sampler=False,
            plugins=[AtomicCheckpointIO()],
            callbacks=[kept],
        )
        trainer.fit(module, Batches(collate(own, pad_token_id=0)))
    largest = 0
    with peak_memory() as push:
        for _, weight in policy.engine_weights():
            largest = max(largest, weight.nbytes)
    answer = {
        "training": peak[0],
        "push": push[0],
        "largest": largest,
        **kept.first,
    }
    (Path(job["folder"]) / f"rank-{rank()}.json").write_text(json.dumps(answer))


if __name__ == "__main__":
    main()
