"""The responses as files: RolloutLog of training, HeldOutLog of the measurements before and after it.

One parquet file per logged step or measurement, one row per completion.
"""

import json
import warnings
from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
from lightning import Callback, LightningModule, Trainer
from lightning.pytorch.trainer.states import TrainerFn
from torch import Tensor
from transformers import PreTrainedTokenizerBase

from ceeh.data.batch import RolloutBatch
from ceeh.evaluation.responses import QUESTIONS, response_table
from ceeh.run.atomic import atomic_write
from ceeh.runtime.distributed import gather_objects
from ceeh.runtime.text import storable

COLUMNS: dict[str, pa.DataType] = {
    "rollout_step": pa.int64(),
    "uid": pa.string(),
    "prompt": pa.string(),
    "answer": pa.string(),
    "response": pa.string(),
    "length": pa.int64(),
    "finish": pa.string(),
    "score": pa.float64(),
    "correct": pa.bool_(),
    "outcome": pa.string(),
    "reward": pa.float64(),
    "advantage": pa.float64(),
    "entropy": pa.float64(),
    "policy_version": pa.int64(),
    "metadata": pa.string(),
}


class RolloutLog(Callback):
    """Writes `step-000123.parquet` to `folder` after every `every_n_steps`-th rollout step (0: never).

    Rows whose update was skipped, because its loss or gradient was not finite, are written after every step,
    as `skipped-000123.parquet`.

    Columns: those of `COLUMNS` (`answer` is the reference, `length` in tokens, `reward` after shaping,
    `entropy` in nats per token, `metadata` as JSON) and `signal_<name>` for each signal. Rank 0 writes its
    own rows. `training_step` returns {"rewards": [R], "advantages": [R], "entropy": [R], "skipped": [R]} in
    the batch's row order.
    """

    def __init__(self, folder: Path, every_n_steps: int) -> None:
        self.folder = folder
        self.every_n_steps = every_n_steps

    def on_train_batch_end(
        self,
        trainer: Trainer,
        pl_module: LightningModule,
        outputs: Any,
        batch: RolloutBatch,
        batch_idx: int,
    ) -> None:
        rollout_step, skipped = batch_idx + 1, outputs["skipped"].cpu()
        due = self.every_n_steps and rollout_step % self.every_n_steps == 0
        if not trainer.is_global_zero or not (due or skipped.any()):
            return
        table = rollout_table(rollout_step, batch, outputs)
        if due:
            write(self.folder / f"step-{rollout_step:06d}.parquet", table)
        if skipped.any():
            rows = table.filter(pa.array(skipped.tolist()))
            write(self.folder / f"skipped-{rollout_step:06d}.parquet", rows)


class HeldOutLog(Callback):
    """Writes the responses to the first `QUESTIONS` held-out questions for the report.

    `trainer.validate` before training makes `base.parquet` in `folder`, after training `tuned.parquet`; the
    evaluations during training are not written. `validation_step` returns {"entropy": [R, T]}, nats of each
    token, 0 outside responses.
    """

    def __init__(self, folder: Path, tokenizer: PreTrainedTokenizerBase) -> None:
        self.folder = folder
        self.tokenizer = tokenizer
        self.tables: list[pa.Table] = []

    def on_validation_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self.tables = []

    def on_validation_batch_end(
        self,
        trainer: Trainer,
        pl_module: LightningModule,
        outputs: Any,
        batch: RolloutBatch,
        batch_idx: int,
        dataloader_idx: int = 0,
    ) -> None:
        if trainer.state.fn == TrainerFn.VALIDATING and min(batch.question_indices) < QUESTIONS:
            self.tables.append(response_table(batch, outputs["entropy"], self.tokenizer))

    def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        if trainer.state.fn != TrainerFn.VALIDATING:
            return
        ranks, self.tables = gather_objects(self.tables), []
        if trainer.is_global_zero:
            table = pa.concat_tables([each for rank in ranks for each in rank])
            name = "tuned" if pl_module.rollout_step else "base"
            order = [("index", "ascending"), ("sample", "ascending")]
            write(self.folder / f"{name}.parquet", table.sort_by(order))


def write(path: Path, table: pa.Table) -> None:
    """Warns where the disk is full; training continues."""
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with atomic_write(path) as file:
            pq.write_table(table, file)
    except OSError as error:
        warnings.warn(
            f"the rollouts were not written to '{path}' "
            f"({error.strerror or error}); training continues without them",
            stacklevel=2,
        )


def rollout_table(
    rollout_step: int, batch: RolloutBatch, outputs: Mapping[str, Tensor]
) -> pa.Table:
    """One row per row of the batch."""
    group = batch.group.tolist()
    lengths = batch.lengths.tolist()
    columns: dict[str, list[Any]] = {name: [] for name in COLUMNS}
    taken: Counter[int] = Counter()
    for index, length in zip(group, lengths, strict=True):
        scored = batch.groups[index]
        prompt = scored.group.prompt
        completion, verdict = scored.group.completions[taken[index]], scored.verdicts[taken[index]]
        taken[index] += 1
        assert len(completion.token_ids) == length, (
            "a prompt's rows are in the order of its completions"
        )
        columns["uid"].append(storable(prompt.uid))
        columns["prompt"].append(storable(prompt.text))
        columns["answer"].append(storable(prompt.answer))
        columns["response"].append(storable(completion.text))
        columns["finish"].append(completion.finish.value)
        columns["outcome"].append(verdict.outcome.value)
        columns["metadata"].append(json.dumps(dict(prompt.metadata), default=str))
    columns |= {
        "rollout_step": [rollout_step] * len(group),
        "length": lengths,
        "score": batch.scores.tolist(),
        "correct": batch.correct.tolist(),
        "reward": outputs["rewards"].tolist(),
        "advantage": outputs["advantages"].tolist(),
        "entropy": outputs["entropy"].tolist(),
        "policy_version": [batch.policy_version] * len(group),
    }
    table = pa.table(columns, schema=pa.schema(list(COLUMNS.items())))
    for name, values in sorted(batch.signals.items()):
        table = table.append_column(
            f"signal_{name}", pa.array(values[batch.group].tolist(), pa.float64())
        )
    return table
