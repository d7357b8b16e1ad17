"""Supervised training: worked examples -> policy -> a run folder with a model."""

from collections.abc import Iterable
from contextlib import ExitStack
from pathlib import Path

from lightning import seed_everything

from ceeh.assembly import (
    Examples,
    build_loggers,
    build_source,
    check_share,
    make_trainer,
    open_folder,
    quieten,
    set_threads,
    write_model,
)
from ceeh.callbacks.console import SFT_HELD_OUT, Console, sft_line
from ceeh.config.hardware import (
    check_attention,
    check_quantization,
    resolve_accelerator,
    resolve_precision,
)
from ceeh.config.settings import check_not_redacted
from ceeh.config.sft import SFTConfig, check_sft_pairs
from ceeh.data.examples import ExampleBuilder, ExampleLoader, HeldOutExamples, load_examples
from ceeh.data.prompts import PromptStream, check_stream, digests
from ceeh.errors import ConfigError
from ceeh.export.card import write_supervised_card
from ceeh.modules.policy import Policy
from ceeh.modules.sft import SFTModule
from ceeh.pretrained.loading import (
    check_length,
    load_config,
    load_tokenizer,
    pad_token_id,
    resolve_model,
)
from ceeh.run.checkpoint import checkpoint_files
from ceeh.run.folder import run_to_resume
from ceeh.run.resumed import check_resumed, stream_state
from ceeh.runtime import shutdown
from ceeh.runtime.distributed import (
    from_rank_zero,
    is_rank_zero,
    join_processes,
    other_processes_watched,
    rank,
    say,
    world_size,
)
from ceeh.types import Question, WorkedPrompt


def gather_examples(config: SFTConfig) -> Examples:
    """Reads model files and data. Raises ConfigError with the cure for bad input."""
    accelerator = resolve_accelerator(config.hardware)
    check_not_redacted(config)
    check_sft_pairs(config, world_size())
    run = run_to_resume(config.output, config.name, config.ckpt_path) if config.ckpt_path else None
    if run is not None and (run / "config.yaml").is_file():
        check_resumed(run, config)
    check_quantization(config, accelerator)
    check_attention(config, accelerator)
    path = resolve_model(config.model.path)
    longest = config.prompts.max_prompt_tokens + config.max_response_tokens
    model_config = load_config(path, config.model.trust_remote_code)
    check_length(model_config, path, longest, "max_response_tokens")
    tokenizer = load_tokenizer(path, config.model.trust_remote_code)
    builder = ExampleBuilder.of(tokenizer, config.prompts)

    def examples(source: Iterable[Question], place: str) -> list[WorkedPrompt]:
        return load_examples(source, builder, place, max_response_tokens=config.max_response_tokens)

    train_source = build_source(config.prompts.train, "prompts.train")
    train = examples(train_source, "prompts.train")
    if len(train) < config.optimizer.prompts_per_minibatch:
        raise ConfigError(
            f"optimizer.prompts_per_minibatch is {config.optimizer.prompts_per_minibatch}, but prompts.train "
            f"has only {len(train)} examples; lower it or add examples"
        )
    if run is not None and (state := stream_state(run, config.ckpt_path or "")):
        check_stream(state, digests(train), config.seed)
    held_out: list[WorkedPrompt] = []
    if config.prompts.held_out.class_path:
        source = build_source(config.prompts.held_out, "prompts.held_out")
        held_out = examples(source, "prompts.held_out")
    join_processes(
        accelerator,
        join_minutes=config.hardware.join_minutes,
        collective_minutes=config.hardware.collective_minutes,
    )
    if held_out:
        check_share(held_out)
    return Examples(
        model_path=path,
        tokenizer=tokenizer,
        train_source=train_source,
        train=train,
        held_out=held_out,
        accelerator=accelerator,
        precision=resolve_precision(config.hardware, accelerator),
    )


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
    pad, size = pad_token_id(inputs.tokenizer), config.optimizer.prompts_per_minibatch
    with ExitStack() as held:
        held.enter_context(other_processes_watched())
        folder, checkpoint = from_rank_zero(
            lambda: open_folder(config, inputs, policy.checkpoint_bytes, held)
        )
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
            inputs.train,
            seed=config.seed,
            prompts_per_step=size,
            rank=rank(),
            world_size=world_size(),
        )
        loader = ExampleLoader(stream, steps=config.steps, pad_token_id=pad)
        unseen = HeldOutExamples(
            inputs.held_out, size=size, pad_token_id=pad, rank=rank(), world_size=world_size()
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
