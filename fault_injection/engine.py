"""python -m fault_injection.engine: the engine fails, once and twice, during generation or in a push."""

import sys
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import torch

from ceeh.data.engine import vllm_weights
from fault_injection.equality import differences
from fault_injection.process import attempt, run_experiment, uninterrupted

ERRORS: dict[str, Callable[[], Exception]] = {
    "out of memory": lambda: torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2 GiB"),
    "lost device": lambda: RuntimeError("CUDA error: an illegal memory access was encountered"),
}
STEP, PUSH = 180, 5
"""Calls within the run: in the third rollout step."""
CASES = [
    *(("a generation", error, {STEP}) for error in ERRORS),
    # After all weights have arrived and before the head's packed copy is updated.
    *(("a push", error, {PUSH}) for error in ERRORS),
    ("a generation, twice", "out of memory", {STEP, STEP + 1}),
]


def inject(work: Path) -> dict[str, Any]:
    """The engine is real and the errors are raised inside vLLM.

    The run's folder is compared with that of an uninterrupted run; a run that failed twice is resumed first.
    """
    whole, cases = uninterrupted(work), []
    for place, error, calls in CASES:
        output = work / f"run{len(cases)}"
        log = output.with_suffix(".log")
        statuses = [attempt(output, log, inject=partial(fail, place, error, calls))]
        if len(calls) > 1:
            statuses.append(attempt(output, log))
        lines = log.read_text().splitlines()
        said = [
            line.rpartition("UserWarning: ")[2] for line in lines if "the engine failed" in line
        ]
        # A run that was stopped leaves one more checkpoint.
        found = differences(whole / "starter", output / "starter", common=True)
        restarted = any("restarting it" in line for line in said)
        as_promised = statuses == ([0] if len(calls) == 1 else [1, 0])
        cases.append(
            {
                "place": place,
                "error": error,
                "statuses": statuses,
                "said": said,
                "differences": found,
                "survived": restarted and as_promised and not found,
            }
        )
    survived = sum(case["survived"] for case in cases)
    return {
        "passed": survived == len(cases),
        "failures": len(cases),
        "survived": survived,
        "cases": cases,
    }


def fail(place: str, error: str, calls: set[int]) -> None:
    from vllm.v1.engine.llm_engine import LLMEngine

    owner, name = (vllm_weights, "repack_heads") if place == "a push" else (LLMEngine, "step")
    function, made = getattr(owner, name), 0

    def watched(*arguments: Any, **settings: Any) -> Any:
        nonlocal made
        made += 1
        if made in calls:
            raise ERRORS[error]()
        return function(*arguments, **settings)

    setattr(owner, name, watched)


if __name__ == "__main__":
    sys.exit(run_experiment(inject))
