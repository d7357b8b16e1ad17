"""Does a run log what ceeh/config/metrics.py says that it logs, and nothing else?"""

import json
import re
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

from ceeh.config.metrics import METRICS, Metric

CONDITIONS: dict[str, Callable[[Any], bool]] = {
    "`rollouts.probe.questions` above 0": lambda config: config.rollouts.probe.questions > 0,
    "`objective.kl_coefficient` above 0": lambda config: config.objective.kl_coefficient > 0,
    "`objective.old_logprobs=trainer`, or an entropy bonus with `objective.entropy.top_fraction` "
    "below 1": lambda config: (
        config.objective.old_logprobs == "trainer"
        or (config.objective.entropy.method != "none" and config.objective.entropy.top_fraction < 1)
    ),
    "`prompts.held_out` is given": lambda config: bool(config.prompts.held_out.class_path),
}


def promised(metric: Metric, config: Any) -> bool | None:
    """Whether a run of `config` on the CPU must log it; None where that depends on its numbers."""
    if not metric.when:
        return True
    if metric.when in CONDITIONS:
        return CONDITIONS[metric.when](config)
    if re.fullmatch(r"`ceeh[\w.]+`( or `ceeh[\w.]+`)*", metric.when):
        given = [*config.callbacks.values(), config.objective.shaping]
        return bool(
            {each.class_path for each in given} & set(re.findall(r"[\w.]{3,}", metric.when))
        )
    return None


def names(metric: Metric, logged: Iterable[str]) -> set[str]:
    """Those of `logged` that the table's entry is of."""
    pattern = re.sub(r"\b(K|LOW|HIGH)\b|(?<=_)(K|LOW|HIGH)(?=_|$)", r"\\d+", metric.name)
    pattern = pattern.replace("NAME", r"\w+")
    return {name for name in logged if re.fullmatch(pattern, name)}


def differences(folder: Path, command: str, config: Any) -> list[str]:
    """How metrics.jsonl of a finished run differs from the table: in words, none where they agree."""
    lines = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    table = [each for each in METRICS if command in each.commands]
    logged = {name for line in lines for name in line}
    described = {name for each in table for name in names(each, logged)}
    found = [f"{name} is not in the table" for name in sorted(logged - described)]
    steps = [line for line in lines if "rollout/step" in line]
    of_prefix = {"": lines, "eval": [lines[0], lines[-1]]}
    for each in table:
        must = promised(each, config)
        if must is False and (extra := names(each, logged)):
            found.append(f"{min(extra)} is logged without {each.when}")
        if must and not all(names(each, line) for line in of_prefix.get(each.prefix, steps)):
            found.append(f"{each.name} is not logged at each step or evaluation")
    return found
