"""The inputs of supervised training: model files and demonstrations, checked."""

from collections.abc import Sequence
from dataclasses import dataclass

from ceeh.assembly.components import build_source
from ceeh.assembly.inputs import (
    RunInputs,
    check_questions,
    check_share,
    read_model,
    resumed_run,
)
from ceeh.config.hardware import (
    check_attention,
    check_quantization,
    resolve_accelerator,
    resolve_precision,
)
from ceeh.config.sft import SFTConfig, check_sft_pairs
from ceeh.config.writing import check_not_redacted
from ceeh.data.examples import ExampleBuilder, load_examples
from ceeh.errors import ConfigError
from ceeh.runtime.distributed import join_processes, world_size
from ceeh.types import Example


@dataclass(frozen=True, slots=True, kw_only=True)
class Examples(RunInputs):
    """What supervised training reads. `held_out_prompts` may be empty."""

    train_prompts: Sequence[Example]
    held_out_prompts: Sequence[Example]


def gather_examples(config: SFTConfig) -> Examples:
    """Reads model files and data. Raises ConfigError with the cure for bad input."""
    accelerator = resolve_accelerator(config.hardware)
    check_not_redacted(config)
    check_sft_pairs(config, world_size())
    run = resumed_run(config)
    check_quantization(config, accelerator)
    check_attention(config, accelerator)
    limit = config.max_response_tokens
    path, tokenizer = read_model(config, limit, "max_response_tokens")
    builder = ExampleBuilder(tokenizer, config.prompts)
    source = build_source(config.prompts.train, "prompts.train")
    train = load_examples(source, builder, "prompts.train", max_response_tokens=limit)
    if len(train) < config.optimizer.prompts_per_minibatch:
        raise ConfigError(
            f"optimizer.prompts_per_minibatch is {config.optimizer.prompts_per_minibatch}, but prompts.train "
            f"has only {len(train)} examples; lower it or add examples"
        )
    check_questions(run, config, train)
    held_out: list[Example] = []
    if config.prompts.held_out.class_path:
        unseen = build_source(config.prompts.held_out, "prompts.held_out")
        held_out = load_examples(unseen, builder, "prompts.held_out", max_response_tokens=limit)
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
        train_source=source,
        train_prompts=train,
        held_out_prompts=held_out,
        accelerator=accelerator,
        precision=resolve_precision(config.hardware, accelerator),
    )
