"""python -m benchmarks.step: a whole rollout step, ours against TRL's GRPOTrainer.

Generation, rewards, update and, in ours, the push of the weights with its canary. Both generate the
same number of rows with the same forced lengths: random weights would stop anywhere.
"""

import argparse
import random
import sys
import tempfile
from pathlib import Path
from statistics import median
from typing import Any

from benchmarks.harness import Measurement, by_turns, median_ratio, report
from benchmarks.update import column, ours, spent, trl
from benchmarks.workload import SIZES, log_normal_lengths, random_model


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--size", choices=SIZES, default="small")
    parser.add_argument("--prompts", type=int, default=8)
    parser.add_argument("--group-size", type=int, default=8)
    parser.add_argument("--prompt-tokens", type=int, default=64)
    parser.add_argument("--longest", type=int, default=350)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--seeds", choices=("step", "request"), default="step", help="ours")
    parser.add_argument("--trl-rows", type=int, default=8, help="TRL's rows per micro-batch")
    parser.add_argument(
        "--generation",
        choices=("padded", "continuous", "vllm"),
        default="padded",
        help="TRL's: transformers' generate, its continuous batching, or colocated vLLM (a GPU)",
    )
    given = parser.parse_args()
    # exp(0.6 ** 2 / 2) times the median is the mean: 100 tokens.
    lengths = log_normal_lengths(
        given.prompts * given.group_size,
        median=83.5,
        sigma=0.6,
        shortest=16,
        longest=given.longest,
        seed=0,
    )
    digits = random.Random(0)
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        job = {
            "kind": "step",
            "generation": given.generation,
            "model": str(random_model(folder / "model", given.size)),
            "folder": str(folder / "trl"),
            "threads": given.threads,
            "group_size": given.group_size,
            "prompt_tokens": given.prompt_tokens,
            "max_response_tokens": given.longest,
            "tokens_per_microbatch": 1024,
            "seeds": given.seeds,
            "clip_low": 0.2,
            "clip_high": 0.28,
            "lr": 1e-4,
            "max_grad_norm": 1.0,
            "lengths": lengths,
            # The starter's tokenizer has a token for each digit.
            "prompts": [
                "".join(digits.choices("0123456789", k=given.prompt_tokens))
                for _ in range(given.prompts)
            ],
        }
        answers: dict[str, list[dict[str, Any]]] = {"ours": [], "trl": []}
        with (
            ours(job, folder) as mine,
            trl(job, folder, rows_per_microbatch=given.trl_rows) as other,
        ):

            def step(name: str) -> None:
                answer = (mine if name == "ours" else other).step()
                if answer["lengths"] != sorted(lengths):
                    raise RuntimeError(f"{name} did not sample rows of the lengths asked for")
                print(f"{name}: {answer['seconds']:.1f} s", file=sys.stderr)
                answers[name].append(answer)

            by_turns(
                {"ours": lambda: step("ours"), "trl": lambda: step("trl")}, repeats=given.repeats
            )
    measured, reference = answers["ours"][1:], answers["trl"][1:]
    seconds, theirs = column(measured, "seconds"), column(reference, "seconds")
    generate = [answer["parts"]["generate"] for answer in measured]
    theirs_generate = column(reference, "generate_seconds")
    report(
        "step",
        [
            Measurement(
                name="rollout step",
                value=median_ratio(theirs, seconds),
                at_least=4.0,
                ours=median(seconds),
                reference=median(theirs),
                unit="s",
            ),
            Measurement(
                name="of which generation",
                value=median_ratio(theirs_generate, generate),
                ours=median(generate),
                reference=median(theirs_generate),
                unit="s",
            ),
            Measurement(
                name="processor time",
                value=median_ratio(*spent(reference, measured)),
                ours=median(column(measured, "processor_seconds")),
                reference=median(column(reference, "processor_seconds")),
                unit="s",
            ),
        ],
        settings=vars(given) | {"lengths": lengths},
        versions=reference[0]["versions"],
        details={
            "seconds": {"ours": seconds, "trl": theirs},
            "processor_seconds": {
                "ours": column(measured, "processor_seconds"),
                "trl": column(reference, "processor_seconds"),
            },
            "parts": {"ours": column(measured, "parts"), "trl_generation": theirs_generate},
        },
    )


if __name__ == "__main__":
    main()
