"""What `--dry-run` prints: settings, inputs and the memory plan of a run that is not started."""

import warnings
from collections.abc import Iterator, Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

from ceeh.assembly import Inputs, build_signals, gather_inputs, resolve_model
from ceeh.config.hardware import resolve_accelerator
from ceeh.config.settings import Config, check_pairs
from ceeh.errors import ConfigError
from ceeh.memory.advice import advise
from ceeh.memory.devices import GIB, USABLE, Devices, present_devices
from ceeh.memory.items import PHASES, count
from ceeh.memory.plan import Plan, make_plan
from ceeh.memory.shapes import ModelShapes, read_shapes
from ceeh.modules.schedule import optimizer_steps
from ceeh.pretrained.loading import check_weight_files
from ceeh.runtime.distributed import say
from ceeh.runtime.text import redact
from ceeh.types import FAILURES, Completion, Finish, Prompt, RolloutGroup

FITS, FITS_NOT = 0, 3


def dry_run(config: Config, devices: Devices | None) -> int:
    """Prints the plan of `config` for `devices`, or for those present; returns FITS or FITS_NOT.

    Nothing is written and no engine is started. Raises ConfigError for a mistake in the settings
    and, after the plan, for inputs that are missing or broken. With `devices` a model folder may
    hold a config.json alone: then the inputs are not checked.
    """
    inputs_here = devices is None
    devices = devices or present_devices(resolve_accelerator(config.hardware))
    if config.hardware.accelerator not in ("auto", devices.kind):
        raise ConfigError(
            f"hardware.accelerator is {config.hardware.accelerator}, but --devices names "
            f"{devices}; drop one of the two"
        )
    check_pairs(config, devices.count)
    build_signals(config)
    path = resolve_model(config.model.path)
    shapes = read_shapes(config.model, path)
    plan = make_plan(config, shapes, devices)
    say("settings other than the defaults\n" + indented(differing_settings(config)))
    inputs, problem = [model_line(config, shapes)], None
    if inputs_here or not Path(path).is_dir() or weight_files(path):
        try:
            for line in input_lines(config, path):
                inputs.append(line)
        except ConfigError as error:
            problem = error
            inputs.append("wrong: see the error below")
    else:
        inputs.append(f"not checked: '{path}' has no weights, the plan is of memory alone")
    say("\ninputs\n" + indented(inputs))
    say("\n" + "\n".join([*plan_table(plan), "", *notes(plan), *verdict(config, shapes, plan)]))
    if problem is not None:
        raise problem
    return FITS if plan.fits else FITS_NOT


def differing_settings(config: Config) -> Iterator[str]:
    """key=value, as on the command line, of what is not at its default; secrets hidden."""
    given, shown, defaults = (
        dict(flat(node, "")) for node in (asdict(config), redact(asdict(config)), asdict(Config()))
    )
    for key, value in given.items():
        if key not in defaults or defaults[key] != value:
            yield f"{key}={shown[key]}"


def flat(node: Any, place: str) -> Iterator[tuple[str, Any]]:
    if not isinstance(node, dict):
        yield place, node
        return
    for key, value in node.items():
        yield from flat(value, f"{place}.{key}" if place else str(key))


def model_line(config: Config, shapes: ModelShapes) -> str:
    rollouts, updates = config.rollouts, optimizer_steps(config)
    trained = f", {count(shapes.trainable)} of them trained" if shapes.rank else ""
    return (
        f"{config.model.path}: {count(shapes.parameters)} parameters{trained}; {rollouts.steps} steps "
        f"of {rollouts.prompts_per_step} prompts x {rollouts.completions_per_prompt} responses, "
        f"{updates} optimizer step{'s' if updates > 1 else ''} each"
    )


def input_lines(config: Config, path: str) -> Iterator[str]:
    """What was read of weights, questions and verifier. Raises ConfigError for what is wrong."""
    if Path(path).is_dir():
        check_weight_files(path)
        files = weight_files(path)
        size = sum(file.stat().st_size for file in files) / GIB
        yield f"weights: {len(files)} file{'s' if len(files) > 1 else ''}, {size:.2f} GiB"
    # The accelerator decides nothing here, and that of another machine may be missing.
    hardware = replace(config.hardware, accelerator="auto")
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always", UserWarning)
        inputs = gather_inputs(replace(config, hardware=hardware))
    try:
        for place, prompts in (
            ("prompts.train", inputs.train_prompts),
            ("prompts.held_out", inputs.held_out_prompts),
        ):
            longest = max(len(prompt.token_ids) for prompt in prompts)
            yield f"{place}: {len(prompts):,} questions, the longest prompt has {longest:,} tokens"
        for warning in caught:
            if issubclass(warning.category, UserWarning):
                yield f"warning: {warning.message}"
        yield f"verifier: {config.verifier.class_path} answers ({asked(inputs)})"
    finally:
        inputs.verifier.close()


def weight_files(path: str) -> list[Path]:
    """Of a local folder; those of a hub id are fetched when the run starts."""
    return list(Path(path).glob("*.safetensors"))


def asked(inputs: Inputs) -> str:
    """The verifier's word on the first question's own answer: proof that it can be reached.

    Raises ConfigError when it fails or takes too long.
    """
    prompt: Prompt = inputs.train_prompts[0]
    end = int(inputs.tokenizer.eos_token_id)  # type: ignore[arg-type]  # checked when it was loaded
    answer = Completion(
        text=f"\\boxed{{{prompt.answer}}}", token_ids=(end,), logprobs=(0.0,), finish=Finish.STOP
    )
    group = RolloutGroup(prompt=prompt, completions=(answer,), policy_version=0)
    verdict = inputs.verifier([group])[0].verdicts[0]
    if verdict.outcome in FAILURES:
        raise ConfigError(
            f"verifier: asked about the answer of question '{prompt.uid}' it ended in "
            f"{verdict.outcome.value}; check verifier.class_path and verifier.init_args"
        )
    return f"'{prompt.uid}': {verdict.outcome.value}"


def plan_table(plan: Plan) -> Iterator[str]:
    """Each item once, with the letters of the phases that hold it, then the sum of each phase."""
    usable = plan.devices.usable / GIB
    yield (
        f"memory of each device: {plan.devices}, {usable:.1f} GiB of it usable ({USABLE:.0%}: "
        "the driver keeps some, fragments waste some)"
    )
    letters = {phase: phase[0].upper() for phase in PHASES}
    yield f"  {'item':<22}{'GiB':>8}  {'phases':<8}"
    for item in plan.items:
        held = " ".join(letters[phase] if phase in item.phases else "-" for phase in PHASES)
        yield f"  {item.name:<22}{item.size / GIB:>8.2f}  {held:<8}  {item.words}"
    for phase in PHASES:
        yield f"  {'all in ' + phase:<22}{plan.held(phase) / GIB:>8.2f}  {letters[phase]}"


def notes(plan: Plan) -> Iterator[str]:
    """What the numbers mean for speed and for the host."""
    if plan.engine is None:
        yield "The engine is not ceeh's own: what it holds is not in the plan."
    if cache := plan.kv_cache:
        at_once = min(cache.whole_sequences, cache.wanted)
        yield (
            f"The KV cache holds {cache.tokens:,} tokens: {at_once:,} responses of full length at "
            f"once, of {cache.wanted:,} that the engine would run; shorter ones run more at a time."
        )
    if plan.devices.kind == "cuda":
        host = plan.host_bytes * plan.devices.count / GIB
        yield (
            f"Main memory: {host:.0f} GiB over {plan.devices.count} x loading the weights in fp32, or "
            "keeping those of a sleeping engine."
        )


def verdict(config: Config, shapes: ModelShapes, plan: Plan) -> Iterator[str]:
    """Yes, or no with what would make it yes."""
    peak, usable = plan.peak / GIB, plan.devices.usable / GIB
    if plan.fits:
        yield f"yes: {peak:.1f} GiB at most, of {usable:.1f} usable"
        return
    if plan.peak > plan.devices.usable:
        phase = max(PHASES, key=plan.held)
        yield f"no: {peak:.1f} GiB in {phase} are more than the {usable:.1f} usable"
    if not plan.one_sequence_fits:
        assert plan.kv_cache is not None
        yield (
            f"no: the KV cache holds {plan.kv_cache.tokens:,} tokens, less than one sequence of "
            f"{plan.kv_cache.longest:,}, with which vLLM does not start"
        )
    advice = advise(config, shapes, plan.devices)
    peak = advice.plan.peak / GIB
    if not advice.plan.fits:
        yield (
            f"No setting makes it fit: {peak:.1f} GiB remain with {advice or 'those given'}. Take "
            f"devices of {peak / USABLE:.0f} GiB or more, or a smaller model."
        )
        return
    what = "" if advice.same_training else ", which make another training of it"
    yield f"It fits in {peak:.1f} GiB with these changes{what}:\n  {advice}"


def indented(lines: Sequence[str] | Iterator[str]) -> str:
    return "\n".join(f"  {line}" for line in lines)
