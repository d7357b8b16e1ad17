"""SFTModule: supervised training of the policy on demonstrations.

Axes: R rows, T tokens of a row, C tokens of one chunk of the head.
"""

from typing import Any

import torch

from ceeh.config.sft import SFTConfig
from ceeh.data.examples import ExampleBatch
from ceeh.modules.batching import (
    Microbatch,
    index_microbatches,
    microbatches,
    model_inputs,
    padding_fraction,
)
from ceeh.modules.policy import Policy
from ceeh.modules.policy_module import PolicyModule
from ceeh.runtime import shutdown


class SFTModule(PolicyModule):
    """Mean negative log-likelihood (nats) of the response tokens of a step, one optimizer step per batch.

        loss = - sum_t log p(y_t | y_<t) / N,   N the response tokens of the step on all ranks

    Every token counts the same, whatever the micro-batches and ranks.
    """

    def __init__(self, config: SFTConfig, policy: Policy) -> None:
        super().__init__(policy, config.optimizer, steps=config.steps, updates=config.steps)
        self.config = config
        self.held_out = torch.zeros(2, dtype=torch.float64)
        """Sum of nats and number of tokens of the evaluation so far."""

    def training_step(self, batch: ExampleBatch, batch_idx: int) -> dict[str, Any]:
        """Returns "tokens", the response tokens of all ranks."""
        self.clock.update_begins()
        own = self.microbatches(batch)
        micro = self.padded_to_equal_count(own)
        tokens = self.total(batch.response_mask.sum())
        self.optimizers().zero_grad()  # type: ignore[union-attr]
        parts = []
        for number, index in enumerate(index_microbatches(micro, batch), 1):
            with self.clock.phase("forward"):
                part = self.policy.loss(
                    objective=lambda logprobs, entropy, _: -logprobs.sum() / tokens,
                    **model_inputs(batch, index),
                )
                parts.append(part.detach())
            with self.clock.phase("backward"):
                self.backward_of(part, number == len(micro))
            shutdown.check()
        loss = float(torch.stack(parts).sum())  # one wait for the device
        norm, _ = self.take_step(loss)
        self.rollout_step += 1
        metrics = {
            "rollout/step": float(self.rollout_step),
            "loss/nats_per_token": float(self.total(torch.tensor(loss, device=self.device))),
            "loss/tokens": float(tokens),
            "optimizer/grad_norm": norm,
            "optimizer/lr": self.lr_schedulers().get_last_lr()[0],  # type: ignore[union-attr]
            "optimizer/padding_fraction": padding_fraction(batch.totals.cpu(), own),
            "optimizer/skipped_in_a_row": float(self.bad_updates),
            "time/update": self.clock.update_ends(),
        }
        self.log_dict(metrics, batch_size=1)
        return {"tokens": float(tokens)}

    def microbatches(self, batch: ExampleBatch) -> list[Microbatch]:
        totals = batch.totals.cpu()
        rows, limit = torch.arange(len(totals)), self.settings.tokens_per_microbatch
        return microbatches(totals, rows, limit, packed=self.policy.packs)

    def on_validation_epoch_start(self) -> None:
        self.held_out = torch.zeros(2, dtype=torch.float64)

    def validation_step(self, batch: ExampleBatch, batch_idx: int) -> None:
        nats = torch.zeros((), dtype=torch.float64, device=self.device)
        for index in index_microbatches(
            self.padded_to_equal_count(self.microbatches(batch)), batch
        ):
            shutdown.check()
            logprobs, _ = self.policy(**model_inputs(batch, index))
            nats -= logprobs.double().sum()
        self.held_out += torch.stack([nats, batch.response_mask.sum()]).cpu()

    def on_validation_epoch_end(self) -> None:
        nats, tokens = self.total(self.held_out.to(self.device)).tolist()
        self.log("eval/nats_per_token", nats / tokens)

    def on_validation_end(self) -> None:
        self.clock.start()  # an evaluation is not part of the next step
