"""RunCheckpoint: every n rollout steps, and after the last one."""

from pathlib import Path
from typing import Any

from lightning import LightningModule, Trainer
from lightning.pytorch.callbacks import ModelCheckpoint


class RunCheckpoint(ModelCheckpoint):
    """`step-*.ckpt` of the `keep` newest, and `last.ckpt`, which holds the run's end when it is over.

    `steps` and `every_n_steps` are rollout steps of `updates` optimiser steps each.
    """

    def __init__(
        self, folder: Path, *, steps: int, every_n_steps: int, updates: int, keep: int
    ) -> None:
        super().__init__(
            dirpath=folder,
            filename="step-{rollout/step:06.0f}",
            auto_insert_metric_name=False,
            monitor="rollout/step",
            mode="max",
            save_top_k=keep,
            save_last=True,
            # A resumed run goes on with last.ckpt, also from a moved folder or an older file.
            enable_version_counter=False,
            every_n_train_steps=every_n_steps * updates,
        )
        self.last = folder / "last.ckpt"
        self.last_update = steps * updates
        self.ends_between = steps % every_n_steps > 0

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        super().on_train_batch_end(trainer, pl_module, outputs, batch, batch_idx)
        if self.ends_between and trainer.global_step == self.last_update:
            trainer.save_checkpoint(self.last)

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Nothing: Lightning's own would save loops that are over, which no longer run would go on."""
