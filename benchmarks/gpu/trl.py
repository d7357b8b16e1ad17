"""TRL's GRPOTrainer beside ours, in turn: its fused head, its update, its whole step with colocated vLLM.

Needs TRL in `.venv-trl` (`make bench-env`), with vLLM on a GPU.
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
    check_same_work,
    column,
    compare,
    given_rows,
    make_job,
)
from benchmarks.worker import Worker
from benchmarks.workload import log_normal_lengths

THREADS = 4 if CUDA else 1


def measure_trl(tiny: bool) -> Iterator[Row]:
    if not TRL_PYTHON.exists():
        raise SystemExit(f"{TRL_PYTHON} is missing: TRL comes into it by `make bench-env`")
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        yield compared_head(tiny, folder)
        yield from compared_update(tiny, folder)
        yield from compared_step(tiny, folder)


def compared_head(tiny: bool, folder: Path) -> Row:
    tokens, width, vocabulary = (64, 32, 500) if tiny else (8192, 1536, 151_936)
    sizes = {"tokens": tokens, "width": width, "vocabulary": vocabulary}
    job = sizes | {"threads": THREADS}
    with Worker(TRL_PYTHON, "benchmarks.trl_head", job, log=folder / "trl-head.log") as worker:
        theirs = [worker.step()["seconds"] for _ in range(4)][1:]
    step = head_step(**sizes, operands=BF16 if CUDA else None, trained=True)
    ours = seconds(step, 3)
    return row(
        "head, loss and both gradients", 1000 * ours, "ms", f"TRL {1000 * median(theirs):.3g}"
    )


def settings(tiny: bool, longest: int) -> Namespace:
    return Namespace(
        size="tiny" if tiny else "qwen2-0.5b",
        attention="varlen",
        threads=THREADS,
        group_size=8,
        prompt_tokens=64,
        longest=longest,
    )


def compared_update(tiny: bool, folder: Path) -> Iterator[Row]:
    """Rows of ragged lengths, four of them a micro-batch of TRL's."""
    given = settings(tiny, 32 if tiny else 2048)
    lengths = log_normal_lengths(
        32, median=given.longest / 5, sigma=0.9, shortest=16, longest=given.longest
    )
    job = make_job(given, folder) | {
        "kind": "update",
        "generation": "given",
        "tokens_per_microbatch": 4 * (given.prompt_tokens + given.longest),
    }
    job |= given_rows(job, lengths)
    mine, theirs = compare(job, folder, rows_per_microbatch=4, repeats=3)
    check_same_work(mine, theirs)
    tokens = sum(lengths) + len(lengths) * given.prompt_tokens
    speeds = [tokens / median(column(one, "seconds")) for one in (mine, theirs)]
    yield row(f"{given.size}, update", speeds[0], "tokens/s", f"TRL {speeds[1]:,.0f}")
    peaks = [median(column(one, "peak_bytes")) / 2**30 for one in (mine, theirs)]
    yield row(f"{given.size}, memory of an update", peaks[0], "GiB", f"TRL {peaks[1]:.3g}")


def compared_step(tiny: bool, folder: Path) -> Iterator[Row]:
    """Generation of forced lengths, rewards, update; in ours the push and its canary."""
    given = settings(tiny, 16 if tiny else 1024)
    prompts = 2 if tiny else 16
    digits = random.Random(0)
    job = make_job(given, folder) | {
        "kind": "step",
        "generation": "vllm" if CUDA else "padded",
        "tokens_per_microbatch": 8 * (given.prompt_tokens + given.longest),
        "seeds": "request" if CUDA else "step",
        "lengths": log_normal_lengths(
            prompts * given.group_size,
            median=given.longest / 4,
            sigma=0.6,
            shortest=8,
            longest=given.longest,
        ),
        # The starter's tokenizer has a token for each digit.
        "prompts": [
            "".join(digits.choices("0123456789", k=given.prompt_tokens)) for _ in range(prompts)
        ],
    }
    mine, theirs = compare(job, folder, rows_per_microbatch=8, repeats=3)
    whole = [median(column(one, "seconds")) for one in (mine, theirs)]
    parts = ", ".join(f"{name} {value:.2g}" for name, value in mine[-1]["parts"].items())
    yield row(f"{given.size}, step", whole[0], "s", f"TRL {whole[1]:.3g}; ours: {parts}")
    generation = [
        median(answer["parts"]["generate"] for answer in mine),
        median(column(theirs, "generate_seconds")),
    ]
    yield row(f"{given.size}, generation", generation[0], "s", f"TRL {generation[1]:.3g}")
