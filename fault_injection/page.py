"""python -m fault_injection.page: docs/reliability.md: promises, how they were tested, results."""

import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parent.parent
RESULTS = ROOT / "fault_injection" / "results"
INTRODUCTION = """# What a run survives

`make faults` breaks real runs of the starter on purpose, with the real engine, and writes this page. Each
experiment also runs alone: `python -m fault_injection.NAME --help`. `python -m fault_injection --short` runs
short forms, `make slow` that of kills. Measured on two nearly idle cores without a GPU.

| promise | how it was tested | result |
|---|---|---|
"""


def phases(found: Mapping[str, Any]) -> str:
    return ", ".join(f"{name} {number}" for name, number in sorted(found.items()))


def cleared(found: Mapping[str, Any]) -> str:
    runs = [run for name, run in found.items() if name.endswith("cleared later")]
    equal = sum(not run["differences"] for run in runs)
    return f"{equal} of {len(runs)} runs finished with equal numbers"


def never_cleared(found: Mapping[str, Any]) -> str:
    last = found["full for good"]
    statuses = f"exit status {last['status']}, then {last['status after clearing']}"
    return f"{statuses} with {len(last['differences'])} differences"


def overheads(found: Mapping[str, Any]) -> str:
    cases = [f"{name} {case['overhead_percent']:+.1f} %" for name, case in found["cases"].items()]
    share = max(case["logging_percent"] for case in found["cases"].values())
    words = f"logging takes at most {share} % of the time of {found['steps']} steps"
    medians = f"step time relative to no tracking, medians: {', '.join(cases)}"
    return f"{words}; {medians}; {found['missing_at_the_end']} values missing at the end"


def slopes(found: Mapping[str, Any]) -> str:
    each = "; ".join(f"{name} {of['per_100_steps']:+.2f}" for name, of in found["slopes"].items())
    return f"{each}: {', '.join(found['growing']) or 'nothing grows'}"


ROWS: list[tuple[str, str, str, Callable[[Mapping[str, Any]], str]]] = [
    (
        "kills",
        "A killed run resumes, by the same command, to the numbers of an uninterrupted one: metrics, "
        "weights, optimizer, tables, stream, rng states, rollouts",
        "SIGKILL at random moments of each phase, several times per run; every file is compared with the "
        "uninterrupted run's, apart from times",
        lambda found: (
            f"{found['survived']} of {found['kills']} kills survived: {phases(found['phases'])}"
        ),
    ),
    (
        "ranks",
        "One killed process of a sharded run ends the others, and the same command resumes to the numbers "
        "of an uninterrupted run: metrics, weights, optimizer, tables, stream, rng states of all processes",
        "two processes under torchrun, hardware.strategy=fsdp, distributed checkpoints; SIGKILL to one of "
        "them at random moments of each phase; then a search for processes that are left",
        lambda found: (
            f"{found['survived']} of {found['kills']} kills survived: {phases(found['phases'])}; all "
            f"processes ended within {max(hit['seconds'] for hit in found['hits']):.1f} s"
        ),
    ),
    (
        "signals",
        "A termination signal stops a run within one engine step or one micro-batch, in any phase: the "
        "last finished step is saved, nothing is left behind, the exit status is 128 + the signal's "
        "number. A repeat within a second changes nothing; a later one ends the process at once. The run "
        "resumes to equal numbers",
        "SIGTERM, SIGINT, SIGUSR1, each sent twice within a tenth of a second, in each phase; within 5 "
        "seconds; then a search for children, shared memory and temporary files",
        lambda found: (
            f"{found['good']} of {found['stops']} stops passed; the slowest by phase, seconds: "
            f"{phases(found['slowest_seconds'])}"
        ),
    ),
    (
        "engine",
        "An engine that fails is restarted and samples the step again, to equal numbers; when it soon "
        "fails again the run ends with an error and can be resumed",
        "out of memory and a lost device, raised in vLLM during a generation and a push; during a "
        "generation, twice",
        lambda found: f"{found['survived']} of {found['failures']} failures survived",
    ),
    (
        "full_disk",
        "A full disk costs checkpoints, not the run; the last good one is kept",
        "a small file system filled before and during a save, cleared later (the system's own ENOSPC)",
        cleared,
    ),
    (
        "full_disk",
        "A disk that stays full ends the run with an error, after `checkpoints.max_failures` saves",
        "the same, never cleared; then cleared and resumed",
        never_cleared,
    ),
    (
        "user_code",
        "A reward function that raises, hangs, returns nonsense, kills its process or eats memory costs "
        "that answer only, counted by kind; one that always hangs ends the run",
        "20 kinds of faults between valid answers, alone and all together; workers killed from outside",
        lambda found: (
            f"{found['miscounted']} miscounted, {found['lost']} valid answers lost, "
            f"{found['workers_opened']} workers started, {found['processes_left']} processes left; "
            f"{found['killed_from_outside']['died']} of {found['killed_from_outside']['answers']} "
            f"answers lost to {found['killed_from_outside']['killed']} kills"
        ),
    ),
    (
        "tracking",
        "A tracking server that is absent, silent, crashing or restarted costs no step and loses nothing",
        "a real server on loopback and addresses that never answer, 60 values a step; unsent values are "
        "sent later",
        overheads,
    ),
    (
        "soak",
        "A long run does not grow or slow down",
        "300 rollout steps, watched from outside; slopes per 100 steps after 50",
        slopes,
    ),
]
"""Experiment, promise, how it was tested, result in words."""


def page() -> str:
    """An experiment without a result has a row that says so."""
    lines, measured = [], {}
    for name, promise, how, words in ROWS:
        file = RESULTS / f"{name}.json"
        found = json.loads(file.read_text()) if file.is_file() else None
        lines.append(f"| {promise} | {how} | {words(found) if found else 'not run'} |")
        commit = found and found["versions"].get("git.commit")
        measured[name] = f"{name} at `{commit[:7]}`" if commit else f"{name} at an earlier commit"
    closing = (ROOT / "fault_injection" / "closing.md").read_text()
    table = "\n".join(lines)
    return f"{INTRODUCTION}{table}\n\nMeasured: {', '.join(measured.values())}.\n\n{closing}"


def write_page() -> Path:
    file = ROOT / "docs" / "reliability.md"
    file.write_text(page())
    return file


if __name__ == "__main__":
    write_page()
