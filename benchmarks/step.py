"""python -m benchmarks.step: a whole rollout step, ours against TRL's GRPOTrainer.

Generation, rewards, update and, in ours, the push of the weights with its canary. Both generate the
same number of rows with the same forced lengths: random weights would stop anywhere.
"""

import random
import tempfile
from pathlib import Path

from benchmarks.harness import report, speedup
from benchmarks.update import column, compare, make_job, parse_arguments, sides
from benchmarks.workload import log_normal_lengths

OPTIONS = {
    "--prompts": {"type": int, "default": 8},
    "--seeds": {"choices": ("step", "request"), "default": "step", "help": "ours"},
    "--trl-rows": {"type": int, "default": 8, "help": "TRL's rows per micro-batch"},
    "--generation": {
        "choices": ("padded", "vllm"),
        "default": "padded",
        "help": "TRL's: transformers' generate, or colocated vLLM (a GPU)",
    },
}


def main() -> None:
    given = parse_arguments(__doc__ or "", OPTIONS, size="small", longest=350, repeats=3)
    # exp(0.6 ** 2 / 2) times the median is the mean: 100 tokens.
    lengths = log_normal_lengths(
        given.prompts * given.group_size, median=83.5, sigma=0.6, shortest=16, longest=given.longest
    )
    digits = random.Random(0)
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        job = make_job(given, folder) | {
            "kind": "step",
            "generation": given.generation,
            "tokens_per_microbatch": 1024,
            "seeds": given.seeds,
            "lengths": lengths,
            # The starter's tokenizer has a token for each digit.
            "prompts": [
                "".join(digits.choices("0123456789", k=given.prompt_tokens))
                for _ in range(given.prompts)
            ],
        }
        mine, theirs = compare(
            job, folder, rows_per_microbatch=given.trl_rows, repeats=given.repeats
        )
    generation = [answer["parts"]["generate"] for answer in mine]
    theirs_generation = column(theirs, "generate_seconds")
    report(
        "step",
        [
            speedup("rollout step", column(mine, "seconds"), column(theirs, "seconds")),
            speedup("of which generation", generation, theirs_generation),
            speedup(
                "processor time",
                column(mine, "processor_seconds"),
                column(theirs, "processor_seconds"),
            ),
        ],
        settings=vars(given) | {"lengths": lengths},
        versions=theirs[0]["versions"],
        details=sides(mine, theirs, "seconds", "processor_seconds")
        | {"parts": column(mine, "parts"), "trl_generation": theirs_generation},
    )


if __name__ == "__main__":
    main()
