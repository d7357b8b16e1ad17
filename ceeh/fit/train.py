"""A run from its inputs to its report.

The base model is measured on held-out questions, trained, and measured on the same questions again.
The run ends with a table, a report and a model folder.
"""

from contextlib import ExitStack, closing
from pathlib import Path

from lightning import seed_everything

from ceeh.assembly.folder import open_folder, write_model
from ceeh.assembly.inputs import check_device, engine_context, gather_inputs
from ceeh.assembly.trainer import build_loggers, build_trainer
from ceeh.config.hardware import resolve_accelerator, set_threads
from ceeh.config.settings import Config
from ceeh.data.datamodule import RolloutDataModule
from ceeh.data.engine.restartable import build_engine
from ceeh.fit.held_out import measure_base, measure_tuned, write_results
from ceeh.modules.module import CEEHModule
from ceeh.modules.policy import Policy
from ceeh.runtime import shutdown
from ceeh.runtime.distributed import (
    from_rank_zero,
    is_rank_zero,
    other_processes_watched,
    processes_here,
    say,
    world_size,
)
from ceeh.runtime.quiet import quieten


@shutdown.signals_honored()
def train(config: Config) -> Path:
    """See `ceeh.fit.fit`."""
    quieten()
    accelerator = resolve_accelerator(config.hardware)
    check_device(config, accelerator, processes=world_size(), here=processes_here())
    inputs = gather_inputs(config)
    shutdown.check()
    seed_everything(config.seed, verbose=False)
    set_threads(config.hardware)
    policy = Policy(
        config.model,
        inputs.model_path,
        temperature=config.rollouts.temperature,
        keep_reference=config.objective.kl_coefficient > 0,
        precision=inputs.precision,
    )
    module = CEEHModule(config, policy)
    shutdown.check()
    with ExitStack() as held:
        held.enter_context(other_processes_watched())
        folder, checkpoint = from_rank_zero(lambda: open_folder(config, inputs, policy, held))
        jsonl, mlflow = build_loggers(config, inputs, folder, checkpoint)
        say(f"run folder {folder.path}; starting the engine ...")
        held.enter_context(closing(inputs.verifier))
        context = engine_context(config, inputs)
        shutdown.check()
        engine = held.enter_context(
            closing(build_engine(config.engine, context, policy.engine_weights))
        )
        shutdown.check()
        datamodule = RolloutDataModule(
            config,
            engine=engine,
            verifier=inputs.verifier,
            train_prompts=inputs.train_prompts,
            probe_prompts=inputs.probe_prompts,
            held_out_prompts=inputs.held_out_prompts,
            pad_token_id=inputs.pad_token_id,
        )
        loggers = [jsonl, *([mlflow] if mlflow else [])]
        trainer = build_trainer(config, inputs, folder, engine, loggers)
        base = measure_base(trainer, module, datamodule, folder)
        trainer.fit(
            module,
            datamodule=datamodule,
            ckpt_path=checkpoint,
            weights_only=True if checkpoint else None,
        )
        shutdown.check()
        if (step := module.rollout_step) < config.rollouts.steps:
            say(
                f"trainer.max_time or a callback ended the training after rollout step {step} of "
                f"{config.rollouts.steps}; ckpt_path=last continues it, with a longer max_time if that was it"
            )
        write_model(policy, folder, inputs)
        tuned = measure_tuned(trainer, module, datamodule, folder)
    shutdown.check()
    if is_rank_zero():
        write_results(
            config,
            folder,
            base,
            tuned,
            inputs.held_out_prompts,
            mlflow,
            rollout_step=module.rollout_step,
        )
    return folder.path
