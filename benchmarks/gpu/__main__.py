"""python -m benchmarks.gpu [PART ...]: what one GPU does, each part in its own process and time limit.

agreement      engine against trainer at 1.5B shapes, step by step; first, for the open fault of docs/gpu.md
head           loss and gradients of the chunked head, and their error against float64
update-1.5b    tokens per second, MFU and host waits of an optimizer step: all weights, LoRA, and LoRA on
               rows without padding
update-7b      the same with LoRA on a bf16 base, without padding
engine         rollouts against vLLM alone, a push against a copy, a cycle of sleep

At most eight minutes. By name only:

run-1.5b       a whole ceeh.fit of three steps with LoRA: a step and its parts, MFU, memory
trl-head, trl-update, trl-step
               TRL beside ours, at 1.5B shapes the head, at 0.5B the others; they need `make bench-env`

Prints a table and writes results/gpu.json, which keeps what earlier calls measured of other parts on the
same machine; a part that fails or runs out of time costs no other.
`--tiny` runs the same code in seconds, also on a CPU.
"""

import argparse
import json
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path

from benchmarks.gpu.agreement import measure_agreement
from benchmarks.gpu.engine import measure_engine
from benchmarks.gpu.head import measure_head
from benchmarks.gpu.measured import Row
from benchmarks.gpu.run import measure_run
from benchmarks.gpu.trl import measure_trl_head, measure_trl_step, measure_trl_update
from benchmarks.gpu.update import ADAPTER, FULL, PACKED, measure_update
from benchmarks.harness import RESULTS, machine
from ceeh.runtime.versions import provenance

Part = tuple[int, Callable[[bool], Iterator[Row]]]
"""Seconds that a part may take, and what it does."""

PARTS: dict[str, Part] = {
    "agreement": (145, measure_agreement),
    "head": (40, measure_head),
    "update-1.5b": (90, lambda tiny: measure_update("qwen2-1.5b", tiny, FULL, ADAPTER, PACKED)),
    "update-7b": (75, lambda tiny: measure_update("qwen2-7b", tiny, PACKED)),
    "engine": (125, measure_engine),
}
BY_NAME: dict[str, Part] = {
    "run-1.5b": (280, measure_run),
    "trl-head": (60, measure_trl_head),
    "trl-update": (120, measure_trl_update),
    "trl-step": (210, measure_trl_step),
}


def run_part(name: str, limit: int, tiny: bool, folder: Path) -> Row:
    """Runs a part in a process of its own. Its rows survive a failure or the end of its time."""
    log, begin = folder / f"{name}.log", time.perf_counter()
    command = [sys.executable, "-m", "benchmarks.gpu", "--into", str(folder), "--part", name]
    with log.open("w") as output:
        process = subprocess.Popen(
            command + ["--tiny"] * tiny,
            stdout=output,
            stderr=subprocess.STDOUT,
            env=os.environ | {"PYTHONUNBUFFERED": "1"},
            start_new_session=True,
        )
        try:
            ended = f"exit status {process.wait(limit)}"
        except subprocess.TimeoutExpired:
            ended = f"stopped after its {limit} s"
        finally:
            if process.poll() is None:  # after Ctrl-C, too, which does not reach it
                os.killpg(process.pid, signal.SIGKILL)  # with the workers that it started
                process.wait()
    file = folder / f"{name}.jsonl"
    rows = [json.loads(line) for line in file.read_text().splitlines()] if file.exists() else []
    passed = ended == "exit status 0"
    if not passed:
        print(f"{name}: {ended}\n" + "\n".join(log.read_text().splitlines()[-25:]), flush=True)
    return {
        "part": name,
        "ended": "passed" if passed else ended,
        "seconds": round(time.perf_counter() - begin, 1),
        "date": time.strftime("%Y-%m-%d"),
        "versions": provenance(),
        "rows": rows,
    }


def earlier_parts(file: Path, tiny: bool) -> dict[str, Row]:
    """What earlier calls measured on this machine, by part."""
    if not file.is_file():
        return {}
    content = json.loads(file.read_text())
    same = content["machine"] == machine() and content["settings"] == {"tiny": tiny}
    return {part["part"]: part for part in content["parts"]} if same else {}


def main(arguments: list[str] | None = None) -> int:
    known = PARTS | BY_NAME
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.gpu",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("parts", nargs="*", metavar="PART", help=f"of {', '.join(known)}")
    parser.add_argument("--tiny", action="store_true", help="sizes for a CPU and a test")
    parser.add_argument("--into", type=Path, help="folder of gpu.json and the parts' logs")
    parser.add_argument("--part", help=argparse.SUPPRESS)
    given = parser.parse_args(arguments)
    folder = given.into or RESULTS
    if unknown := set(given.parts) - set(known):
        parser.error(f"no part {', '.join(unknown)}; there are {', '.join(known)}")
    if given.part:
        with (folder / f"{given.part}.jsonl").open("w") as file:
            for measured in known[given.part][1](given.tiny):
                file.write(json.dumps(measured) + "\n")
                file.flush()
        return 0
    with tempfile.TemporaryDirectory() as work:
        found, measured = [], earlier_parts(folder / "gpu.json", given.tiny)
        for name in given.parts or PARTS:
            part = run_part(name, known[name][0], given.tiny, Path(work))
            found.append(part)
            measured[name] = part
            print(f"{name}: {part['ended']}, {part['seconds']} s", flush=True)
            for each in part["rows"]:
                print(f"  {each['what']:46}{each['value']:>12,.4g} {each['unit']:12} {each['of']}")
            # After each part: what was measured is kept if this process is killed.
            content = {
                "benchmark": "gpu",
                "machine": machine(),
                "settings": {"tiny": given.tiny},
                "parts": list(measured.values()),
            }
            folder.mkdir(parents=True, exist_ok=True)
            (folder / "gpu.json").write_text(json.dumps(content, indent=2) + "\n")
    return int(any(part["ended"] != "passed" for part in found))


if __name__ == "__main__":
    sys.exit(main())
