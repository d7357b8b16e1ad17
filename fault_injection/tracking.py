"""python -m fault_injection.tracking --output FILE.json: what a faulty tracking server costs a run.

A loop of steps that compute and log as many metrics as a run does, with a real server that is alive,
absent, silent, or dies and comes back. Per case: how much longer the loop takes than without tracking,
how long the logging calls take, and how many values the server lacks after the run, and after
`python -m ceeh.tracking` where something was left.
"""

import argparse
import json
import logging
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

from ceeh.run.metrics_file import JSONLLogger
from ceeh.runtime.versions import provenance
from ceeh.tracking.__main__ import main as send_later
from ceeh.tracking.logger import GuardedMLFlowLogger, read_state
from fault_injection.servers import MLflowServer, SilentServer, free_port

BLOCK = 5
NAMES = [f"metric/{n}" for n in range(60)]


def work(seconds: float) -> Callable[[], None]:
    """A step of constant work that takes about `seconds` on this machine."""
    matrix = torch.rand(256, 256)

    def multiply(count: int) -> float:
        begin = time.perf_counter()
        for _ in range(count):
            torch.mm(matrix, matrix)
        return time.perf_counter() - begin

    multiply(100)
    count = max(1, round(seconds / statistics.median(multiply(100) / 100 for _ in range(9))))
    return lambda: [torch.mm(matrix, matrix) for _ in range(count)] and None


def loop(
    step: Callable[[], None],
    steps: int,
    loggers: tuple[JSONLLogger, GuardedMLFlowLogger],
    at: dict[int, Callable[[], None]],
) -> dict[str, float]:
    """Times steps with and without logging in alternating blocks, so that other load affects both alike.

    The actions `at` a step are not timed.
    """
    plain, logged, calls = [], [], []
    for number in range(1, steps + 1):
        if number in at:
            at[number]()
        if number % BLOCK == 1:
            for _ in range(BLOCK):
                begin = time.perf_counter()
                step()
                plain.append(time.perf_counter() - begin)
        begin = time.perf_counter()
        step()
        computed = time.perf_counter()
        metrics = {name: number + n / 100 for n, name in enumerate(NAMES)}
        for logger in loggers:
            logger.log_metrics(metrics | {"rollout/step": float(number)}, step=number - 1)
        ended = time.perf_counter()
        logged.append(ended - begin)
        calls.append(ended - computed)
    return {
        "plain_seconds_a_step": statistics.mean(plain),
        "seconds_a_step": statistics.mean(logged),
        "overhead_percent_of_means": 100 * (statistics.mean(logged) / statistics.mean(plain) - 1),
        "overhead_percent_of_medians": 100
        * (statistics.median(logged) / statistics.median(plain) - 1),
        "logging_percent": 100 * sum(calls) / sum(logged),
        "longest_call_seconds": max(calls),
    }


def values_lacking(uri: str, folder: Path, steps: int) -> int:
    """Number of (name, step) pairs whose value the server does not have as logged."""
    from mlflow import MlflowClient

    run_id = read_state(folder).get("run_id")
    if run_id is None:
        return steps * len(NAMES)
    lacking = 0
    for n, name in enumerate(NAMES):
        history = MlflowClient(uri).get_metric_history(run_id, name)
        has = {metric.step: metric.value for metric in history}
        lacking += sum(has.get(s) != s + n / 100 for s in range(1, steps + 1))
    return lacking


def case(
    name: str,
    uri: str,
    folder: Path,
    step: Callable[[], None],
    steps: int,
    server: MLflowServer,
    at: dict[int, Callable[[], None]],
) -> dict[str, Any]:
    """One run. What its own server did not get is delivered to `server` afterwards."""
    jsonl = JSONLLogger(folder / name)
    logger = GuardedMLFlowLogger(uri=uri, experiment="faults", run_name=name, folder=folder / name)
    logger.log_config("seed: 0\n")
    result: dict[str, Any] = dict(loop(step, steps, (jsonl, logger), at))
    begin = time.perf_counter()
    logger.finish()
    result["finish_seconds"] = time.perf_counter() - begin
    result["entries_left_at_the_end"] = logger.num_waiting
    if server.process is None:
        server.start()
    result["values_lacking_after_the_run"] = (
        values_lacking(uri, folder / name, steps) if uri == server.uri else steps * len(NAMES)
    )
    if logger.num_waiting:
        begin = time.perf_counter()
        result["sending_later"] = send_later([str(folder / name), "--uri", server.uri])
        result["sending_later_seconds"] = time.perf_counter() - begin
    result["values_lacking_at_last"] = values_lacking(server.uri, folder / name, steps)
    return {k: round(v, 4) if isinstance(v, float) else v for k, v in result.items()}


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--output", required=True, metavar="FILE.json")
    parser.add_argument("--steps", type=int, default=150)
    parser.add_argument("--step-seconds", type=float, default=0.1)
    given = parser.parse_args()
    logging.basicConfig(format="%(message)s")
    torch.set_num_threads(1)
    step = work(given.step_seconds)
    third = given.steps // 3
    results: dict[str, Any] = {"steps": given.steps, "values_a_step": len(NAMES)}
    results["versions"] = provenance()
    with tempfile.TemporaryDirectory() as place:
        folder = Path(place)
        server = MLflowServer(folder)
        server.start()
        silent, dropping = SilentServer(drops=False), SilentServer(drops=True)
        nobody = f"http://127.0.0.1:{free_port()}"
        cases: dict[str, tuple[str, dict[int, Callable[[], None]]]] = {
            "alive": (server.uri, {}),
            "absent": (nobody, {}),
            "accepts_and_never_answers": (silent.uri, {}),
            "drops_connections": (dropping.uri, {}),
            "dies_and_comes_back": (server.uri, {third: server.kill, 2 * third: server.start}),
            "dies_and_stays_away": (server.uri, {third: server.kill}),
        }
        try:
            for name, (uri, at) in cases.items():
                results[name] = case(name, uri, folder, step, given.steps, server, at)
                print(name, json.dumps(results[name], indent=1), flush=True)
        finally:
            server.kill()
            silent.close()
            dropping.close()
    Path(given.output).write_text(json.dumps(results, indent=2) + "\n")


if __name__ == "__main__":
    main()
