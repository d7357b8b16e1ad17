"""HubPush: the model goes to the Hugging Face Hub while it trains, after each checkpoint."""

import logging
import shutil
from pathlib import Path
from threading import Thread
from typing import Any

import torch
from lightning import Callback, LightningModule, Trainer
from transformers import PreTrainedTokenizerBase

from ceeh.errors import ConfigError, RunError
from ceeh.export.card import Export, write_card
from ceeh.export.run import check_push, push
from ceeh.export.source import read_json
from ceeh.modules.module import CEEHModule
from ceeh.modules.sharding import gather_weights
from ceeh.pretrained.loading import load_tokenizer, resolve_model
from ceeh.run.atomic import atomic_folder
from ceeh.run.sharded_strategy import ShardedStrategy
from ceeh.runtime.distributed import from_rank_zero, is_rank_zero, say
from ceeh.runtime.text import escape

FOLDER = "hub"
"""In the run folder: what is being uploaded."""
log = logging.getLogger(__name__)


class HubPush(Callback):
    """Uploads the model to `repo_id` after each checkpoint, in a thread beside the training.

    The repository has the newest weights as `ceeh.export` writes them, the whole model with an adapter merged
    or, with `adapter`, the LoRA alone, and a card; each upload is a commit. A checkpoint that comes during an
    upload is left out, the last one waits for it. The hub cannot stop a run: a failure is one warning, and
    the next checkpoint tries again. After the evaluation of the trained model at most `wait_minutes` are
    spent on waiting for the last upload.

    huggingface_hub reads the token, from HF_TOKEN or what `hf auth login` left; nothing here has it. Raises
    ConfigError at the start for an invalid `repo_id`, and without a token.
    """

    def __init__(
        self,
        repo_id: str,
        private: bool = True,
        adapter: bool = False,
        wait_minutes: float = 10.0,
    ) -> None:
        if is_rank_zero():
            check_push(repo_id, "callbacks: HubPush")
        self.repo_id, self.private, self.adapter = repo_id, private, adapter
        self.wait_seconds = 60 * wait_minutes
        self.due = False
        """The last step ended with a checkpoint."""
        self.written, self.uploaded = 0, 0
        """Rollout steps of the weights in `FOLDER` and on the hub."""
        self.warned = False
        self.tokenizer: PreTrainedTokenizerBase | None = None
        # Not a thread of HfApi.run_as_future: Python waits for those at its exit, however long they take.
        self.thread = Thread()

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        assert isinstance(pl_module, CEEHModule)
        model = pl_module.config.model
        if is_rank_zero() and self.tokenizer is None:
            self.tokenizer = load_tokenizer(resolve_model(model.path), model.trust_remote_code)
        if not self.adapter:
            return
        if not pl_module.policy.lora:
            raise ConfigError("callbacks: HubPush has adapter: true, but model.lora.rank is 0")
        if isinstance(trainer.strategy, ShardedStrategy):
            raise ConfigError(
                "callbacks: HubPush writes whole models under hardware.strategy=fsdp; leave out adapter"
            )

    def on_save_checkpoint(
        self, trainer: Trainer, pl_module: LightningModule, checkpoint: dict[str, Any]
    ) -> None:
        # The checkpoint is not there yet. Its weights are those of the next step's start.
        self.due = True

    def on_train_batch_start(
        self, trainer: Trainer, pl_module: LightningModule, batch: Any, batch_idx: int
    ) -> None:
        due, self.due = self.due, False
        if due and not from_rank_zero(self.thread.is_alive):
            self.push(trainer, pl_module)

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self.join()
        if not from_rank_zero(self.thread.is_alive):
            self.push(trainer, pl_module)

    def teardown(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """After `validate`, that is after the evaluations before and after the training."""
        if stage != "validate" or not self.written:
            return
        folder = Path(trainer.default_root_dir) / FOLDER
        self.join()
        if self.uploaded == self.written:
            say(f"pushed rollout step {self.written} to https://huggingface.co/{self.repo_id}")
            shutil.rmtree(folder, ignore_errors=True)
        else:
            state = "is still being pushed" if self.thread.is_alive() else "was not pushed"
            log.warning(
                "the model of rollout step %d %s to '%s'; push it with: hf upload %s %s",
                *(self.written, state, self.repo_id, self.repo_id, folder),
            )

    def push(self, trainer: Trainer, module: LightningModule) -> None:
        """Writes the current weights into `FOLDER` and starts their upload. Collective."""
        assert isinstance(module, CEEHModule)
        if not is_rank_zero():
            gather_weights(module.policy)
            return
        folder, begun = Path(trainer.default_root_dir) / FOLDER, False
        try:
            with atomic_folder(folder) as made:
                begun = True
                self.write(made, module, folder.parent)
        except (OSError, ConfigError) as error:  # a full disk; NaN, which the checkpoint reports
            if not begun:
                gather_weights(module.policy)
            self.warn(f"the model for '{self.repo_id}' cannot be written to '{folder}' ({error})")
            return
        self.thread = self.start(folder, module.rollout_step)

    def start(self, folder: Path, step: int) -> Thread:
        """The thread that uploads `folder`, started. It does not keep the process alive."""
        self.written = step
        thread = Thread(target=self.upload, args=(folder, step), name="hub", daemon=True)
        thread.start()
        return thread

    def write(self, made: Path, module: CEEHModule, run: Path) -> None:
        config, policy = module.config, module.policy
        assert self.tokenizer is not None
        (policy.save_adapter if self.adapter else policy.save)(made, self.tokenizer)
        facts = Export(
            name=run.name,
            repo=self.repo_id,
            config=config,
            rollout_step=module.rollout_step,
            summary=None,
            evaluation=None,
            mixture=read_json(run / "mixture.json"),
            adapter=self.adapter,
            dtype=str(torch.float32 if self.adapter else policy.dtype).removeprefix("torch."),
            command="ceeh.export.hub_push.HubPush",
        )
        write_card(made, facts)

    def upload(self, folder: Path, step: int) -> None:
        message = f"Rollout step {step} of a ceeh run"
        try:
            push(folder, self.repo_id, private=self.private, message=message)
        except RunError as error:
            self.warn(str(error))
        else:
            self.uploaded, self.warned = step, False

    def join(self) -> None:
        if self.thread.is_alive():
            self.thread.join(self.wait_seconds)

    def warn(self, words: str) -> None:
        """Once, until an upload has succeeded."""
        if not self.warned:
            log.warning("%s. Training continues; the next checkpoint tries again", escape(words))
        self.warned = True
