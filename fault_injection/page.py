"""docs/reliability.md: each promise, how it was tried, and the figure, from the drills' results."""

import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parent.parent
INTRODUCTION = """# What a run survives

`make drill` breaks real runs of the starter on purpose, with the real engine, and writes this page.
Each drill is also run alone: `python -m fault_injection.NAME --help`. Short forms are in the tests. Two cores
without a GPU.

| promise | how it was tried | figure |
|---|---|---|
"""

Rows = list[tuple[str, str, str]]


def kills(found: Mapping[str, Any]) -> Rows:
    phases = ", ".join(f"{name} {count}" for name, count in sorted(found["phases"].items()))
    return [
        (
            "A killed run goes on, by the same command, to the very numbers of one that was not: metrics, "
            "weights, optimizer, tables, stream, generators, rollouts",
            f"SIGKILL at random moments of each phase ({phases}), several times a run; every file is "
            "compared with the uninterrupted run's, a clock's readings aside",
            f"{found['survived']} of {found['kills']} kills survived",
        )
    ]


def signals(found: Mapping[str, Any]) -> Rows:
    seconds = ", ".join(f"{name} {value}" for name, value in found["slowest_seconds"].items())
    kinds = ", ".join(dict.fromkeys(stop["signal"] for stop in found["all"]))
    return [
        (
            "A signal ends a run within 5 seconds, in any phase: saved, nothing left behind, exit status "
            "128 + the signal's number; a second one changes nothing. The run goes on to equal numbers",
            f"{kinds}, each twice in a tenth of a second, in each phase; children, shared memory and "
            "temporary files are looked for afterwards",
            f"{found['good']} of {found['stops']} stops good; the slowest by phase, seconds: {seconds}",
        )
    ]


def engine(found: Mapping[str, Any]) -> Rows:
    places = "; ".join(dict.fromkeys(case["place"] for case in found["cases"]))
    return [
        (
            "An engine that fails is built anew once and the step sampled again, to equal numbers; when it "
            "fails again the run ends clearly and can be continued",
            f"out of memory and a lost device, raised in vLLM in the midst of {places}",
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
            f"{equal} of {len(cleared)} runs came to their end with equal numbers",
        ),
        (
            "A disk that stays full ends the run clearly, after `checkpoints.max_failures` saves",
            "the same, never cleared; then cleared and continued",
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
            f"{found['faults']} kinds of faults, each with honest answers after it; "
            f"{found['workers_opened']} workers were opened",
            f"{wrong} miscounted, {lost} honest answers lost, "
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
            "A tracking server that is absent, silent, dying or back again costs no step and loses nothing",
            f"a real server on loopback and addresses that never answer, {found['steps']} steps of "
            f"{found['values_a_step']} values each; what was not sent is sent later",
            f"step's time beside one without tracking, medians: {steps}; {lacking} values lacking at last",
        )
    ]


def soak(found: Mapping[str, Any]) -> Rows:
    slopes = "; ".join(f"{name} {of['per_100_steps']:+.2f}" for name, of in found["slopes"].items())
    creeping = ", ".join(found["creeping"]) or "nothing creeps"
    return [
        (
            "A long run stays as it began",
            f"{found['steps']} rollout steps, watched from outside; slopes per 100 steps after 50",
            f"{slopes}: {creeping}",
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
    """Writes the page; a drill without a result has a row that says so."""
    lines, measured = [], []
    for name, section in SECTIONS.items():
        file = results / f"{name}.json"
        if not file.is_file():
            lines.append(f"| {name} | `python -m fault_injection.{name}` | not run |")
            continue
        found = json.loads(file.read_text())
        lines += [f"| {' | '.join(row)} |" for row in section(found)]
        commit = found.get("versions", {}).get("git.commit")
        measured.append(f"{name} at `{commit[:7]}`" if commit else name)
    closing = (ROOT / "fault_injection" / "closing.md").read_text()
    page = ROOT / "docs" / "reliability.md"
    page.write_text(
        INTRODUCTION + "\n".join(lines) + f"\n\nMeasured: {', '.join(measured)}.\n\n" + closing
    )
    return page
