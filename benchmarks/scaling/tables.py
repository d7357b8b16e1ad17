"""The tables of docs/scaling.md, and writing them into the page."""

import re
from collections.abc import Sequence
from pathlib import Path

from benchmarks.scaling.models import KINDS, MODELS
from benchmarks.scaling.step import GPUS, GROUP, MEAN, PROMPT, PROMPTS, Step
from ceeh.memory.devices import GIB, USABLE

PAGE = Path(__file__).parents[2] / "docs" / "scaling.md"


def markdown(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def gib(size: float) -> str:
    return f"{size / GIB:,.1f}"


def gb(size: float) -> str:
    return f"{size / 1e9:,.0f}"


def steps() -> list[Step]:
    return [Step(model, kind, gpus) for model in MODELS for kind in KINDS for gpus in GPUS]


def memory_table() -> str:
    rows = []
    for step in steps():
        rows.append(
            [
                step.model,
                step.kind,
                str(step.gpus),
                gib(step.weights),
                gib(step.reference),
                gib(step.moments),
                gib(step.gathered),
                gib(step.gradients),
                gib(step.work),
                gib(step.update_memory)
                + ("" if step.update_memory <= USABLE * 80 * GIB else ", **no**"),
                f"{gib(step.cache)}, {step.sequences}" if step.cache else "**none**",
            ]
        )
    head = "model,trained,GPUs,weights,reference,moments,gathered,gradients,work,update"
    return markdown([*head.split(","), "KV cache, sequences"], rows)


def traffic_table() -> str:
    rows = [
        [
            step.model,
            step.kind,
            str(step.gpus),
            str(step.microbatches),
            gb(step.weights_gathered),
            gb(step.gradients_reduced),
            gb(step.pushed),
        ]
        for step in steps()
        if step.gpus > 1
    ]
    head = "model,trained,GPUs,micro-batches,weights gathered,gradients joined,push"
    return markdown(head.split(","), rows)


def time_table() -> str:
    rows = []
    for step in steps():
        if not step.fits:
            continue
        generate, longest, waiting = step.generation()
        update = max(step.computing, step.update_traffic)
        total = generate + update + step.push
        rows.append(
            [
                step.model,
                step.kind,
                str(step.gpus),
                f"{generate:,.0f}",
                f"{longest:,.0f}",
                f"{waiting:.0%}",
                f"{step.computing:,.0f}",
                f"{step.update_traffic:,.1f}",
                f"{step.push:.1f}",
                f"{total:,.0f}",
                f"{PROMPTS * GROUP * (PROMPT + MEAN) / total / step.gpus:,.0f}",
            ]
        )
    head = "model,trained,GPUs,generate,its longest,waiting,update: products,traffic,push,step"
    return markdown([*head.split(","), "tokens/s per GPU"], rows)


TABLES = {"memory": memory_table, "traffic": traffic_table, "time": time_table}


def write(page: Path = PAGE) -> None:
    text = page.read_text()
    for name, table in TABLES.items():
        place = re.compile(rf"(<!-- {name} -->\n).*?(<!-- end -->)", re.DOTALL)
        assert place.search(text), f"{page} has no place for the table '{name}'"
        text = place.sub(lambda found, table=table: found[1] + table() + "\n" + found[2], text)
    page.write_text(text)
