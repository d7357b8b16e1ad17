"""A real Trainer around hand-built batches: what every callback's test runs through."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from lightning import Callback, LightningModule, Trainer
from lightning.pytorch.callbacks import ModelCheckpoint

from ceeh.data.batch import RolloutBatch, collate
from ceeh.types import Finish, GroupOutcome
from tests.groups import make_completion, make_prompt, make_scored

Row = tuple[bool, int, Finish]


def make_outcome(uid: str, *rows: Row | tuple[bool, int]) -> GroupOutcome:
    """A group outcome of (correct, length) or (correct, length, finish) rows."""
    return GroupOutcome(
        uid=uid,
        correct=tuple(row[0] for row in rows),
        lengths=tuple(row[1] for row in rows),
        finished=tuple((*row, Finish.STOP)[2] is Finish.STOP for row in rows),
    )


def make_batch(
    *groups: tuple[str, Sequence[Row | tuple[bool, int]]], text: str = "words"
) -> RolloutBatch:
    """A batch of (uid, rows); every prompt is one token, token 1 everywhere, log-prob -0.5."""
    scored = []
    for uid, rows in groups:
        completions = [
            make_completion(f"{text} {index}", (1,) * row[1], finish=(*row, Finish.STOP)[2])
            for index, row in enumerate(rows)
        ]
        prompt = make_prompt(uid, (1,), text=f"{text}?", level=len(uid))
        scored.append(make_scored(prompt, completions, [row[0] for row in rows]))
    return collate(scored, pad_token_id=1, timings={"generate": 2.0, "score": 0.5})


class Loader:
    """Sized and resumable, as the rollout stream is; `draw` runs before each batch."""

    def __init__(self, batches: Sequence[RolloutBatch], draw: Callable[[], None]) -> None:
        self.batches = batches
        self.draw = draw
        self.position = 0

    def __len__(self) -> int:
        return len(self.batches)

    def __iter__(self) -> Iterator[RolloutBatch]:
        while self.position < len(self.batches):
            self.draw()
            self.position += 1
            yield self.batches[self.position - 1]

    def state_dict(self) -> dict[str, int]:
        return {"position": self.position}

    def load_state_dict(self, state: dict[str, int]) -> None:
        self.position = state["position"]


class TinyModule(LightningModule):
    """One weight, stepped by hand; keeps the signals that each training step was given.

    What signals observe afterwards says that every group is hard and has the entropy `entropy`, in nats.
    """

    def __init__(self) -> None:
        super().__init__()
        self.automatic_optimization = False
        self.weight = torch.nn.Parameter(torch.zeros(1))
        self.seen: list[dict[str, list[float]]] = []
        self.values: dict[str, float] = {}
        self.entropy = 1.0

    def training_step(self, batch: RolloutBatch, batch_idx: int) -> dict[str, torch.Tensor]:
        self.batch = batch
        self.seen.append({name: value.tolist() for name, value in batch.signals.items()})
        optimizer = self.optimizers()
        self.weight.grad = torch.ones(1)
        optimizer.step()
        self.log_dict(self.values, batch_size=1)
        rewards = batch.scores - 0.01 * batch.lengths
        return {
            "rewards": rewards,
            "advantages": rewards - rewards.mean(),
            "entropy": 0.1 * batch.lengths,
            "skipped": torch.zeros_like(batch.correct),
            "outcomes": [
                replace(outcome, entropy=self.entropy, hard=1.0)
                for outcome in [*batch.outcomes, *batch.dropped]
            ],
            "probe": batch.probe,
        }

    def validation_step(self, batch: RolloutBatch, batch_idx: int) -> dict[str, torch.Tensor]:
        self.log("eval/accuracy", batch.correct.float().mean(), batch_size=1)
        return {"entropy": 0.25 * batch.response_mask}

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.SGD(self.parameters(), lr=0.1)


class StopAfter(Callback):
    """Ends the fit after that many batches, as a killed run does: without another hook."""

    def __init__(self, batches: int) -> None:
        self.batches = batches

    def on_train_batch_end(self, trainer: Trainer, *_: Any) -> None:
        trainer.should_stop = trainer.fit_loop.epoch_loop.batch_idx + 1 >= self.batches


def run_fit(
    callbacks: Sequence[Callback],
    batches: Sequence[RolloutBatch],
    *,
    validate: Sequence[RolloutBatch] = (),
    draw: Callable[[], None] = lambda: None,
    stop_after: int = 0,
    checkpoints: Path | None = None,
    resume: bool = False,
    module: TinyModule | None = None,
    **trainer_settings: Any,
) -> tuple[Trainer, TinyModule]:
    """Fits `batches`; with `checkpoints` one is written after every step, and `resume` reads it."""
    module = module or TinyModule()
    extra: list[Callback] = [StopAfter(stop_after)] if stop_after else []
    if checkpoints is not None:
        extra.append(ModelCheckpoint(checkpoints, filename="step", every_n_train_steps=1))
    trainer = Trainer(
        **{"accelerator": "cpu", "devices": 1, **trainer_settings},
        max_epochs=1,
        logger=False,
        enable_checkpointing=checkpoints is not None,
        enable_progress_bar=False,
        enable_model_summary=False,
        num_sanity_val_steps=0,
        limit_val_batches=len(validate),
        callbacks=[*callbacks, *extra],
    )
    trainer.fit(
        module,
        train_dataloaders=Loader(batches, draw),
        val_dataloaders=Loader(validate, lambda: None),
        ckpt_path=checkpoints / "step.ckpt" if resume and checkpoints is not None else None,
    )
    return trainer, module


@pytest.fixture
def outcome() -> Callable[..., GroupOutcome]:
    return make_outcome


@pytest.fixture
def batch() -> Callable[..., RolloutBatch]:
    return make_batch


@pytest.fixture
def fit() -> Callable[..., tuple[Trainer, TinyModule]]:
    return run_fit


@pytest.fixture
def tiny_module() -> TinyModule:
    return TinyModule()
