"""HeldOutModule: the evaluation of a policy on held-out questions, while it trains.

Axes: R rollout rows, T tokens, Q questions.
"""

import torch
from jaxtyping import Bool, Float
from torch import Tensor
from torchmetrics import MeanMetric, MetricCollection

from ceeh.config.settings import Config
from ceeh.data.batch import RolloutBatch
from ceeh.evaluation.held_out import level_metrics
from ceeh.evaluation.metrics import logged_values
from ceeh.evaluation.samples import NO_ANSWER, SampleTable, join_tables
from ceeh.modules.batching import index_microbatches, microbatches, model_inputs
from ceeh.modules.policy import Policy
from ceeh.modules.policy_module import PolicyModule
from ceeh.modules.schedule import updates_per_rollout_step
from ceeh.runtime import shutdown
from ceeh.runtime.distributed import gather_objects

EVAL_METRICS = ("accuracy", "tokens", "truncated_fraction", "entropy")


class HeldOutModule(PolicyModule):
    """Abstract: forward passes over sampled rows, and the validation. A subclass adds `training_step`."""

    def __init__(self, config: Config, policy: Policy) -> None:
        super().__init__(
            policy,
            config.optimizer,
            steps=config.rollouts.steps,
            updates=config.rollouts.steps * updates_per_rollout_step(config),
        )
        self.config = config
        self.held_out: list[SampleTable] = []
        self.hard_questions: Bool[Tensor, " Q"] | None = None
        """Which held-out questions are hard; known once the base is measured."""
        self.eval_metrics = (*EVAL_METRICS, f"pass_at_{config.evaluation.samples}")
        self.held_out_means = MetricCollection(
            {name: MeanMetric() for name in self.eval_metrics}, prefix="eval/"
        )

    @torch.no_grad()
    def forward_rows(
        self, batch: RolloutBatch
    ) -> tuple[Float[Tensor, "R T"], Float[Tensor, "R T"]]:
        """Log-probs and entropy (nats) of every row's response tokens, without gradient, in fp32."""
        filled = [torch.zeros_like(batch.engine_logprobs) for _ in range(2)]
        row_tokens = batch.totals.cpu()
        rows, limit = torch.arange(len(row_tokens)), self.config.optimizer.tokens_per_microbatch
        micro = self.padded_to_equal_count(
            microbatches(row_tokens, rows, limit, packed=self.policy.packs)
        )
        for index in index_microbatches(micro, batch):
            shutdown.check()
            found = self.policy(**model_inputs(batch, index))
            for values, of_rows in zip(filled, found, strict=True):
                of_tokens = of_rows.flatten().index_select(0, index.response_index).float()
                values.view(-1).index_copy_(0, index.batch_index, of_tokens)
        return filled[0], filled[1]

    def on_validation_epoch_start(self) -> None:
        self.held_out = []
        # `trainer.validate` leaves inference tensors, which a validation within training must not change.
        self.held_out_means.reset()

    def validation_step(self, batch: RolloutBatch, batch_idx: int) -> dict[str, Tensor]:
        """Held-out questions: correctness and lengths as sampled, entropy by the policy's own forward.

        Returns "entropy" [R, T], in nats, 0 outside responses.
        """
        of_tokens = self.forward_rows(batch)[1]
        entropy = of_tokens.sum(1) / batch.lengths.clamp(min=1)  # an aborted response has no token
        lengths = batch.lengths.view(batch.num_prompts, -1).cpu()
        table = SampleTable(
            index=torch.tensor(batch.question_indices),
            correct=batch.correct.view_as(lengths).cpu(),
            lengths=lengths,
            finished=torch.tensor([outcome.finished for outcome in batch.outcomes]),
            answers=torch.full_like(lengths, NO_ANSWER),
            entropy=entropy.view_as(lengths).cpu(),
        )
        self.held_out.append(table)
        # Of the base, without the samples that decide which questions are hard, as in the summary.
        values = logged_values(table.columns(table.samples - self.config.evaluation.samples))
        for name, mean in self.held_out_means.items(keep_base=True):
            mean.update(values[name])
        return {"entropy": of_tokens}

    def held_out_table(self) -> SampleTable:
        """The samples of the last validation, of all ranks. Collective."""
        ranks = gather_objects(self.held_out)
        return join_tables([table for rank in ranks for table in rank])

    def on_validation_epoch_end(self) -> None:
        self.log_dict(self.held_out_means)  # joined over ranks
        if self.hard_questions is not None:
            table = self.held_out_table()
            levels = level_metrics(table, self.hard_questions, self.eval_metrics)
            self.log_dict(levels, sync_dist=True)  # equal on all ranks

    def on_validation_end(self) -> None:
        self.clock.start()  # an evaluation is not part of the next step
