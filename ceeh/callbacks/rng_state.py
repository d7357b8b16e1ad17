"""RNGState: a resumed run draws the random numbers that the uninterrupted run would have drawn."""

import random
import warnings
from typing import Any

import numpy as np
import torch
from lightning import Callback, LightningModule, Trainer
from lightning.pytorch.trainer.states import TrainerFn

from ceeh.ranks import gather_objects

KEY = "rng_states"


class RNGState(Callback):
    """Keeps the generators of Python, NumPy, torch and CUDA, of every rank, in the checkpoint.

    Lightning writes no generator state, and of callback states only those of rank 0; so they are
    gathered when a step or its evaluation is over (or its evaluation begins), which every rank comes
    to, and a checkpoint holds the last ones: it may be written by rank 0 alone, in the midst of the
    next step. They are set in `on_train_start`, the
    last callback hook before the first batch of an epoch that was left midway: place this callback
    after every one that may draw there (a weight push may).
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
        self.gathered = gather_objects(trainer, read_generators(trainer.strategy.root_device))

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
            set_generators(self.loaded[trainer.global_rank], trainer.strategy.root_device)
        else:
            warnings.warn(
                f"the checkpoint holds the random generators of {len(self.loaded)} ranks, this run "
                f"has {trainer.world_size}: it goes on with fresh ones, not as if never stopped",
                stacklevel=2,
            )
        self.loaded = []


def read_generators(device: torch.device) -> dict[str, Any]:
    """The generators of this process as plain containers, which torch loads with weights_only."""
    version, words, gauss = random.getstate()
    algorithm, keys, position, has_gauss, cached_gauss = np.random.get_state()
    states = {
        "python": [version, list(words), gauss],
        "numpy": [algorithm, np.asarray(keys).tolist(), position, has_gauss, cached_gauss],
        "torch": torch.get_rng_state(),
    }
    if device.type == "cuda":
        states["cuda"] = torch.cuda.get_rng_state(device)
    return states


def set_generators(states: dict[str, Any], device: torch.device) -> None:
    """The reverse of `read_generators`; a CUDA state is ignored on a machine without CUDA."""
    version, words, gauss = states["python"]
    random.setstate((version, tuple(words), gauss))
    algorithm, keys, *rest = states["numpy"]
    np.random.set_state((algorithm, np.array(keys, dtype=np.uint32), *rest))
    torch.set_rng_state(states["torch"].cpu())
    if device.type == "cuda" and "cuda" in states:
        torch.cuda.set_rng_state(states["cuda"].cpu(), device)
