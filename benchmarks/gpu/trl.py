"""TRL's GRPOTrainer beside ours: its fused head, its update, its whole step with colocated vLLM.

Needs TRL in `.venv-trl` (`make bench-env`), with vLLM on a GPU, whose memory both sides share.
"""

import random
import tempfile
from argparse import Namespace
from collections.abc import Iterator
from pathlib import Path
from statistics import median

from benchmarks.gpu.head import head_step
from benchmarks.gpu.measured import BF16, CUDA, Row, row, seconds
from benchmarks.update import (
    TRL_PYTHON,
    Answers,
    Job,
    column,
    compare,
    given_rows,
    make_job,
)
from benchmarks.worker import Worker
from benchmarks.workload import log_normal_lengths

THREADS = 4 if CUDA else 1
ROWS = 4
"""Rows of a micro-batch, without checkpointing."""


def check_there() -> None:
    if not TRL_PYTHON.exists():
        raise SystemExit(f"{TRL_PYTHON} is missing: `make bench-env` installs TRL")


def measure_trl_head(tiny: bool) -> Iterator[Row]:
    """TRL's kernel computes with logits in bf16, ours in fp32."""
    check_there()
    tokens, width, vocabulary = (64, 32, 500) if tiny else (8192, 1536, 151_936)
    sizes = {"tokens": tokens, "width": width, "vocabulary": vocabulary}
    job = sizes | {"threads": THREADS}
    with tempfile.TemporaryDirectory() as folder:
        log = Path(folder) / "trl.log"
        with Worker(TRL_PYTHON, "benchmarks.trl_head", job, log=log) as worker:
            theirs = [worker.step()["seconds"] for _ in range(4)][1:]
    step = head_step(**sizes, operands=BF16 if CUDA else None, trained=True)
    ours, other = 1000 * seconds(step, 3), 1000 * median(theirs)
    yield row("head, loss and both gradients", ours, "ms", f"TRL {other:.3g}")


def measure_trl_update(tiny: bool) -> Iterator[Row]:
    """Rows of ragged lengths; the differences say whether both did the same work."""
    check_there()
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        longest = 32 if tiny else 2048
        job: Job = job_of(tiny, longest, folder) | {"kind": "update", "generation": "given"}
        lengths = log_normal_lengths(
            32, median=longest / 5, sigma=0.9, shortest=16, longest=longest
        )
        job |= given_rows(job, lengths)
        mine, theirs = compare(job, folder, rows_per_microbatch=ROWS, repeats=3)
    tokens = sum(lengths) + len(lengths) * job["prompt_tokens"]
    ours, other = (tokens / median(column(side, "seconds")) for side in (mine, theirs))
    yield row("update", ours, "tokens/s", f"TRL {other:,.0f}")
    ours, other = (median(column(side, "peak_bytes")) / 2**30 for side in (mine, theirs))
    yield row("update, memory", ours, "GiB", f"TRL {other:.3g}")
    for name in ("loss", "grad_norm"):
        yield row(f"update, {name}", mine[0][name], "", f"TRL {theirs[0][name]:.6g}")


def measure_trl_step(tiny: bool) -> Iterator[Row]:
    """Generation of forced lengths, rewards, update; in ours the push and its canary."""
    check_there()
    prompts = 2 if tiny else 16
    digits = random.Random(0)
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        longest = 16 if tiny else 1024
        job = job_of(tiny, longest, folder)
        job |= {
            "kind": "step",
            "generation": "vllm" if CUDA else "padded",
            "seeds": "request" if CUDA else "step",
            "lengths": log_normal_lengths(
                prompts * job["group_size"],
                median=longest / 4,
                sigma=0.6,
                shortest=8,
                longest=longest,
            ),
            # The starter's tokenizer has a token for each digit.
            "prompts": [
                "".join(digits.choices("0123456789", k=job["prompt_tokens"]))
                for _ in range(prompts)
            ],
        }
        mine, theirs = compare(job, folder, rows_per_microbatch=ROWS, repeats=3)
    parts = ", ".join(f"{name} {value:.2g}" for name, value in mine[-1]["parts"].items())
    ours, other = (median(column(side, "seconds")) for side in (mine, theirs))
    yield row("step", ours, "s", f"TRL {other:.3g}; parts of ours: {parts}")
    yield row(
        "generation", generated(mine), "s", f"TRL {median(column(theirs, 'generate_seconds')):.3g}"
    )


def generated(mine: Answers) -> float:
    return median(answer["parts"]["generate"] for answer in mine)


def job_of(tiny: bool, longest: int, folder: Path) -> Job:
    """The model and settings that both sides get."""
    given = Namespace(
        size="tiny" if tiny else "qwen2-0.5b",
        attention="varlen",
        threads=THREADS,
        group_size=8,
        prompt_tokens=64,
        longest=longest,
    )
    tokens = ROWS * (given.prompt_tokens + longest)
    return make_job(given, folder) | {"tokens_per_microbatch": tokens}
