"""python -m fault_injection.soak: a long run of the starter, watched from outside for slow growth.

Resident memory, open files, threads and processes after every rollout step, from the kernel; step time per
token from the run's metrics. Each gets a slope over the steps after the warm-up.
"""

import argparse
import json
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from statistics import mean
from typing import Any

import numpy as np

from ceeh.runtime.versions import provenance
from fault_injection.process import CONFIG

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
FLAT = {
    # The largest slope that counts as flat, per 100 steps.
    "resident memory, MiB": 10.0,
    "open files": 0.5,
    "threads": 0.5,
    "processes": 0.5,
    "step time per token, %": 10.0,
}


def counted(pid: int) -> dict[str, float] | None:
    """Counts of the process and its child processes; None when it has ended."""
    place = Path(f"/proc/{pid}")
    try:
        status = dict(
            line.split(":", 1)
            for line in (place / "status").read_text().splitlines()
            if ":" in line
        )
        children = (place / "task" / str(pid) / "children").read_text().split()
        return {
            "resident memory, MiB": float(status["VmRSS"].split()[0]) * 1024 / MIB,
            "open files": float(len(list((place / "fd").iterdir()))),
            "threads": float(status["Threads"]),
            "processes": float(len(children)),
        }
    except (OSError, KeyError):
        return None


def watch(process: subprocess.Popen, metrics: Path) -> list[dict[str, float]]:
    """One line per rollout step, taken when the step's metrics appear."""
    seen: dict[int, dict[str, float]] = {}
    while process.poll() is None:
        time.sleep(0.2)
        step = len(steps_of(metrics))
        if step and step not in seen and (numbers := counted(process.pid)):
            seen[step] = numbers | {"step": float(step)}
            if step % 50 == 0:
                print(f"step {step}: {json.dumps(seen[step])}", flush=True)
    return [seen[step] for step in sorted(seen)]


def steps_of(metrics: Path) -> list[dict[str, Any]]:
    """The whole lines of training steps."""
    lines = metrics.read_text().splitlines(keepends=True) if metrics.is_file() else []
    rows = [json.loads(line) for line in lines if line.endswith("\n")]
    return [row for row in rows if row.get("time/step") is not None]


def slopes(
    samples: Sequence[dict[str, float]], names: Sequence[str]
) -> dict[str, dict[str, float]]:
    """Mean, and slope per 100 steps, of each name."""
    steps = np.array([sample["step"] for sample in samples])
    found = {}
    for name in names:
        values = np.array([sample[name] for sample in samples])
        found[name] = {
            "mean": round(float(values.mean()), 3),
            "per_100_steps": round(100 * float(np.polyfit(steps, values, 1)[0]), 3),
            "flat_up_to": FLAT[name],
        }
    return found


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m fault_injection.soak", description=__doc__)
    parser.add_argument("--steps", type=int, default=300)
    parser.add_argument("--warm-up", type=int, default=50, help="steps before the slopes begin")
    parser.add_argument("--work", type=Path, default=Path("runs/soak"))
    parser.add_argument("--output", type=Path, help="file for the results, JSON")
    given = parser.parse_args(arguments)
    given.work.mkdir(parents=True, exist_ok=True)
    # A new folder each time.
    output = given.work / time.strftime("%Y%m%d-%H%M%S")
    store = f"tracking.mlflow_uri=sqlite:///{output}/mlflow.db"
    command = [sys.executable, "-m", "ceeh.fit", "--config", str(CONFIG), *RUN]
    command += [f"rollouts.steps={given.steps}", f"output={output}", store]
    output.mkdir()
    begin = time.monotonic()
    with (output / "log").open("w") as log:
        process = subprocess.Popen(command, stdout=log, stderr=subprocess.STDOUT)
        samples = watch(process, output / "starter" / "metrics.jsonl")
    steps = steps_of(output / "starter" / "metrics.jsonl")
    if process.returncode != 0 or len(steps) != given.steps:
        print(f"the run ended with {process.returncode} after {len(steps)} steps; see {output}/log")
        return 1
    per_token = [row["time/step"] / row["rollout/tokens_total"] for row in steps]
    whole = mean(per_token[given.warm_up :])
    timed = [
        {"step": float(number + 1), "step time per token, %": 100 * seconds / whole}
        for number, seconds in enumerate(per_token)
    ]
    late = [sample for sample in samples if sample["step"] > given.warm_up]
    names = [name for name in FLAT if name in late[0]]
    found = slopes(late, names) | slopes(timed[given.warm_up :], ["step time per token, %"])
    growing = [name for name, of in found.items() if of["per_100_steps"] > of["flat_up_to"]]
    results = {
        "steps": given.steps,
        "seconds": round(time.monotonic() - begin),
        "slopes": found,
        "growing": growing,
        "versions": provenance(),
    }
    if given.output:
        given.output.write_text(json.dumps(results, indent=2) + "\n")
    print(f"{'per 100 steps':<26}{'mean':>12}{'slope':>12}")
    for name, of in found.items():
        print(f"{name:<26}{of['mean']:>12.3f}{of['per_100_steps']:>+12.3f}")
    return 1 if growing else 0


if __name__ == "__main__":
    sys.exit(main())
