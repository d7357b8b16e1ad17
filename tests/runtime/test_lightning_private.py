"""The private parts of Lightning do what ceeh uses them for, and no other file knows them."""

import re
import signal
from pathlib import Path
from typing import Any

import pytest
import torch
from lightning import Callback, LightningModule, Trainer
from torch.utils.data import DataLoader

import ceeh
from ceeh.runtime.lightning_private import disable_signal_handlers, dump_checkpoint, step_metrics


class Logging(LightningModule):
    """Logs another metric in each step."""

    def __init__(self) -> None:
        super().__init__()
        self.automatic_optimization = False
        self.weight = torch.nn.Parameter(torch.zeros(1))

    def training_step(self, batch: Any, batch_idx: int) -> None:
        self.log(f"metric_{batch_idx}", float(batch_idx))
        self.optimizers().step()  # type: ignore[union-attr]

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.SGD(self.parameters(), lr=0.1)


class Reading(Callback):
    def __init__(self) -> None:
        self.metrics: list[set[str]] = []
        self.checkpoint: dict[str, Any] = {}
        self.handlers: list[Any] = []

    def on_train_batch_end(self, trainer: Trainer, *_: Any) -> None:
        self.metrics.append(set(step_metrics(trainer)))
        self.checkpoint = dump_checkpoint(trainer)
        self.handlers.append(signal.getsignal(signal.SIGTERM))


@pytest.mark.filterwarnings("ignore:.*does not have many workers:UserWarning")
@pytest.mark.filterwarnings("ignore:.*LeafSpec:FutureWarning")  # Lightning 2.6 with torch 2.13
def test_lightning_still_has_them() -> None:
    reading, before = Reading(), signal.getsignal(signal.SIGTERM)
    trainer = Trainer(
        accelerator="cpu",
        max_epochs=1,
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        callbacks=[reading],
    )
    disable_signal_handlers(trainer)
    trainer.fit(Logging(), DataLoader([0.0, 1.0]))
    assert reading.metrics[0] == {"metric_0"}
    assert reading.metrics[1] >= {"metric_1"}
    assert reading.checkpoint.keys() >= {"state_dict", "loops", "callbacks", "optimizer_states"}
    assert "fit_loop" in reading.checkpoint["loops"]
    assert reading.handlers == [before] * 2


def test_no_other_file_reads_a_trainers_private_attributes() -> None:
    files = set(Path(ceeh.__file__).parent.rglob("*.py"))
    private = re.compile(r"(trainer|_loop|strategy|connector)\._[a-z]")
    found = {file.stem for file in files if private.search(file.read_text())}
    assert found == {"lightning_private"}
