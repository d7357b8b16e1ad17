"""python -m ceeh.evaluate MODEL --benchmarks NAME,... [--config FILE] [key=value ...]: judges a model.

questions -> embedded engine -> verifier -> samples.parquet -> results.json, report, MLflow.
"""

import argparse
import sys
from collections.abc import Mapping, Sequence
from contextlib import ExitStack, closing
from dataclasses import asdict, replace
from pathlib import Path

import yaml

from ceeh.assembly import quieten
from ceeh.config.component import Component
from ceeh.config.hardware import DTYPE, resolve_accelerator, resolve_precision
from ceeh.config.settings import Tracking
from ceeh.data.benchmarks import Benchmark, benchmark_files
from ceeh.data.engine.base import RolloutEngine
from ceeh.data.engine.restartable import RestartableEngine
from ceeh.evaluation.protocol import EvaluationConfig, load_evaluation_config
from ceeh.evaluation.results import FILE, Results, flat_figures, write_results
from ceeh.evaluation.runner import Task, build_task, sample_task
from ceeh.evaluation.store import SampleStore
from ceeh.modules.restore import load_policy
from ceeh.pretrained.loading import load_tokenizer
from ceeh.pretrained.locate import ModelSource, open_trained
from ceeh.reporting.evaluation_page import results_grids, write_page
from ceeh.runtime.cli import run_command
from ceeh.runtime.distributed import from_rank_zero, is_rank_zero, join_processes, say, wait_for_all
from ceeh.runtime.text import HIDDEN
from ceeh.runtime.versions import weights_digest
from ceeh.tracking.logger import GuardedMLFlowLogger, read_state

DEVICE_SHARE = 0.9


def evaluate(
    trained: ModelSource,
    benchmarks: Mapping[str, Benchmark],
    protocol: EvaluationConfig,
    folder: Path,
) -> Results | None:
    """Samples what `folder` does not hold yet and writes the results there; None but on rank 0.

    Raises ConfigError before any engine starts where the mistake can be seen by then.
    """
    quieten()
    accelerator = resolve_accelerator(protocol.hardware)
    tokenizer = load_tokenizer(trained.model_path, trained.trust_remote_code)
    join_processes(accelerator)
    with ExitStack() as stack:
        tasks = [
            build_task(name, benchmark, tokenizer, protocol.limit)
            for name, benchmark in benchmarks.items()
        ]
        for task in tasks:
            stack.callback(task.verifier.close)
        precision = resolve_precision(protocol.hardware, accelerator)
        weights = weights_of(trained, DTYPE[precision])
        store = SampleStore(folder)
        drawn = {
            "seed": protocol.seed,
            "limit": protocol.limit,
            "questions_per_batch": protocol.questions_per_batch,
        }
        wanted = {
            task.name: {
                "settings": task.settings | drawn,
                "skipped": task.skipped,
                "model": weights,
            }
            for task in tasks
        }
        from_rank_zero(lambda: store.open(wanted))
        finished = store.finished()
        missing = [task for task in tasks if task.name not in finished]
        for task in tasks:
            say(f"{task.name}: {task_line(task)}{'' if task in missing else '; sampled already'}")
        if missing:
            say(f"results go to {folder}; starting the engine ...")
            engine = stack.enter_context(
                closing(open_engine(trained, protocol, missing, accelerator, DTYPE[precision]))
            )
            for task in missing:
                sample_task(
                    task,
                    engine,
                    store,
                    seed=protocol.seed,
                    questions_per_batch=protocol.questions_per_batch,
                )
    wait_for_all()
    if not is_rank_zero():
        return None
    store.finish([task.name for task in tasks])
    places = {"path": trained.model_path, "over_it": _text(trained.checkpoint or trained.adapter)}
    results = write_results(
        store, name=trained.name, model=places | weights, protocol=asdict(protocol)
    )
    write_page(folder, {trained.name: results}, title=f"{trained.name}: evaluation")
    track(trained, protocol, results)
    return results


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


def weights_of(trained: ModelSource, dtype: str) -> dict[str, str | None]:
    """What tells one model from another, wherever its files lie."""
    over_it = trained.checkpoint or trained.adapter
    return {
        "digest": weights_digest(trained.model_path),
        "digest_over_it": None if over_it is None else weights_digest(over_it),
        "dtype": dtype,
    }


def _text(path: Path | None) -> str | None:
    return None if path is None else str(path)


def open_engine(
    trained: ModelSource,
    protocol: EvaluationConfig,
    tasks: Sequence[Task],
    accelerator: str,
    dtype: str,
) -> RolloutEngine:
    """The engine with the model's weights in it, long enough for every task."""
    longest = max(
        task.benchmark.max_prompt_tokens + task.benchmark.max_response_tokens for task in tasks
    )
    # Before the engine, for a checkpoint may be damaged or of another model.
    policy = load_policy(trained) if trained.checkpoint or trained.adapter else None
    component = engine_alone(protocol.engine, accelerator)
    engine = RestartableEngine(
        lambda: component.build(
            "engine",
            model_path=trained.model_path,
            max_model_len=longest,
            trust_remote_code=trained.trust_remote_code,
            seed=protocol.seed,
            accelerator=accelerator,
            dtype=dtype,
        ),
        None if policy is None else lambda: load_policy(trained).engine_weights(),
    )
    if policy is not None:
        engine.load_weights(policy.engine_weights(), policy_version=0)
    return engine


def engine_alone(component: Component, accelerator: str) -> Component:
    """vLLM with the whole device to itself: no trainer is beside it, unlike in a run."""
    given = component.init_args
    options = given.get("options") or {}
    sized = "kv_cache_gib" in given or "gpu_memory_utilization" in options
    if (
        accelerator != "cuda"
        or sized
        or component.class_path != EvaluationConfig().engine.class_path
    ):
        return component
    alone = {"gpu_memory_utilization": DEVICE_SHARE} | options
    return replace(component, init_args=given | {"options": alone})


def track(trained: ModelSource, protocol: EvaluationConfig, results: Results) -> None:
    """The figures to MLflow: into the run whose final model this is, or a run of their own.

    A server or experiment that the command names is taken in place of the run's.
    """
    tracking = protocol.tracking
    if not tracking.mlflow:
        return
    key = None
    if trained.config and replace(tracking, mlflow=True) == Tracking():
        tracking = trained.config.tracking
        if HIDDEN in tracking.mlflow_uri:
            say(
                f"not tracked: the address of the run's server held a secret ({tracking.mlflow_uri}); give "
                "it as tracking.mlflow_uri=..."
            )
            return
        key = None if trained.checkpoint else _run_key(trained)
    mlflow = GuardedMLFlowLogger(
        uri=tracking.mlflow_uri,
        experiment=tracking.experiment,
        run_name=f"evaluation of {trained.name}",
        folder=results.folder,
        key=key,
    )
    if key is None:
        record = {name: results.record[name] for name in ("model", "protocol")}
        mlflow.log_config(yaml.safe_dump(record | {"seed": protocol.seed}))
    mlflow.log_values(flat_figures(results.record))
    for name in (FILE, "report.html", "report.png"):
        mlflow.log_file(results.folder / name, "evaluation")
    mlflow.finish()


def _run_key(trained: ModelSource) -> str | None:
    return read_state(trained.run.path).get("key") if trained.run else None


def default_output(trained: ModelSource) -> Path:
    """`evaluation/` of the run, or `evaluations/<name>` for a model that is no run's last."""
    if trained.run and not trained.checkpoint:
        return trained.run.path / "evaluation"
    return Path("evaluations", trained.name.replace("/", "--"))


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        prog="python -m ceeh.evaluate",
        description="Samples benchmarks with a model, judges the answers, reports with intervals.",
    )
    parser.add_argument(
        "model",
        help="a model folder, hub id, adapter, run folder or .ckpt; 'starter' ships with ceeh",
    )
    parser.add_argument(
        "--benchmarks",
        required=True,
        metavar="NAME,...",
        help=f"of {', '.join(sorted(benchmark_files()))}, or paths of .yaml files",
    )
    parser.add_argument(
        "--config", action="append", default=[], metavar="FILE", help="of keys below"
    )
    parser.add_argument("--output", metavar="FOLDER", help="default: evaluation/ of the run folder")
    parser.add_argument("--trust-remote-code", action="store_true", help="run the model's own code")
    parser.add_argument(
        "overrides",
        nargs="*",
        metavar="key=value",
        help="seed=1 limit=50, samples=4 for all benchmarks, gsm8k.samples=4 for one",
    )
    given = parser.parse_intermixed_args(arguments)

    def command() -> int:
        names = [name for name in given.benchmarks.split(",") if name]
        protocol, benchmarks = load_evaluation_config(names, given.config, given.overrides)
        trained = open_trained(given.model, trust_remote_code=given.trust_remote_code)
        folder = Path(given.output) if given.output else default_output(trained)
        results = evaluate(trained, benchmarks, protocol, folder)
        if results is not None:
            say("\n\n".join(grid.text() for grid in results_grids({results.name: results})))
            say(f"\n{folder / FILE}; report: {folder / 'report.html'}")
        return 0

    return run_command(command, if_stopped="the same command continues", last=arguments is None)


if __name__ == "__main__":
    sys.exit(main())
