"""Supervised training: demonstrations -> policy -> a run folder with a model."""

from contextlib import ExitStack
from pathlib import Path

from lightning import seed_everything

from ceeh.assembly.examples import gather_examples
from ceeh.assembly.folder import open_folder, write_model
from ceeh.assembly.trainer import build_loggers, make_trainer
from ceeh.callbacks.console import SFT_HELD_OUT, Console, sft_line
from ceeh.config.hardware import set_threads
from ceeh.config.sft import SFTConfig
from ceeh.data.examples import ExampleLoader, HeldOutExamples
from ceeh.data.stream import PromptStream
from ceeh.export.card import write_supervised_card
from ceeh.modules.policy import Policy
from ceeh.modules.sft import SFTModule
from ceeh.run.checkpoint import checkpoint_files
from ceeh.run.disk_space import written
from ceeh.runtime import shutdown
from ceeh.runtime.distributed import (
    from_rank_zero,
    is_rank_zero,
    other_processes_watched,
    rank,
    say,
    world_size,
)
from ceeh.runtime.quiet import quieten


@shutdown.signals_honored()
def train(config: SFTConfig) -> Path:
    """Trains `config` from its examples to its model folder; returns the run folder.

    Raises ConfigError for bad input, and Stopped when a termination signal ends the run;
    `ckpt_path=last` resumes it.
    """
    quieten()
    inputs = gather_examples(config)
    shutdown.check()
    seed_everything(config.seed, verbose=False)
    set_threads(config.hardware)
    policy = Policy(
        config.model,
        inputs.model_path,
        temperature=1.0,
        keep_reference=False,
        precision=inputs.precision,
    )
    module = SFTModule(config, policy)
    pad, size = inputs.pad_token_id, config.optimizer.prompts_per_minibatch
    with ExitStack() as held:
        held.enter_context(other_processes_watched())
        folder, checkpoint = from_rank_zero(lambda: open_folder(config, inputs, policy, held))
        jsonl, mlflow = build_loggers(config, inputs, folder, checkpoint)
        say(f"run folder {folder.path}")
        title = f"{folder.path.name}: {config.model.path} on {inputs.accelerator}"
        console = Console(config.steps, title, line=sft_line, held_out=SFT_HELD_OUT)
        trainer = make_trainer(
            config,
            inputs,
            folder,
            [jsonl, *([mlflow] if mlflow else [])],
            [console],
            evaluate_every_n_steps=config.evaluate_every_n_steps or config.steps + 1,
        )
        stream = PromptStream(
            inputs.train_prompts,
            seed=config.seed,
            prompts_per_step=size,
            rank=rank(),
            world_size=world_size(),
        )
        loader = ExampleLoader(stream, steps=config.steps, pad_token_id=pad)
        unseen = HeldOutExamples(
            inputs.held_out_prompts,
            size=size,
            pad_token_id=pad,
            rank=rank(),
            world_size=world_size(),
        )
        if unseen and checkpoint is None:
            trainer.validate(module, dataloaders=unseen, verbose=False)
        trainer.fit(
            module,
            train_dataloaders=loader,
            val_dataloaders=unseen or None,
            ckpt_path=checkpoint,
            weights_only=True if checkpoint else None,
        )
        shutdown.check()
        if unseen:
            trainer.validate(module, dataloaders=unseen, verbose=False)
        write_model(policy, folder, inputs)
        if is_rank_zero():
            with written(folder.model / "README.md"):
                write_supervised_card(
                    folder.model,
                    base=config.model.path,
                    source=config.prompts.train,
                    steps=config.steps,
                )
    if mlflow is not None:
        mlflow.log_weights(checkpoint_files(folder.checkpoints) | {config.steps: folder.model})
        mlflow.log_folder(folder.model, "model")
        mlflow.finish()
    say(f"model: {folder.model}; train it with python -m ceeh.fit ... model.path={folder.path}")
    return folder.path
