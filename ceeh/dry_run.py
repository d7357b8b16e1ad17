"""`--dry-run`: prints the settings, the inputs and the memory plan of a run without starting it."""

import tempfile
import warnings
from collections.abc import Iterable, Iterator
from dataclasses import asdict, replace
from pathlib import Path

from ceeh.assembly.components import build_callbacks
from ceeh.assembly.inputs import Inputs, check_device, gather_inputs
from ceeh.config.consistency import check_pairs
from ceeh.config.hardware import resolve_accelerator
from ceeh.config.settings import Config
from ceeh.errors import ConfigError
from ceeh.memory.advice import LORA_RANK, RESPONSE_TOKENS, advise, with_value
from ceeh.memory.devices import GIB, USABLE, parse_devices, present_devices
from ceeh.memory.plan import PHASES, Plan, make_plan
from ceeh.memory.shapes import ModelShapes, read_shapes
from ceeh.modules.schedule import updates_per_rollout_step
from ceeh.pretrained.loading import check_weight_files, resolve_model
from ceeh.run.folder import RunFolder, run_to_resume, writing
from ceeh.runtime.distributed import processes_here, say
from ceeh.runtime.quiet import quieten
from ceeh.runtime.text import flatten, redact
from ceeh.types import FAILURES, Completion, Finish, RolloutGroup

FITS, DOES_NOT_FIT = 0, 3


def dry_run(config: Config, given: str | None) -> int:
    """Prints the plan of `config` for the devices `given`, or for this machine; returns the status.

    Writes nothing and starts no engine. Raises ConfigError for invalid settings and, after the plan,
    for missing or broken inputs. With `devices`, a model folder may hold config.json alone; then the
    inputs are not checked.
    """
    quieten()
    here = given is None
    devices = (
        present_devices(resolve_accelerator(config.hardware))
        if given is None
        else parse_devices(given)
    )
    if config.hardware.accelerator not in ("auto", devices.kind):
        raise ConfigError(
            f"hardware.accelerator is {config.hardware.accelerator}, but --devices names "
            f"{devices}; drop one of the two"
        )
    check_pairs(config, devices.count)
    check_output(config)
    of_machine = processes_here() if here else devices.count
    check_device(config, devices.kind, processes=devices.count, here=of_machine)
    build_callbacks(config)
    path = resolve_model(config.model.path)
    shapes = read_shapes(config.model, path)
    plan = make_plan(config, shapes, devices)
    say("settings other than the defaults\n" + indented(differing_settings(config)))
    inputs, problem = [model_line(config, shapes)], None
    if here or not Path(path).is_dir() or any(Path(path).glob("*.safetensors")):
        try:
            for line in input_lines(config, path):
                inputs.append(line)
        except ConfigError as error:
            problem = error
            inputs.append("invalid: see the error below")
    else:
        inputs.append(f"not checked: '{path}' has no weights, only memory is planned")
    say("\ninputs\n" + indented(inputs))
    say("\n" + "\n".join([*plan_table(plan), "", *notes(plan)]))
    if problem is not None:
        raise problem
    say("\n".join(verdict(config, path, plan)))
    return FITS if plan.fits else DOES_NOT_FIT


def check_output(config: Config) -> None:
    """Raises ConfigError where a run could write no folder, or not resume from its checkpoint."""
    place = Path(config.output).absolute()
    while not place.exists():
        place = place.parent
    with writing(config.output):
        Path(tempfile.mkdtemp(prefix=".ceeh-", dir=place)).rmdir()
    if config.ckpt_path == "last":
        if run := run_to_resume(config.output, config.name, config.ckpt_path):
            RunFolder(run).newest_checkpoint()
    elif config.ckpt_path:
        RunFolder.resume(config.output, config.name, config.ckpt_path)


def differing_settings(config: Config) -> Iterator[str]:
    """key=value, as on the command line, for each setting that is not a default; secrets hidden."""
    given, defaults = asdict(config), flatten(asdict(Config()))
    shown = flatten(redact(given))
    for key, value in flatten(given).items():
        if key not in defaults or defaults[key] != value:
            yield f"{key}={shown[key]}"


def model_line(config: Config, shapes: ModelShapes) -> str:
    rollouts, updates = config.rollouts, updates_per_rollout_step(config)
    trained = f", {count(shapes.trained)} of them trained" if config.model.lora.rank else ""
    probe = rollouts.probe
    probed = f" and {probe.questions} probe questions x {probe.samples}" if probe.questions else ""
    return (
        f"{config.model.path}: {count(shapes.parameters)} parameters{trained}; {rollouts.steps} steps "
        f"of {rollouts.prompts_per_step} prompts x {rollouts.completions_per_prompt} responses{probed}, "
        f"{updates} optimizer step{'s' if updates > 1 else ''} each"
    )


def count(number: int) -> str:
    """7,615,616,512 as `7.62 G`."""
    for letter, size in (("G", 10**9), ("M", 10**6), ("k", 10**3)):
        if number >= size:
            return f"{number / size:.2f} {letter}"
    return str(number)


def input_lines(config: Config, path: str) -> Iterator[str]:
    """What was read of weights, questions and verifier. Raises ConfigError for invalid inputs."""
    if Path(path).is_dir():  # weights of a hub id are fetched when the run starts
        check_weight_files(path)
        files = list(Path(path).glob("*.safetensors"))
        size = sum(file.stat().st_size for file in files) / GIB
        yield f"weights: {len(files)} file{'s' if len(files) > 1 else ''}, {size:.2f} GiB"
    # This machine may lack the configured accelerator, on which inputs do not depend.
    hardware = replace(config.hardware, accelerator="auto")
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always", UserWarning)
        inputs = gather_inputs(replace(config, hardware=hardware))
    try:
        for place, prompts in (
            ("prompts.train", inputs.train_prompts),
            ("rollouts.probe", inputs.probe_prompts),
            ("prompts.held_out", inputs.held_out_prompts),
        ):
            if not prompts:
                continue  # without a probe
            longest = max(len(prompt.token_ids) for prompt in prompts)
            yield f"{place}: {len(prompts):,} questions, the longest prompt has {longest:,} tokens"
        for warning in caught:
            if issubclass(warning.category, UserWarning):
                yield f"warning: {warning.message}"
        yield f"verifier: {config.verifier.class_path} answers ({graded_reference(inputs)})"
    finally:
        inputs.verifier.close()


def graded_reference(inputs: Inputs) -> str:
    """The verifier's grade of the first question's own answer, which shows that it works.

    Raises ConfigError when it fails or times out.
    """
    prompt = inputs.train_prompts[0]
    end = int(inputs.tokenizer.eos_token_id)  # type: ignore[arg-type]  # checked when it was loaded
    answer = Completion(
        text=f"\\boxed{{{prompt.answer}}}", token_ids=(end,), logprobs=(0.0,), finish=Finish.STOP
    )
    group = RolloutGroup(prompt=prompt, completions=(answer,), policy_version=0)
    verdict = inputs.verifier([group])[0].verdicts[0]
    if verdict.outcome in FAILURES:
        raise ConfigError(
            f"verifier: grading the reference answer of question '{prompt.uid}' ended in "
            f"{verdict.outcome.value}; check verifier.class_path and verifier.init_args"
        )
    return f"'{prompt.uid}': {verdict.outcome.value}"


def plan_table(plan: Plan) -> Iterator[str]:
    """Each item with the initials of the phases that hold it, then the sum of each phase."""
    yield (
        f"memory of each device: {plan.devices}, {plan.devices.usable / GIB:.1f} GiB of it usable "
        f"({USABLE:.0%}: driver and fragmentation take the rest)"
    )
    yield f"  {'item':<22}{'GiB':>8}  phases"
    for name, size, phases in plan.items:
        held = " ".join(phase[0].upper() if phase in phases else "-" for phase in PHASES)
        yield f"  {name:<22}{size / GIB:>8.2f}  {held}"
    for phase in PHASES:
        yield f"  {'total of ' + phase:<22}{plan.held(phase) / GIB:>8.2f}  {phase[0].upper()}"


def notes(plan: Plan) -> Iterator[str]:
    if engine := plan.engine:
        whole = min(engine.kv_tokens // engine.longest, engine.sequences)
        yield (
            f"The KV cache holds {engine.kv_tokens:,} tokens: {whole:,} of {engine.sequences:,} "
            "concurrent responses at full length, more if they are shorter."
        )
    else:
        yield "The engine is not ceeh's own: its memory is not in the plan."
    if plan.devices.kind == "cuda":
        host = plan.weights * plan.devices.count / GIB
        yield f"Main memory: {host:.1f} GiB, to load the weights in fp32 or hold a sleeping engine's."


def verdict(config: Config, path: str, plan: Plan) -> Iterator[str]:
    """Yes, or no with the changes that would make it yes."""
    peak, usable = plan.peak / GIB, plan.devices.usable / GIB
    if plan.fits:
        yield f"yes: {peak:.1f} GiB at most, of {usable:.1f} usable"
        return
    if plan.peak > plan.devices.usable:
        phase = max(PHASES, key=plan.held)
        yield f"no: {peak:.1f} GiB in {phase}, more than the {usable:.1f} usable"
    if plan.engine and not plan.one_sequence_fits:
        yield (
            f"no: the KV cache holds {plan.engine.kv_tokens:,} tokens, less than one sequence of "
            f"{plan.engine.longest:,}; vLLM would not start"
        )
    before, last = config, plan
    for key, value in advise(config, path, plan.devices).items():
        before = with_value(before, key.split("."), value)
        after = make_plan(before, read_shapes(before.model, path), plan.devices)
        saved = max(last.held(phase) - after.held(phase) for phase in PHASES) / GIB
        effect = f"saves {saved:.2f} GiB" if saved > 0 else "one full-length sequence fits"
        effect += ", changes the training" if key in (LORA_RANK, RESPONSE_TOKENS) else ""
        yield f"  {f'{key}={value}'.lower():<44} {effect}"
        last = after
    if last.fits:
        yield f"With these changes, made in this order, it fits in {last.peak / GIB:.1f} GiB."
    else:
        yield (
            f"No setting makes it fit: {last.peak / GIB:.1f} GiB remain with all of these changes. Take "
            f"devices of {last.peak / GIB / USABLE:.0f} GiB or more, or a smaller model."
        )


def indented(lines: Iterable[str]) -> str:
    return "\n".join(f"  {line}" for line in lines)
