"""HubPush: the model goes to the Hugging Face Hub while it trains, after each checkpoint."""

import logging
import shutil
import time
from pathlib import Path
from threading import Thread
from typing import Any

import torch
from lightning import Callback, LightningModule, Trainer
from transformers import PreTrainedTokenizerBase

from ceeh.config.rules import NOT_NEGATIVE, check
from ceeh.errors import ConfigError, RunError
from ceeh.export.card import Export, write_card
from ceeh.export.run import check_push, push, upload_command
from ceeh.export.source import read_mixture
from ceeh.modules.module import CEEHModule
from ceeh.modules.sharding import gather_weights
from ceeh.pretrained.loading import load_tokenizer, resolve_model
from ceeh.run.atomic import atomic_folder
from ceeh.run.sharded_strategy import ShardedStrategy
from ceeh.runtime import shutdown
from ceeh.runtime.distributed import from_rank_zero, is_rank_zero, say
from ceeh.runtime.text import escape

FOLDER = "hub"
"""In the run folder: what is being uploaded."""
SLICE_SECONDS = 1.0
"""A requested stop is honored within."""
log = logging.getLogger(__name__)


class HubPush(Callback):
    """Uploads the model to `repo_id` after each checkpoint, in a thread beside the training.

    The repository has the newest weights as `ceeh.export` writes them, the whole model with an adapter merged
    or, with `adapter`, the LoRA alone, and a card; each upload is a commit. A checkpoint that comes during an
    upload is left out. The hub cannot stop a run: a failure is one warning, and the next checkpoint tries
    again.

    A run waits twice: at the end of training for an upload that the final model comes after, and after the
    evaluation of the trained model for the final model's. Both waits together take at most `wait_minutes`,
    and a requested stop ends them. Where the final model is not on the hub then, one warning has the command
    that pushes it.

    huggingface_hub reads the token, from HF_TOKEN or what `hf auth login` left; nothing here has it. Raises
    ConfigError at the start for an invalid `repo_id`, and without a token; ValueError for a negative
    `wait_minutes`.
    """

    def __init__(
        self,
        repo_id: str,
        private: bool = True,
        adapter: bool = False,
        wait_minutes: float = 10.0,
    ) -> None:
        check(NOT_NEGATIVE, wait_minutes=wait_minutes)
        if is_rank_zero():
            check_push(repo_id, "repo_id")
        self.repo_id, self.private, self.adapter = repo_id, private, adapter
        self.seconds_left = 60 * wait_minutes
        """Of waiting."""
        self.due = False
        """The last step ended with a checkpoint."""
        self.written, self.uploaded = 0, 0
        """Rollout steps of the weights in `FOLDER` and on the hub."""
        self.final = 0
        """Rollout step of the trained model, 0 while it is trained."""
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
            self._begin_push(trainer, pl_module)

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        assert isinstance(pl_module, CEEHModule)
        self.final = pl_module.rollout_step
        self._wait()
        if not from_rank_zero(self.thread.is_alive):
            self._begin_push(trainer, pl_module)

    def teardown(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """After `validate`, that is after the evaluations before and after the training."""
        if stage != "validate" or not self.final or not is_rank_zero():
            return
        run = Path(trainer.default_root_dir)
        if self.written == self.final:
            self._wait()
        if self.uploaded == self.final:
            say(f"pushed rollout step {self.final} to https://huggingface.co/{self.repo_id}")
        else:
            log.warning(
                "the model of rollout step %d was not pushed to '%s'; push it with: %s",
                *(self.final, self.repo_id, self._command(run)),
            )
        needed = self.written == self.final != self.uploaded
        if not needed and not self.thread.is_alive():
            shutil.rmtree(run / FOLDER, ignore_errors=True)

    def _command(self, run: Path) -> str:
        """Uploads the final model, from model/ where `FOLDER` has an older one."""
        if self.written != self.final and self.adapter:
            private = " --private" if self.private else ""
            return (
                f"python -m ceeh.export {run} OUT --adapter --push-to-hub {self.repo_id}{private}"
            )
        folder = run / (FOLDER if self.written == self.final else "model")
        return upload_command(folder, self.repo_id, private=self.private)

    def _begin_push(self, trainer: Trainer, module: LightningModule) -> None:
        """Writes the current weights into `FOLDER` and starts their upload. Collective."""
        assert isinstance(module, CEEHModule)
        if not is_rank_zero():
            gather_weights(module.policy)
            return
        folder, begun = Path(trainer.default_root_dir) / FOLDER, False
        try:
            with atomic_folder(folder) as made:
                begun = True
                self._write(made, module, folder.parent)
        except (OSError, ConfigError) as error:  # a full disk; NaN, which the checkpoint reports
            if not begun:
                gather_weights(module.policy)
            self._warn(f"the model for '{self.repo_id}' cannot be written to '{folder}' ({error})")
            return
        self.thread = self._start(folder, module.rollout_step)

    def _start(self, folder: Path, step: int) -> Thread:
        """The thread that uploads `folder`, started. It does not keep the process alive."""
        self.written = step
        thread = Thread(target=self._upload, args=(folder, step), name="hub", daemon=True)
        thread.start()
        return thread

    def _write(self, made: Path, module: CEEHModule, run: Path) -> None:
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
            mixture=read_mixture(run),
            adapter=self.adapter,
            dtype=str(torch.float32 if self.adapter else policy.dtype).removeprefix("torch."),
            command="ceeh.export.hub_push.HubPush",
        )
        write_card(made, facts)

    def _upload(self, folder: Path, step: int) -> None:
        message = f"Rollout step {step} of a ceeh run"
        try:
            push(folder, self.repo_id, private=self.private, message=message)
        except RunError as error:
            self._warn(str(error))
        else:
            self.uploaded, self.warned = step, False

    def _wait(self) -> None:
        """Until the upload has ended or `wait_minutes` are spent. Raises Stopped."""
        while self.thread.is_alive() and self.seconds_left > 0:
            shutdown.check()
            begun = time.monotonic()
            self.thread.join(min(self.seconds_left, SLICE_SECONDS))
            self.seconds_left -= time.monotonic() - begun

    def _warn(self, words: str) -> None:
        """Once, until an upload has succeeded."""
        if not self.warned:
            log.warning("%s. Training continues; the next checkpoint tries again", escape(words))
        self.warned = True
