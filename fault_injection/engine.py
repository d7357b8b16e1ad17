"""python -m fault_injection.engine: the engine fails, once and twice, during generation or in a push.

The engine is real and the errors are raised inside vLLM; the run's folder is compared with that of an
uninterrupted run.
"""

import sys
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import torch

from ceeh.data.engine import vllm_engine
from ceeh.runtime.versions import provenance
from fault_injection.equality import differences
from fault_injection.process import attempt, command_line, prepare, uninterrupted, write_results

ERRORS: dict[str, Callable[[], Exception]] = {
    "out of memory": lambda: torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2 GiB"),
    "lost device": lambda: RuntimeError("CUDA error: an illegal memory access was encountered"),
}
STEP_OF_A_GENERATION, PUSH = 180, 5
"""Calls within the run: in the third rollout step."""


def drill(work: Path) -> dict[str, Any]:
    whole = uninterrupted(work)
    cases: list[dict[str, Any]] = []
    for place, failing, call in (
        ("a generation", fail_in_a_step, STEP_OF_A_GENERATION),
        ("a push", fail_in_a_push, PUSH),
    ):
        for error in ERRORS:
            output = work / f"run{len(cases)}"
            log = output.with_suffix(".log")
            status = attempt(output, log, inject=partial(failing, error, {call}))
            cases.append(case(place, error, log, status, whole, output))
    output, log = work / "twice", work / "twice.log"
    calls = {STEP_OF_A_GENERATION, STEP_OF_A_GENERATION + 1}
    stopped = attempt(output, log, inject=partial(fail_in_a_step, "out of memory", calls))
    resumed = attempt(output, log)
    cases.append(case("a generation, twice", "out of memory", log, stopped, whole, output))
    cases[-1]["status after resuming"] = resumed
    good = [
        one
        for one in cases
        if one["restarted"]
        and not one["differences"]
        and (one["status"], one.get("status after resuming")) in ((0, None), (1, 0))
    ]
    return {"failures": len(cases), "survived": len(good), "cases": cases, "versions": provenance()}


def case(
    place: str, error: str, log: Path, status: int, whole: Path, output: Path
) -> dict[str, Any]:
    lines = log.read_text().splitlines()
    said = [line.rpartition("UserWarning: ")[2] for line in lines if "the engine failed" in line]
    # A run that was stopped leaves one more checkpoint.
    found = differences(whole / "starter", output / "starter", common=True)
    return {
        "place": place,
        "error": error,
        "status": status,
        "restarted": any("restarting it" in line for line in said),
        "said": said,
        "differences": found,
    }


def fail_in_a_step(error: str, calls: set[int]) -> None:
    from vllm.v1.engine.llm_engine import LLMEngine

    failing(LLMEngine, "step", error, calls)


def fail_in_a_push(error: str, calls: set[int]) -> None:
    """After all weights have arrived and before the head's packed copy is updated."""
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
    given = command_line("fault_injection.engine", __doc__ or "").parse_args(arguments)
    prepare(given.work)
    results = drill(given.work)
    write_results(results, given.output)
    for one in results["cases"]:
        print(one)
    print(f"{results['survived']} of {results['failures']} failures of the engine survived")
    return 0 if results["survived"] == results["failures"] else 1


if __name__ == "__main__":
    sys.exit(main())
