"""The private parts of Lightning do what ceeh uses them for, and no other file knows them.

That the loop states resume to equal numbers is tested with whole runs, in tests/test_resume.py.
"""

import re
import signal
from pathlib import Path
from typing import Any

import pytest
import torch
from lightning import Callback, LightningModule, Trainer
from torch.utils.data import DataLoader

import ceeh
from ceeh.runtime import lightning_private as private


class Logging(LightningModule):
    """Logs another metric in each step."""

    def __init__(self) -> None:
        super().__init__()
        self.automatic_optimization = False
        self.weight = torch.nn.Parameter(torch.zeros(1))

    def training_step(self, batch: Any, batch_idx: int) -> None:
        self.log(f"metric_{batch_idx}", float(batch_idx))
        self.optimizers().step()  # type: ignore[union-attr]

    def validation_step(self, batch: Any, batch_idx: int) -> None:
        if batch_idx == 0:
            self.begun = private.batches_begun(self.trainer)
            self.evaluating = private.loop_state(self.trainer)

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.SGD(self.parameters(), lr=0.1)


class Reading(Callback):
    def __init__(self) -> None:
        self.metrics: list[set[str]] = []
        self.checkpoint: dict[str, Any] = {}
        self.begun: list[int] = []
        self.handlers: list[Any] = []

    def on_train_start(self, trainer: Trainer, *_: Any) -> None:
        private.forget_interrupted_evaluation(trainer)

    def on_train_batch_end(self, trainer: Trainer, *_: Any) -> None:
        self.metrics.append(set(private.step_metrics(trainer)))
        self.checkpoint = private.dump_checkpoint(trainer)
        self.before = private.loop_state(trainer, before_evaluation=True)
        self.begun.append(private.batches_begun(trainer))
        self.handlers.append(signal.getsignal(signal.SIGTERM))


@pytest.mark.filterwarnings("ignore:.*does not have many workers:UserWarning")
def test_lightning_still_has_them() -> None:
    reading, before = Reading(), signal.getsignal(signal.SIGTERM)
    trainer = Trainer(
        accelerator="cpu",
        max_epochs=1,
        logger=False,
        num_sanity_val_steps=0,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        callbacks=[reading],
    )
    private.disable_signal_handlers(trainer)
    module = Logging()
    trainer.fit(module, DataLoader([0.0, 1.0]), DataLoader([0.0, 1.0]))
    assert reading.metrics[0] == {"metric_0"}
    assert reading.metrics[1] >= {"metric_1"}
    assert (reading.begun, module.begun) == ([1, 2], 2)
    assert reading.handlers == [before] * 2
    assert reading.checkpoint.keys() >= {"state_dict", "loops", "callbacks", "optimizer_states"}
    # What is written before the evaluation is what Lightning itself has once the evaluation has begun.
    for name in (private.PROGRESS, private.EVALUATION_PROGRESS):
        assert reading.before[name] == module.evaluating[name], name
    private.set_last_step(reading.checkpoint, False)
    assert not reading.checkpoint["loops"]["fit_loop"][private.PROGRESS]["is_last_batch"]
    private.set_loop_state(reading.checkpoint, reading.before)
    assert reading.checkpoint["loops"]["fit_loop"][private.PROGRESS]["is_last_batch"]


def test_no_other_file_reads_private_attributes_or_loop_states() -> None:
    files = set(Path(ceeh.__file__).parent.rglob("*.py"))
    known = re.compile(
        r"(trainer|_loop|strategy|connector)\._[a-z]|\bloops\b\"\]|(fit|epoch|val)_loop|_progress\b"
    )
    found = {file.stem for file in files if known.search(file.read_text())}
    assert found == {"lightning_private"}
