"""ceeh's own training step, one whenever it is asked: a real `Trainer.fit` whose loader waits for orders.

Job `update`: the rollouts come from the job, and the clock runs over the training step. Job `step`:
generation, rewards, update and the push of the weights into the engine.
"""

from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import torch
from lightning import Callback, LightningModule, Trainer

from benchmarks.stopwatch import Stopwatch
from benchmarks.worker import Orders
from ceeh.config import Config, load
from ceeh.data.collate import collate
from ceeh.fit import quieten
from ceeh.modules.module import CEEHModule
from ceeh.modules.policy import Policy
from ceeh.types import (
    Completion,
    Finish,
    Outcome,
    Prompt,
    RolloutBatch,
    RolloutGroup,
    ScoredGroup,
    Verdict,
)

STEPS = 10_000


def settings(job: dict[str, Any]) -> Config:
    """The same objective and optimiser as the reference: token mean, clip-higher, no KL, AdamW."""
    return load(
        [],
        [
            f"model.path={job['model']}",
            f"rollouts.steps={STEPS}",
            f"rollouts.prompts_per_step={len(job['prompts'])}",
            f"rollouts.completions_per_prompt={job['group_size']}",
            f"rollouts.max_response_tokens={job['max_response_tokens']}",
            f"rollouts.seeds={job.get('seeds', 'request')}",
            f"prompts.max_prompt_tokens={job['prompt_tokens']}",
            "objective.shaping.class_path=ceeh.modules.shaping.NoShaping",
            "objective.advantage=group_mean",
            "objective.aggregation=token_mean",
            "objective.entropy.method=none",
            "objective.dual_clip=null",
            "objective.kl_coefficient=0",
            f"objective.clip_low={job['clip_low']}",
            f"objective.clip_high={job['clip_high']}",
            f"optimizer.lr={job['lr']}",
            "optimizer.schedule=constant",
            f"optimizer.max_grad_norm={job['max_grad_norm']}",
            f"optimizer.prompts_per_minibatch={len(job['prompts'])}",
            f"optimizer.tokens_per_microbatch={job['tokens_per_microbatch']}",
        ],
    )


def given_batch(job: dict[str, Any]) -> RolloutBatch:
    """The job's rows, collated as the loader does."""
    size = job["group_size"]
    groups = []
    for index, text in enumerate(job["prompts"]):
        rows = range(index * size, (index + 1) * size)
        completions = tuple(
            Completion(
                text="",
                token_ids=tuple(job["completion_ids"][row]),
                logprobs=tuple(job["logprobs"][row]),
                finish=Finish.STOP,
            )
            for row in rows
        )
        verdicts = tuple(Verdict(score=job["scores"][row], outcome=Outcome.OK) for row in rows)
        prompt = Prompt(
            uid=str(index), text=text, answer="", token_ids=tuple(job["prompt_ids"][rows[0]])
        )
        group = RolloutGroup(prompt=prompt, completions=completions, policy_version=0)
        groups.append(ScoredGroup(group=group, verdicts=verdicts))
    return collate(groups, pad_token_id=0)


class OrderedLoader:
    """The same batch again and again, as if the present weights had sampled it."""

    def __init__(self, orders: Orders, batch: RolloutBatch) -> None:
        self.orders = orders
        self.batch = batch

    def __len__(self) -> int:
        return STEPS

    def __iter__(self) -> Iterator[RolloutBatch]:
        for step in range(STEPS):
            self.orders.wait()
            yield replace(self.batch, policy_version=step)


class Answers(Callback):
    """The clock around the training step."""

    def __init__(self, orders: Orders) -> None:
        self.orders = orders
        self.watch = Stopwatch()

    def on_train_batch_start(
        self, trainer: Trainer, pl_module: LightningModule, batch: Any, batch_idx: int
    ) -> None:
        self.watch.start()

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        measured = self.watch.stop()
        logged = {name: float(value) for name, value in trainer.callback_metrics.items()}
        self.orders.answer(
            **measured,
            loss=logged["loss/policy"],
            grad_norm=logged["optimizer/grad_norm"],
            padding_fraction=logged["optimizer/padding_fraction"],
            lengths=sorted(batch.lengths.tolist()),
            logged=logged,
        )


def main() -> None:
    orders = Orders()
    job = orders.job
    torch.set_num_threads(job["threads"])
    quieten()
    config = settings(job)
    policy = Policy(config.model, job["model"], temperature=1.0, keep_reference=False)
    module = CEEHModule(config, policy)
    trainer = Trainer(
        accelerator="cuda" if torch.cuda.is_available() else "cpu",
        devices=1,
        precision="bf16-mixed" if torch.cuda.is_available() else "32-true",
        max_epochs=1,
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        callbacks=[Answers(orders)],
    )
    trainer.fit(module, OrderedLoader(orders, given_batch(job)))


if __name__ == "__main__":
    main()
