"""python -m benchmarks.update: one optimizer step over ragged rows, ours against TRL's GRPOTrainer.

Same weights, rows, advantages and old log-probs, same objective and optimizer; that both compute the
same is checked by loss and gradient norm. TRL runs at its fastest micro-batch size.
"""

import argparse
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from statistics import median
from typing import Any

from benchmarks.harness import Measurement, by_turns, median_ratio, report
from benchmarks.memory import MIB
from benchmarks.worker import ROOT, Worker
from benchmarks.workload import SIZES, log_normal_lengths, random_model, scored_groups

TRL_PYTHON = ROOT / ".venv-trl" / "bin" / "python"
SAME = 1e-3
"""Largest relative difference of loss and gradient norm: fp32 sums in another order differ by 1e-6."""


def rollouts(
    lengths: Sequence[int], *, group_size: int, prompt_tokens: int, size: str
) -> dict[str, Any]:
    """The rows as both workers read them: token ids, old log-probs and scores, row by row."""
    groups = scored_groups(
        lengths,
        group_size=group_size,
        prompt_tokens=prompt_tokens,
        vocabulary=SIZES[size][-1],
        seed=0,
    )
    rows = [
        (scored.group.prompt, completion, verdict)
        for scored in groups
        for completion, verdict in zip(scored.group.completions, scored.verdicts, strict=True)
    ]
    return {
        "prompts": [scored.group.prompt.text for scored in groups],
        "prompt_ids": [prompt.token_ids for prompt, _, _ in rows],
        "completion_ids": [completion.token_ids for _, completion, _ in rows],
        "logprobs": [completion.logprobs for _, completion, _ in rows],
        "scores": [verdict.score for _, _, verdict in rows],
    }


def ours(job: dict[str, Any], folder: Path) -> Worker:
    return Worker(
        sys.executable,
        "benchmarks.our_worker",
        job,
        log=folder / "ours.log",
        threads=job["threads"],
    )


def trl(job: dict[str, Any], folder: Path, *, rows_per_microbatch: int) -> Worker:
    return Worker(
        TRL_PYTHON,
        "benchmarks.trl_worker",
        job | {"rows_per_microbatch": rows_per_microbatch},
        log=folder / f"trl-{rows_per_microbatch}.log",
        threads=job["threads"],
    )


def fastest(job: dict[str, Any], folder: Path, sizes: Sequence[int]) -> dict[int, dict[str, Any]]:
    """The second step of each of TRL's micro-batch sizes, the fastest first."""
    measured = {}
    for size in sizes:
        with trl(job, folder, rows_per_microbatch=size) as worker:
            worker.step()
            measured[size] = worker.step()
        print(f"TRL, {size} rows a micro-batch: {measured[size]['seconds']:.1f} s", file=sys.stderr)
    return dict(sorted(measured.items(), key=lambda item: item[1]["seconds"]))


def compare(
    job: dict[str, Any], folder: Path, *, rows_per_microbatch: int, repeats: int
) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
    """The answers of both, one by turns, without the warm-up.

    Raises RuntimeError if the first steps differ: then the two would not do the same work.
    """
    answers: dict[str, list[dict[str, Any]]] = {"ours": [], "trl": []}
    with (
        ours(job, folder) as mine,
        trl(job, folder, rows_per_microbatch=rows_per_microbatch) as other,
    ):
        by_turns(
            {
                "ours": lambda: answers["ours"].append(mine.step()),
                "trl": lambda: answers["trl"].append(other.step()),
            },
            repeats=repeats,
        )
    for name in ("loss", "grad_norm"):
        difference = relative_difference(answers["ours"][0][name], answers["trl"][0][name])
        if not difference <= SAME:
            raise RuntimeError(
                f"{name} of the first step differs by {difference:.2g}: not the same work"
            )
    assert answers["ours"][0]["lengths"] == answers["trl"][0]["lengths"]
    return answers["ours"][1:], answers["trl"][1:]


def relative_difference(one: float, other: float) -> float:
    return abs(one - other) / max(abs(one), abs(other))


def column(answers: Sequence[dict[str, Any]], name: str) -> list[float]:
    return [answer[name] for answer in answers]


def spent(
    one: Sequence[dict[str, Any]], other: Sequence[dict[str, Any]]
) -> tuple[list[float], list[float]]:
    """Processor seconds of both."""
    return column(one, "processor_seconds"), column(other, "processor_seconds")


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--size", choices=SIZES, default="balanced")
    parser.add_argument("--rows", type=int, default=32)
    parser.add_argument("--group-size", type=int, default=8)
    parser.add_argument("--prompt-tokens", type=int, default=64)
    parser.add_argument("--longest", type=int, default=1024)
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument(
        "--trl-rows", type=int, nargs="+", default=[1, 4, 8], help="per micro-batch"
    )
    given = parser.parse_args()
    lengths = log_normal_lengths(
        given.rows, median=150, sigma=0.9, shortest=16, longest=given.longest, seed=0
    )
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        job = {
            "kind": "update",
            "generation": "given",
            "model": str(random_model(folder / "model", given.size)),
            "folder": str(folder / "trl"),
            "threads": given.threads,
            "group_size": given.group_size,
            "prompt_tokens": given.prompt_tokens,
            "max_response_tokens": given.longest,
            "tokens_per_microbatch": given.prompt_tokens + given.longest,
            "clip_low": 0.2,
            "clip_high": 0.28,
            "lr": 1e-4,
            "max_grad_norm": 1.0,
        }
        shape = {
            "group_size": given.group_size,
            "prompt_tokens": given.prompt_tokens,
            "size": given.size,
        }
        ragged = job | rollouts(lengths, **shape)
        even = job | rollouts([sum(lengths) // len(lengths)] * len(lengths), **shape)
        sizes = fastest(ragged, folder, given.trl_rows)
        best = next(iter(sizes))
        mine, theirs = compare(ragged, folder, rows_per_microbatch=best, repeats=given.repeats)
        mine_even, theirs_even = compare(even, folder, rows_per_microbatch=best, repeats=3)
    tokens = sum(lengths) + given.rows * given.prompt_tokens
    seconds, reference = column(mine, "seconds"), column(theirs, "seconds")
    peak, reference_peak = column(mine, "peak_bytes"), column(theirs, "peak_bytes")
    mine_paid = tokens / (1 - mine[0]["padding_fraction"])
    lean = min(answer["peak_bytes"] for answer in sizes.values())
    report(
        "update",
        [
            Measurement(
                name="tokens/s",
                value=median_ratio(reference, seconds),
                at_least=2.0,
                ours=tokens / median(seconds),
                reference=tokens / median(reference),
                unit="tokens/s",
            ),
            Measurement(
                name="peak memory",
                value=median(peak) / median(reference_peak),
                at_most=0.5,
                ours=median(peak) / MIB,
                reference=median(reference_peak) / MIB,
                unit="MiB",
            ),
            Measurement(name="padding share", value=mine[0]["padding_fraction"], at_most=0.08),
            # Of a model whose attention is cheap beside its matrices this is what padding costs.
            Measurement(
                name="tokens through the model",
                value=mine_paid / theirs[0]["paid_tokens"],
                ours=mine_paid,
                reference=theirs[0]["paid_tokens"],
            ),
            Measurement(
                name="peak memory, TRL's leanest",
                value=median(peak) / lean,
                ours=median(peak) / MIB,
                reference=lean / MIB,
                unit="MiB",
            ),
            # By processor time, which a busy machine disturbs less than the clock.
            Measurement(
                name="processor time",
                value=median_ratio(*spent(theirs, mine)),
                ours=median(column(mine, "processor_seconds")),
                reference=median(column(theirs, "processor_seconds")),
                unit="s",
            ),
            Measurement(
                name="processor time, rows of one length",
                value=median_ratio(*spent(theirs_even, mine_even)),
                ours=median(column(mine_even, "processor_seconds")),
                reference=median(column(theirs_even, "processor_seconds")),
                unit="s",
            ),
        ],
        settings=vars(given) | {"trl_rows_chosen": best, "lengths": lengths},
        versions=theirs[0]["versions"],
        details={
            "seconds": {"ours": seconds, "trl": reference},
            "processor_seconds": {
                "ours": column(mine, "processor_seconds"),
                "trl": column(theirs, "processor_seconds"),
            },
            "peak_bytes": {"ours": peak, "trl": reference_peak},
            "trl_by_rows_per_microbatch": {
                size: {name: answer[name] for name in ("seconds", "peak_bytes")}
                for size, answer in sizes.items()
            },
            "trl_padding_share": 1 - theirs[0]["used_tokens"] / theirs[0]["paid_tokens"],
            "head_positions": {
                "ours": sum(lengths),
                # Without Triton TRL's head scores every position, padding and prompt included.
                "trl": sum(lengths) if theirs[0]["gpu"] else theirs[0]["paid_tokens"] - given.rows,
            },
            "same_work": {
                name: {"ours": mine[0][name], "trl": theirs[0][name]}
                for name in ("loss", "grad_norm")
            },
            "rows_of_one_length": {
                name: {"ours": column(mine_even, name), "trl": column(theirs_even, name)}
                for name in ("seconds", "processor_seconds")
            },
        },
    )


if __name__ == "__main__":
    main()
