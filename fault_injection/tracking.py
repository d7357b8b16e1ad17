"""python -m fault_injection.tracking: what a faulty tracking server costs a run."""

import logging
import sys
import time
from collections.abc import Callable
from contextlib import ExitStack, closing
from pathlib import Path
from statistics import mean, median
from typing import Any

import torch

from ceeh.run.metrics_file import JSONLLogger
from ceeh.tracking.__main__ import main as send_later
from ceeh.tracking.logger import GuardedMLFlowLogger, read_state
from fault_injection.process import run_experiment
from fault_injection.servers import MLflowServer, SilentServer, free_port

BLOCK = 5
NAMES = [f"metric/{n}" for n in range(60)]
Actions = dict[int, Callable[[], None]]


def inject(work: Path, *, steps: int = 150, step_seconds: float = 0.1) -> dict[str, Any]:
    """A loop of steps that compute and log as many metrics as a run does, with a real server that is alive,
    absent, silent, or dies and comes back.

    Per case: how much longer the loop takes than without tracking, how long the logging calls take, and how
    many values the server lacks after the run, and after `python -m ceeh.tracking` where something was left.
    """
    logging.basicConfig(format="%(message)s")
    torch.set_num_threads(1)
    step, third, results = constant_work(step_seconds), steps // 3, {}
    server = MLflowServer(work.resolve())
    with ExitStack() as held:
        server.start()
        held.callback(server.kill)
        silent = held.enter_context(closing(SilentServer(drops=False)))
        dropping = held.enter_context(closing(SilentServer(drops=True)))
        cases: dict[str, tuple[str, Actions]] = {
            "alive": (server.uri, {}),
            "absent": (f"http://127.0.0.1:{free_port()}", {}),
            "accepts and never answers": (silent.uri, {}),
            "drops connections": (dropping.uri, {}),
            "dies and comes back": (server.uri, {third: server.kill, 2 * third: server.start}),
            "dies and stays away": (server.uri, {third: server.kill}),
        }
        for number, (name, (uri, at)) in enumerate(cases.items()):
            results[name] = one_run(work / f"run{number}", uri, step, steps, server, at)
            print(f"{name}: {results[name]}", flush=True)
    missing = sum(case["missing_at_the_end"] for case in results.values())
    return {
        "passed": missing == 0,
        "steps": steps,
        "values_a_step": len(NAMES),
        "missing_at_the_end": missing,
        "cases": results,
    }


def constant_work(seconds: float) -> Callable[[], float]:
    """A step of constant work that takes about `seconds` on this machine; returns its seconds."""
    matrix = torch.rand(256, 256)

    def multiply(count: int = 100) -> float:
        begin = time.perf_counter()
        for _ in range(count):
            torch.mm(matrix, matrix)
        return time.perf_counter() - begin

    multiply()
    count = max(1, round(100 * seconds / median(multiply() for _ in range(9))))
    return lambda: multiply(count)


def one_run(
    folder: Path, uri: str, step: Callable[[], float], steps: int, server: MLflowServer, at: Actions
) -> dict[str, Any]:
    """What its own server did not get is delivered to `server` afterwards."""
    jsonl = JSONLLogger(folder)
    mlflow = GuardedMLFlowLogger(uri=uri, experiment="faults", run_name=folder.name, folder=folder)
    mlflow.log_config("seed: 0\n")
    result: dict[str, Any] = logging_loop(step, steps, (jsonl, mlflow), at)
    begin = time.perf_counter()
    mlflow.finish()
    result["finish_seconds"] = round(time.perf_counter() - begin, 2)
    if server.process is None:
        server.start()
    result["missing_after_the_run"] = num_missing(uri if uri == server.uri else None, folder, steps)
    if mlflow.num_waiting:
        result["sent_later"] = send_later([str(folder), "--uri", server.uri]) == 0
    result["missing_at_the_end"] = num_missing(server.uri, folder, steps)
    return result


def logging_loop(
    step: Callable[[], float],
    steps: int,
    loggers: tuple[JSONLLogger, GuardedMLFlowLogger],
    at: Actions,
) -> dict[str, Any]:
    """Times steps with and without logging in alternating blocks, so that other load affects both alike.

    The actions `at` a step are not timed.
    """
    plain, logged, calls = [], [], []
    for number in range(1, steps + 1):
        at.get(number, lambda: None)()
        if number % BLOCK == 1:
            plain += [step() for _ in range(BLOCK)]
        computed, begin = step(), time.perf_counter()
        metrics = {name: number + n / 100 for n, name in enumerate(NAMES)}
        for logger in loggers:
            logger.log_metrics(metrics | {"rollout/step": float(number)}, step=number - 1)
        calls.append(time.perf_counter() - begin)
        logged.append(computed + calls[-1])
    return {
        "seconds_a_step": round(mean(logged), 4),
        "overhead_percent": round(100 * (median(logged) / median(plain) - 1), 2),
        "logging_percent": round(100 * sum(calls) / sum(logged), 2),
        "longest_call_seconds": round(max(calls), 4),
    }


def num_missing(uri: str | None, folder: Path, steps: int) -> int:
    """Number of (name, step) pairs whose value the server does not have as logged."""
    from mlflow import MlflowClient

    run_id = read_state(folder).get("run_id")
    if uri is None or run_id is None:
        return steps * len(NAMES)
    missing = 0
    for n, name in enumerate(NAMES):
        history = MlflowClient(uri).get_metric_history(run_id, name)
        has = {metric.step: metric.value for metric in history}
        missing += sum(has.get(s) != s + n / 100 for s in range(1, steps + 1))
    return missing


if __name__ == "__main__":
    sys.exit(run_experiment(inject))
