"""python -m fault_injection.soak: a long run of the starter, watched from outside for slow growth."""

import json
import subprocess
import sys
import time
from pathlib import Path
from statistics import mean
from typing import Any

import numpy as np
import psutil

from fault_injection.process import CONFIG, run_experiment

MIB = 2**20
RUN = (
    "rollouts.prompts_per_step=8",
    "rollouts.completions_per_prompt=8",
    "rollouts.max_response_tokens=160",
    "optimizer.prompts_per_minibatch=8",
    "optimizer.lr=0.0001",
    "evaluation.questions=32",
    "evaluation.samples=2",
    "evaluation.split_samples=2",
    "evaluation.every_n_steps=50",
    "tracking.rollouts_every_n_steps=5",
    "hardware.accelerator=cpu",
)
TIME = "step time per token, %"
FLAT = {
    # The largest slope that counts as flat, per 100 steps.
    "resident memory, MiB": 10.0,
    "open files": 0.5,
    "threads": 0.5,
    "processes": 0.5,
    TIME: 10.0,
}


def inject(work: Path, *, steps: int = 300, warm_up: int = 50) -> dict[str, Any]:
    """Resident memory, open files, threads and processes after every rollout step, from the kernel; step
    time per token from the run's metrics. Each gets a slope over the steps after the warm-up.
    """
    metrics = work / "starter" / "metrics.jsonl"
    store = f"tracking.mlflow_uri=sqlite:///{work}/mlflow.db"
    command = [sys.executable, "-m", "ceeh.fit", "--config", str(CONFIG), *RUN]
    command += [f"rollouts.steps={steps}", f"output={work}", store]
    with (work / "log").open("w") as log:
        process = psutil.Popen(command, stdout=log, stderr=subprocess.STDOUT)
        samples = watch(process, metrics)
    rows = steps_of(metrics)
    if process.returncode != 0 or len(rows) != steps:
        raise RuntimeError(f"the run ended with {process.returncode}; see {work / 'log'}")
    per_token = [row["time/step"] / row["rollout/tokens_total"] for row in rows]
    whole = mean(per_token[warm_up:])
    late = {step: sample for step, sample in samples.items() if step > warm_up}
    slopes = {
        name: slope(list(late), [sample[name] for sample in late.values()]) for name in COUNTS
    }
    percent = [100 * seconds / whole for seconds in per_token[warm_up:]]
    slopes[TIME] = slope(range(len(percent)), percent)
    growing = [name for name, of in slopes.items() if of["per_100_steps"] > FLAT[name]]
    return {"passed": not growing, "steps": steps, "slopes": slopes, "growing": growing}


COUNTS = tuple(name for name in FLAT if name != TIME)


def counted(process: psutil.Process) -> tuple[float, ...]:
    """The numbers of COUNTS. Raises psutil.Error when the process has ended."""
    with process.oneshot():
        memory, files = process.memory_info().rss / MIB, process.num_fds()
        return memory, files, process.num_threads(), len(process.children())


def watch(process: psutil.Popen, metrics: Path) -> dict[int, dict[str, float]]:
    """Rollout step -> counts, taken when the step's metrics appear."""
    seen: dict[int, dict[str, float]] = {}
    while process.poll() is None:
        time.sleep(0.2)
        step = len(steps_of(metrics))
        if step and step not in seen:
            try:
                seen[step] = dict(zip(COUNTS, counted(process), strict=True))
            except psutil.Error:
                break
            if step % 50 == 0:
                print(f"step {step}: {json.dumps(seen[step])}", flush=True)
    process.wait()
    return seen


def steps_of(metrics: Path) -> list[dict[str, Any]]:
    """The whole lines of training steps."""
    lines = metrics.read_text().splitlines(keepends=True) if metrics.is_file() else []
    rows = [json.loads(line) for line in lines if line.endswith("\n")]
    return [row for row in rows if row.get("time/step") is not None]


def slope(steps: Any, values: Any) -> dict[str, float]:
    """Mean, and slope per 100 steps."""
    per_step = float(np.polyfit(np.array(steps), np.array(values), 1)[0])
    return {"mean": round(float(np.mean(values)), 3), "per_100_steps": round(100 * per_step, 3)}


if __name__ == "__main__":
    sys.exit(run_experiment(inject))
