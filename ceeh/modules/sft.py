"""SFTModule: supervised training of the policy on worked responses.

Axes: R rows, T tokens of a row, C tokens of one chunk of the head.
"""

from typing import Any

import torch
from torch import Tensor

from ceeh.config.sft import SFTConfig
from ceeh.data.examples import ExampleBatch
from ceeh.modules.batching import Microbatch, microbatches, padding_fraction
from ceeh.modules.policy import Policy
from ceeh.modules.policy_module import PolicyModule
from ceeh.runtime import shutdown


class SFTModule(PolicyModule):
    """Mean negative log-likelihood (nats) of the learned tokens of a step, one optimizer step per batch.

        loss = - sum_t log p(y_t | y_<t) / N,   N the learned tokens of the step on all ranks

    Every token counts the same, whatever the micro-batches and ranks.
    """

    def __init__(self, config: SFTConfig, policy: Policy) -> None:
        super().__init__(
            policy, config.optimizer, steps=config.steps, updates=config.steps, reference=False
        )
        self.config = config
        self.held_out = torch.zeros(2, dtype=torch.float64)
        """Sum of nats and number of tokens of the evaluation so far."""

    def training_step(self, batch: ExampleBatch, batch_idx: int) -> dict[str, Any]:
        """Returns "tokens", the learned tokens of all ranks."""
        self.clock.update_begins()
        cuts = self.cut(batch)
        micro = self.equalized(cuts)
        tokens = self.total(batch.learned.sum())
        self.optimizers().zero_grad()  # type: ignore[union-attr]
        loss = 0.0
        for index, cut in enumerate(micro):
            with self.clock.phase("forward"):
                part = self.policy.loss(
                    *tokens_of(batch, cut), lambda logprobs, entropy, rows: -logprobs.sum() / tokens
                )
                loss += part.item()
            with self.clock.phase("backward"):
                self.backward_of(part, index == len(micro) - 1)
            shutdown.check()
        norm, _ = self.take_step(loss)
        self.rollout_step += 1
        metrics = {
            "rollout/step": float(self.rollout_step),
            "loss/nats_per_token": float(self.total(torch.tensor(loss, device=self.device))),
            "loss/tokens": float(tokens),
            "optimizer/grad_norm": norm,
            "optimizer/lr": self.lr_schedulers().get_last_lr()[0],  # type: ignore[union-attr]
            "optimizer/padding_fraction": padding_fraction(batch.totals.cpu(), cuts),
            "optimizer/skipped_in_a_row": float(self.bad_updates),
            "time/update": self.clock.update_ends(),
        }
        self.log_dict(metrics, batch_size=1)
        return {"tokens": float(tokens)}

    def cut(self, batch: ExampleBatch) -> list[Microbatch]:
        totals = batch.totals.cpu()
        return microbatches(totals, torch.arange(len(totals)), self.settings.tokens_per_microbatch)

    def on_validation_epoch_start(self) -> None:
        self.held_out = torch.zeros(2, dtype=torch.float64)

    def validation_step(self, batch: ExampleBatch, batch_idx: int) -> None:
        for cut in self.equalized(self.cut(batch)):
            shutdown.check()
            ids, learned = tokens_of(batch, cut)
            logprobs, _ = self.policy(ids, learned)
            self.held_out += torch.stack([-logprobs.double().sum(), learned.sum()]).cpu()

    def on_validation_epoch_end(self) -> None:
        nats, tokens = self.total(self.held_out.to(self.device)).tolist()
        self.log("eval/nats_per_token", nats / tokens)

    def on_validation_end(self) -> None:
        self.clock.start()  # an evaluation is not part of the next step


def tokens_of(batch: ExampleBatch, cut: Microbatch) -> tuple[Tensor, Tensor]:
    """Token ids and learned tokens of a micro-batch."""
    return batch.token_ids[cut.rows, : cut.width], batch.learned[cut.rows, : cut.width]
