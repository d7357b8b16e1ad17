"""python -m benchmarks.update: one optimizer step over ragged rows, ours against TRL's GRPOTrainer.

Same weights, rows, advantages and old log-probs, same objective and optimizer; equal loss and gradient
norm show that both do the same work. TRL runs at its fastest micro-batch size.
"""

import argparse
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch

from benchmarks.harness import Measurement, in_turn, report, share, speedup
from benchmarks.memory import MIB
from benchmarks.worker import ROOT, Worker
from benchmarks.workload import SIZES, log_normal_lengths, random_model, scored_groups

TRL_PYTHON = ROOT / ".venv-trl" / "bin" / "python"
GPU = torch.cuda.is_available()
SAME = 3e-2 if GPU else 1e-3
"""Largest relative difference of loss and gradient norm: fp32 sums in another order differ by 1e-6, bf16
products on a GPU by more. The bound for a GPU is a guess: no run has been made there."""

Job = dict[str, Any]
Answers = list[dict[str, Any]]


def parse_arguments(description: str, options: dict[str, dict], **defaults: Any) -> Any:
    """Arguments of both comparisons with TRL; `options` are those of one of them."""
    parser = argparse.ArgumentParser(description=description.splitlines()[0])
    parser.add_argument("--size", choices=SIZES)
    for name in ("group-size", "prompt-tokens", "longest", "repeats", "threads"):
        parser.add_argument(f"--{name}", type=int)
    parser.add_argument(
        "--attention", choices=("sdpa", "varlen"), default="sdpa", help="ours, model.attention"
    )
    for name, option in options.items():
        parser.add_argument(name, **option)
    parser.set_defaults(group_size=8, prompt_tokens=64, threads=1, **defaults)
    return parser.parse_args()


def make_job(given: Any, folder: Path) -> Job:
    """What the workers of both sides read; a comparison adds its rollouts."""
    return {
        # As a model's files have it; on a GPU TRL's vLLM takes their dtype. Both train fp32 weights.
        "model": str(
            random_model(
                folder / "model", given.size, dtype=torch.bfloat16 if GPU else torch.float32
            )
        ),
        "attention": given.attention,
        "folder": str(folder / "trl"),
        "threads": given.threads,
        "group_size": given.group_size,
        "prompt_tokens": given.prompt_tokens,
        "max_response_tokens": given.longest,
        "vocabulary": SIZES[given.size][-1],
        "clip_low": 0.2,
        "clip_high": 0.28,
        "lr": 1e-4,
        "max_grad_norm": 1.0,
    }


def given_rows(job: Job, lengths: Sequence[int]) -> Job:
    """The rows of an update: `lengths` for our worker, which builds them itself, token ids for TRL's."""
    shape = {name: job[name] for name in ("group_size", "prompt_tokens", "vocabulary")}
    groups = scored_groups(lengths, **shape)
    rows = [
        (scored.group.prompt, completion, verdict)
        for scored in groups
        for completion, verdict in zip(scored.group.completions, scored.verdicts, strict=True)
    ]
    return {
        "lengths": list(lengths),
        "prompts": [scored.group.prompt.text for scored in groups],
        "prompt_ids": [prompt.token_ids for prompt, _, _ in rows],
        "completion_ids": [completion.token_ids for _, completion, _ in rows],
        "logprobs": [completion.logprobs for _, completion, _ in rows],
        "scores": [verdict.score for _, _, verdict in rows],
    }


def trl(job: Job, folder: Path, rows_per_microbatch: int) -> Worker:
    job = job | {"rows_per_microbatch": rows_per_microbatch}
    log = folder / f"trl-{rows_per_microbatch}.log"
    return Worker(TRL_PYTHON, "benchmarks.trl_worker", job, log=log)


def fastest(job: Job, folder: Path, sizes: Sequence[int]) -> dict[int, dict[str, Any]]:
    """The second step of each of TRL's micro-batch sizes, the fastest first."""
    measured = {}
    for size in sizes:
        with trl(job, folder, size) as worker:
            worker.step()
            measured[size] = worker.step()
        print(f"TRL, {size} rows a micro-batch: {measured[size]['seconds']:.1f} s", file=sys.stderr)
    return dict(sorted(measured.items(), key=lambda item: item[1]["seconds"]))


def compare(
    job: Job, folder: Path, *, rows_per_microbatch: int, repeats: int
) -> tuple[Answers, Answers]:
    """The answers of ours and of TRL, asked in turn, without the two warm-ups.

    Raises RuntimeError for rows of other lengths than the job's: then the two would not do the same work.
    """
    answers: dict[str, Answers] = {"ours": [], "trl": []}
    with Worker(sys.executable, "benchmarks.our_worker", job, log=folder / "ours.log") as mine:
        mine.step()  # TRL's vLLM measures free GPU memory at its start; by then ours holds its own
        with trl(job, folder, rows_per_microbatch) as other:
            other.step()

            def step(name: str, worker: Worker) -> None:
                answer = worker.step()
                if answer["lengths"] != sorted(job["lengths"]):
                    raise RuntimeError(f"{name} has rows of other lengths than the job's")
                answers[name].append(answer)

            calls = {"ours": lambda: step("ours", mine), "trl": lambda: step("trl", other)}
            in_turn(calls, repeats=repeats)
    return answers["ours"][1:], answers["trl"][1:]


def check_same_work(mine: Answers, theirs: Answers) -> None:
    """Raises RuntimeError if loss or gradient norm of the third step differ."""
    for name in ("loss", "grad_norm"):
        one, other = mine[0][name], theirs[0][name]
        if not abs(one - other) <= SAME * max(abs(one), abs(other)):
            raise RuntimeError(
                f"{name} is {one:.6g} here and {other:.6g} in TRL: not the same work"
            )


def column(answers: Answers, name: str) -> list[float]:
    return [answer[name] for answer in answers]


def sides(mine: Answers, theirs: Answers, *names: str) -> dict[str, dict[str, list[float]]]:
    """The repetitions of both sides by the names of what was measured."""
    return {name: {"ours": column(mine, name), "trl": column(theirs, name)} for name in names}


def main() -> None:
    options = {
        "--rows": {"type": int, "default": 32},
        "--trl-rows": {"type": int, "nargs": "+", "default": [1, 4, 8], "help": "per micro-batch"},
    }
    given = parse_arguments(__doc__ or "", options, size="balanced", longest=1024, repeats=5)
    lengths = log_normal_lengths(
        given.rows, median=150, sigma=0.9, shortest=16, longest=given.longest
    )
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        job = make_job(given, folder) | {"kind": "update", "generation": "given"}
        job["tokens_per_microbatch"] = given.prompt_tokens + given.longest
        ragged = job | given_rows(job, lengths)
        even = job | given_rows(job, [sum(lengths) // len(lengths)] * len(lengths))
        sizes = fastest(ragged, folder, given.trl_rows)
        best = next(iter(sizes))
        mine, theirs = compare(ragged, folder, rows_per_microbatch=best, repeats=given.repeats)
        check_same_work(mine, theirs)
        mine_even, theirs_even = compare(even, folder, rows_per_microbatch=best, repeats=3)
        check_same_work(mine_even, theirs_even)
    tokens = sum(lengths) + given.rows * given.prompt_tokens
    speed, their_speed = (
        [tokens / each for each in column(one, "seconds")] for one in (mine, theirs)
    )
    peak, their_peak = (
        [each / MIB for each in column(one, "peak_bytes")] for one in (mine, theirs)
    )
    paid, theirs_paid = tokens / (1 - mine[0]["padding_fraction"]), theirs[0]["paid_tokens"]
    lean = min(answer["peak_bytes"] for answer in sizes.values()) / MIB
    measurements = [
        share("tokens/s", speed, their_speed, "tokens/s"),
        share("peak memory", peak, their_peak, "MiB"),
        Measurement(name="padding share", value=mine[0]["padding_fraction"]),
        # Where attention is cheap beside the matrices this is what padding costs.
        share("tokens through the model", [paid], [theirs_paid], "tokens"),
        share("peak memory, TRL's leanest", peak, [lean] * given.repeats, "MiB"),
        # CPU time, which a busy machine disturbs less than wall time.
        speedup(
            "processor time",
            column(mine, "processor_seconds"),
            column(theirs, "processor_seconds"),
        ),
        speedup(
            "processor time, rows of one length",
            column(mine_even, "processor_seconds"),
            column(theirs_even, "processor_seconds"),
        ),
    ]
    report(
        "update",
        measurements,
        settings=vars(given) | {"trl_rows_chosen": best, "lengths": lengths},
        versions=theirs[0]["versions"],
        details=sides(
            mine, theirs, "seconds", "processor_seconds", "peak_bytes", "loss", "grad_norm"
        )
        | {
            "trl_by_rows_per_microbatch": {
                size: {name: answer[name] for name in ("seconds", "peak_bytes")}
                for size, answer in sizes.items()
            },
            "trl_padding_share": 1 - theirs[0]["used_tokens"] / theirs_paid,
            "rows_of_one_length": sides(mine_even, theirs_even, "seconds", "processor_seconds"),
        },
    )


if __name__ == "__main__":
    main()
