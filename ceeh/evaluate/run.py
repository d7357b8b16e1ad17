"""An evaluation: questions -> embedded engine -> verifier -> samples.parquet -> results, report, MLflow."""

from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from dataclasses import asdict, replace
from pathlib import Path

import yaml

from ceeh.config.hardware import DTYPE, resolve_accelerator, resolve_precision
from ceeh.config.settings import Tracking
from ceeh.config.typed import shown
from ceeh.data.benchmarks import Benchmark
from ceeh.evaluate.engine import check_engine, open_engine
from ceeh.evaluation.config import EvaluationConfig
from ceeh.evaluation.results import FILE, Results, flat_metrics, write_results
from ceeh.evaluation.runner import Task, build_task, sample_task
from ceeh.evaluation.store import SampleStore
from ceeh.pretrained.loading import load_tokenizer
from ceeh.pretrained.locate import ModelSource, open_trained
from ceeh.reporting.evaluation_page import results_grids, write_page
from ceeh.runtime.distributed import (
    from_rank_zero,
    is_rank_zero,
    join_processes,
    say,
    wait_for_all,
)
from ceeh.runtime.paths import expanded
from ceeh.runtime.quiet import quieten
from ceeh.runtime.text import HIDDEN
from ceeh.runtime.versions import weights_digest
from ceeh.tracking.data_set import data_set
from ceeh.tracking.logger import GuardedMLFlowLogger
from ceeh.tracking.state import read_state

PROMPT_FIELDS = ("chat_template", "chat_template_args", "system_prompt", "instruction")
"""What decides how a question is put, in `prompts` of a run and in a benchmark."""


def evaluate(
    source: ModelSource,
    benchmarks: Mapping[str, Benchmark],
    protocol: EvaluationConfig,
    folder: Path,
) -> Results | None:
    """Samples what is missing in `folder` and writes the results there; None on ranks other than 0.

    Raises ConfigError for bad input, before any engine starts where possible.
    """
    quieten()
    if protocol.tracking.mlflow:  # `track` reads them after the last sample
        for place in (folder, *([source.run.path] if source.run else [])):
            read_state(place)
    accelerator = resolve_accelerator(protocol.hardware)
    tokenizer = load_tokenizer(source.model_path, source.trust_remote_code)
    check_engine(source, protocol, benchmarks, SampleStore(folder).recorded())
    join_processes(
        accelerator,
        join_minutes=protocol.hardware.join_minutes,
        collective_minutes=protocol.hardware.collective_minutes,
    )
    with ExitStack() as held:
        with ExitStack() as stack:
            tasks = [
                build_task(name, benchmark, tokenizer, protocol.limit)
                for name, benchmark in benchmarks.items()
            ]
            for task in tasks:
                stack.callback(task.verifier.close)
            dtype = DTYPE[resolve_precision(protocol.hardware, accelerator)]
            weights = weights_of(source, dtype)
            sampled_with = {
                key: getattr(protocol, key) for key in ("seed", "limit", "questions_per_batch")
            }
            store = SampleStore(folder)
            wanted = {
                task.name: {
                    "settings": task.settings | sampled_with,
                    "skipped": task.skipped,
                    "model": weights,
                }
                for task in tasks
            }
            from_rank_zero(lambda: store.open(wanted, held))
            sample_missing(source, protocol, tasks, store, accelerator, dtype)
        wait_for_all()
        if not is_rank_zero():
            return None
        store.finish([task.name for task in tasks])
        over_it = source.checkpoint or source.adapter
        places = {"path": source.model_path, "over_it": over_it and str(over_it)}
        results = write_results(
            store, name=source.name, model=places | weights, protocol=asdict(protocol)
        )
        write_page(folder, {source.name: results}, title=f"{source.name}: evaluation")
        track(source, protocol, results, tasks)
        return results


def sample_missing(
    source: ModelSource,
    protocol: EvaluationConfig,
    tasks: Sequence[Task],
    store: SampleStore,
    accelerator: str,
    dtype: str,
) -> None:
    """Starts the engine for those of `tasks` that have no samples yet, if any."""
    finished = store.finished()
    missing = [task for task in tasks if task.name not in finished]
    for task in tasks:
        say(f"{task.name}: {task_line(task)}{'' if task in missing else '; already sampled'}")
        if other := other_prompt(source, task.benchmark):
            say(f"{task.name}: the run was trained on another prompt; {other}")
    if not missing:
        return
    say(f"results go to {store.folder}; starting the engine ...")
    with open_engine(source, protocol, missing, accelerator, dtype) as engine:
        for task in missing:
            sample_task(
                task,
                engine,
                store,
                seed=protocol.seed,
                questions_per_batch=protocol.questions_per_batch,
            )


def task_line(task: Task) -> str:
    benchmark = task.benchmark
    skipped = "".join(
        f", {count} skipped ({reason.replace('_', ' ')})"
        for reason, count in task.skipped.items()
        if count
    )
    return (
        f"{len(task.prompts)} questions x {benchmark.samples} samples, temperature "
        f"{benchmark.temperature:g}, top-p {benchmark.top_p:g}, at most "
        f"{benchmark.max_response_tokens} tokens{skipped}"
    )


def other_prompt(source: ModelSource, benchmark: Benchmark) -> str | None:
    """How `benchmark` asks otherwise than the run that trained the model did, if it does."""
    if source.config is None:
        return None
    trained, names = source.config.prompts, [*PROMPT_FIELDS]
    if not (trained.chat_template or benchmark.chat_template):
        names.remove("chat_template_args")
    differing = [
        f"{name} is {shown(getattr(benchmark, name))}, there {shown(getattr(trained, name))}"
        for name in names
        if getattr(benchmark, name) != getattr(trained, name)
    ]
    return "; ".join(differing) or None


def weights_of(source: ModelSource, dtype: str) -> dict[str, str | None]:
    """What identifies a model wherever its files are."""
    over_it = source.checkpoint or source.adapter
    return {
        "digest": weights_digest(source.model_path),
        "digest_over_it": over_it and weights_digest(over_it),
        "dtype": dtype,
    }


def track(
    source: ModelSource, protocol: EvaluationConfig, results: Results, tasks: Sequence[Task]
) -> None:
    """Sends the metrics to MLflow, to a run of their own: below that of the training, if there is one.

    A server or experiment given on the command line replaces the run's.
    """
    tracking = protocol.tracking
    if not tracking.mlflow:
        return
    parent, step = None, 0
    if source.config and replace(tracking, mlflow=True) == Tracking():
        tracking = source.config.tracking
        if HIDDEN in tracking.mlflow_uri:
            say(
                f"not tracked: the address of the run's server held a secret ({tracking.mlflow_uri}); "
                "give it as tracking.mlflow_uri=..."
            )
            return
        if source.run:
            parent = read_state(source.run.path).get("key")
            step = source.rollout_step
    mlflow = GuardedMLFlowLogger(
        uri=tracking.mlflow_uri,
        experiment=tracking.experiment,
        run_name=f"evaluation of {source.name}",
        folder=results.folder,
        parent=parent,
    )
    record = {name: results.record[name] for name in ("model", "protocol")}
    mlflow.log_config(yaml.safe_dump(record | {"seed": protocol.seed}))
    for task in tasks:
        questions = task.benchmark.questions
        mlflow.log_data_sets(data_set("evaluation", questions, task.prompts, name=task.name))
    mlflow.log_values(flat_metrics(results.record), step)
    for name in (FILE, "report.html", "report.png"):
        mlflow.log_file(results.folder / name, "evaluation")
    mlflow.finish()


def default_output(source: ModelSource) -> Path:
    """`evaluation/` in the folder of a run, `evaluations/<name>` for a checkpoint or another model."""
    if source.run and not source.checkpoint:
        return source.run.path / "evaluation"
    return Path("evaluations", source.name.replace("/", "--"))


def run(
    model: str,
    protocol: EvaluationConfig,
    benchmarks: Mapping[str, Benchmark],
    output: str | None,
    trust_remote_code: bool,
) -> Path:
    """Evaluates `model` and prints the tables; returns the folder of the results."""
    source = open_trained(model, trust_remote_code=trust_remote_code)
    folder = expanded(output) if output else default_output(source)
    results = evaluate(source, benchmarks, protocol, folder)
    if results is not None:
        say("\n\n".join(grid.text() for grid in results_grids({results.name: results})))
        say(f"\n{folder / FILE}; report: {folder / 'report.html'}")
    return folder
