"""RNGState: a resumed run draws the random numbers that the uninterrupted run would have drawn."""

import warnings
from typing import Any

from lightning import Callback, LightningModule, Trainer
from lightning.pytorch.trainer.states import TrainerFn

from ceeh.runtime.distributed import gather_objects
from ceeh.runtime.rng import read_rng, set_rng

KEY = "rng_states"


class RNGState(Callback):
    """Keeps the generators of Python, NumPy, torch and CUDA, of every rank, in the checkpoint.

    Lightning writes no generator state, and of callback states only those of rank 0; so they are
    gathered when a step or its evaluation is over (or its evaluation begins), which every rank comes
    to, and a checkpoint holds the last ones: it may be written by rank 0 alone, in the midst of the
    next step. They are set in `on_train_start`, the last callback hook before the first batch of an
    epoch that was left midway: place this callback after every one that may draw there (a weight push
    may).
    """

    def __init__(self) -> None:
        self.loaded: list[dict[str, Any]] = []
        self.gathered: list[dict[str, Any]] = []

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        self.gather(trainer)

    def on_validation_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        if trainer.state.fn == TrainerFn.FITTING:
            self.gather(trainer)

    def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        if trainer.state.fn == TrainerFn.FITTING:
            self.gather(trainer)

    def gather(self, trainer: Trainer) -> None:
        self.gathered = gather_objects(trainer, read_rng(trainer.strategy.root_device))

    def on_save_checkpoint(
        self, trainer: Trainer, pl_module: LightningModule, checkpoint: dict[str, Any]
    ) -> None:
        checkpoint[KEY] = self.gathered

    def on_load_checkpoint(
        self, trainer: Trainer, pl_module: LightningModule, checkpoint: dict[str, Any]
    ) -> None:
        """Raises ValueError for a checkpoint that was written without generator states."""
        if KEY not in checkpoint:
            raise ValueError(
                "the checkpoint holds no random generator states, so the run cannot be continued "
                "exactly; it was written without the RNGState callback"
            )
        self.loaded = checkpoint[KEY]

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        if not self.loaded:
            return
        if len(self.loaded) == trainer.world_size:
            set_rng(self.loaded[trainer.global_rank], trainer.strategy.root_device)
        else:
            warnings.warn(
                f"the checkpoint holds the random generators of {len(self.loaded)} ranks, this run "
                f"has {trainer.world_size}: it goes on with fresh ones, not as if never stopped",
                stacklevel=2,
            )
        self.loaded = []
