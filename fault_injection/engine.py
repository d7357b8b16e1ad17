"""python -m fault_injection.engine: the engine fails, once and twice, during generation or in a push.

The real engine, the errors put into vLLM itself; the run's folder is held against an undisturbed one's.
"""

import argparse
import json
import shutil
import sys
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import torch

from ceeh.data.engine import vllm_engine
from ceeh.runtime.versions import provenance
from fault_injection.equality import differences
from fault_injection.process import attempt, import_everything

ERRORS: dict[str, Callable[[], Exception]] = {
    "out of memory": lambda: torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2 GiB"),
    "lost device": lambda: RuntimeError("CUDA error: an illegal memory access was encountered"),
}
STEP_OF_A_GENERATION, PUSH = 180, 5
"""Calls within the run: the third rollout step's, in the midst of it."""


def drill(work: Path) -> dict[str, Any]:
    whole = work / "whole"
    if (status := attempt(whole, work / "whole.log")) != 0:
        raise RuntimeError(f"the undisturbed run ended with {status}; see {work / 'whole.log'}")
    cases: list[dict[str, Any]] = []
    for place, failing, call in (
        ("a generation", fail_in_a_step, STEP_OF_A_GENERATION),
        ("a push", fail_in_a_push, PUSH),
    ):
        for error in ERRORS:
            output = work / f"run{len(cases)}"
            log = output.with_suffix(".log")
            status = attempt(output, log, meddle=partial(failing, error, {call}))
            cases.append(case(place, error, log, status, whole, output))
    output, log = work / "twice", work / "twice.log"
    calls = {STEP_OF_A_GENERATION, STEP_OF_A_GENERATION + 1}
    stopped = attempt(output, log, meddle=partial(fail_in_a_step, "out of memory", calls))
    resumed = attempt(output, log)
    cases.append(case("a generation, twice", "out of memory", log, stopped, whole, output))
    cases[-1]["status after resuming"] = resumed
    good = [
        one
        for one in cases
        if one["rebuilt"]
        and not one["differences"]
        and (one["status"], one.get("status after resuming")) in ((0, None), (1, 0))
    ]
    return {
        "failures": len(cases),
        "survived": len(good),
        "cases": cases,
        "versions": provenance(),
    }


def case(
    place: str, error: str, log: Path, status: int, whole: Path, output: Path
) -> dict[str, Any]:
    """`common`: a run that was stopped leaves one checkpoint more."""
    lines = log.read_text().splitlines()
    said = [line.rpartition("UserWarning: ")[2] for line in lines if "the engine failed" in line]
    found = differences(whole / "starter", output / "starter", common=True)
    return {
        "place": place,
        "error": error,
        "status": status,
        "rebuilt": any("is built anew" in line for line in said),
        "said": said,
        "differences": found,
    }


def fail_in_a_step(error: str, calls: set[int]) -> None:
    from vllm.v1.engine.llm_engine import LLMEngine

    failing(LLMEngine, "step", error, calls)


def fail_in_a_push(error: str, calls: set[int]) -> None:
    """When all weights are there and the head's packed copy is not."""
    failing(vllm_engine, "repack_heads", error, calls)


def failing(owner: Any, name: str, error: str, calls: set[int]) -> None:
    function, made = getattr(owner, name), [0]

    def watched(*arguments: Any, **settings: Any) -> Any:
        made[0] += 1
        if made[0] in calls:
            raise ERRORS[error]()
        return function(*arguments, **settings)

    setattr(owner, name, watched)


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m fault_injection.engine", description=__doc__)
    parser.add_argument("--work", type=Path, default=Path("runs/engine"), help="emptied first")
    parser.add_argument("--output", type=Path, help="where to write the figures, JSON")
    given = parser.parse_args(arguments)
    shutil.rmtree(given.work, ignore_errors=True)
    given.work.mkdir(parents=True)
    import_everything()
    figures = drill(given.work)
    if given.output:
        given.output.write_text(json.dumps(figures, indent=2) + "\n")
    for one in figures["cases"]:
        print(one)
    print(f"{figures['survived']} of {figures['failures']} failures of the engine survived")
    return 0 if figures["survived"] == figures["failures"] else 1


if __name__ == "__main__":
    sys.exit(main())
