"""docs/reliability.md: each promise, how it was tested, and the result."""

import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parent.parent
INTRODUCTION = """# What a run survives

`make drill` breaks real runs of the starter on purpose, with the real engine, and writes this page. Each
experiment also runs alone: `python -m fault_injection.NAME --help`. A short form of the kills is in
`make slow`. Measured on two cores without a GPU.

| promise | how it was tested | result |
|---|---|---|
"""

Rows = list[tuple[str, str, str]]


def kills(found: Mapping[str, Any]) -> Rows:
    phases = ", ".join(f"{name} {count}" for name, count in sorted(found["phases"].items()))
    return [
        (
            "A killed run resumes, by the same command, to the numbers of an uninterrupted one: metrics, "
            "weights, optimizer, tables, stream, rng states, rollouts",
            f"SIGKILL at random moments of each phase ({phases}), several times per run; every file is "
            "compared with the uninterrupted run's, apart from times",
            f"{found['survived']} of {found['kills']} kills survived",
        )
    ]


def signals(found: Mapping[str, Any]) -> Rows:
    seconds = ", ".join(f"{name} {value}" for name, value in found["slowest_seconds"].items())
    kinds = ", ".join(dict.fromkeys(stop["signal"] for stop in found["all"]))
    return [
        (
            "A termination signal stops a run within one engine step or one micro-batch, in any phase: the "
            "last finished step is saved, nothing is left behind, the exit status is 128 + the signal's "
            "number. A repeat within a second changes nothing; a later one ends the process at once. The run "
            "resumes to equal numbers",
            f"{kinds}, each sent twice within a tenth of a second, in each phase; within 5 seconds; then a "
            "search for children, shared memory and temporary files",
            f"{found['good']} of {found['stops']} stops passed; the slowest by phase, seconds: {seconds}",
        )
    ]


def engine(found: Mapping[str, Any]) -> Rows:
    places = "; ".join(dict.fromkeys(case["place"] for case in found["cases"]))
    return [
        (
            "An engine that fails is restarted and samples the step again, to equal numbers; when it soon "
            "fails again the run ends with an error and can be resumed",
            f"out of memory and a lost device, raised in vLLM during {places}",
            f"{found['survived']} of {found['failures']} failures survived",
        )
    ]


def full_disk(found: Mapping[str, Any]) -> Rows:
    cleared = [name for name in found if name.endswith("cleared later")]
    equal = sum(not found[name]["differences"] for name in cleared)
    last = found["full for good"]
    return [
        (
            "A full disk costs checkpoints, not the run; the last good one is kept",
            "a small file system filled before and during a save, cleared later (the system's own ENOSPC)",
            f"{equal} of {len(cleared)} runs finished with equal numbers",
        ),
        (
            "A disk that stays full ends the run with an error, after `checkpoints.max_failures` saves",
            "the same, never cleared; then cleared and resumed",
            f"exit status {last['status']}, then {last['status after clearing']} with "
            f"{len(last['differences'])} differences",
        ),
    ]


def user_code(found: Mapping[str, Any]) -> Rows:
    alone = found["one_by_one"].values()
    wrong = sum(row["outcome"] != row["expected"] for row in alone)
    lost = sum(row["honest_answers_lost"] for row in alone)
    return [
        (
            "A reward function that raises, hangs, returns nonsense, kills its process or eats memory "
            "costs that answer only, counted by kind",
            f"{found['faults']} kinds of faults, each followed by valid answers; "
            f"{found['workers_opened']} workers were started",
            f"{wrong} miscounted, {lost} valid answers lost, "
            f"{found['processes_left_over']} processes left",
        )
    ]


def tracking(found: Mapping[str, Any]) -> Rows:
    cases = {
        name.replace("_", " "): case
        for name, case in found.items()
        if isinstance(case, dict) and "values_lacking_at_last" in case
    }
    steps = ", ".join(
        f"{name} {case['overhead_percent_of_medians']:+.1f} %" for name, case in cases.items()
    )
    lacking = sum(case["values_lacking_at_last"] for case in cases.values())
    return [
        (
            "A tracking server that is absent, silent, crashing or restarted costs no step and loses nothing",
            f"a real server on loopback and addresses that never answer, {found['steps']} steps of "
            f"{found['values_a_step']} values each; unsent values are sent later",
            f"step time relative to no tracking, medians: {steps}; {lacking} values missing at the end",
        )
    ]


def soak(found: Mapping[str, Any]) -> Rows:
    slopes = "; ".join(f"{name} {of['per_100_steps']:+.2f}" for name, of in found["slopes"].items())
    growing = ", ".join(found["growing"]) or "nothing grows"
    return [
        (
            "A long run does not grow or slow down",
            f"{found['steps']} rollout steps, watched from outside; slopes per 100 steps after 50",
            f"{slopes}: {growing}",
        )
    ]


SECTIONS: dict[str, Callable[[Mapping[str, Any]], Rows]] = {
    "kills": kills,
    "signals": signals,
    "engine": engine,
    "full_disk": full_disk,
    "user_code": user_code,
    "tracking": tracking,
    "soak": soak,
}


def write_page(results: Path) -> Path:
    """Writes the page; an experiment without a result has a row that says so."""
    lines, measured = [], []
    for name, section in SECTIONS.items():
        file = results / f"{name}.json"
        if not file.is_file():
            lines.append(f"| {name} | `python -m fault_injection.{name}` | not run |")
            continue
        found = json.loads(file.read_text())
        lines += [f"| {' | '.join(row)} |" for row in section(found)]
        commit = found.get("versions", {}).get("git.commit")
        measured.append(f"{name} at `{commit[:7]}`" if commit else f"{name} at an earlier commit")
    closing = (ROOT / "fault_injection" / "closing.md").read_text()
    page = ROOT / "docs" / "reliability.md"
    page.write_text(
        INTRODUCTION + "\n".join(lines) + f"\n\nMeasured: {', '.join(measured)}.\n\n" + closing
    )
    return page
