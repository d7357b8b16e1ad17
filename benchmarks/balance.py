"""python -m benchmarks.balance: how long ranks wait for the slowest one's rollouts, with and without balance.

A simulation with the real stream of prompts. Lengths are log-normal: a question has its own median, and its
responses scatter around it. A rank's engine runs until its longest response ends; each of its steps costs a
fixed time and a time per running response, so that its rollouts take a x longest + b x tokens.
"""

import argparse
import random
from collections.abc import Sequence
from statistics import fmean

from benchmarks.harness import Measurement, report
from ceeh.data.stream import PromptStream
from ceeh.types import Prompt

PER_RESPONSE = {"none": 0.0, "half": 0.5, "all": 1.0}
"""Share of an engine step's time that grows with the number of running responses, when all are running. None:
reading the weights dominates (few responses). All: computing does (many responses, or the CPU)."""


class Responses:
    """Draws the lengths, in tokens, of a question's responses."""

    def __init__(self, given: argparse.Namespace) -> None:
        self.generator = random.Random(given.seed)
        self.completions, self.limit = given.completions, given.limit
        total, between = given.sigma, given.between
        self.within = total * (1 - between) ** 0.5
        draw = self.generator.lognormvariate
        self.medians = [
            draw(0, total * between**0.5) * given.median for _ in range(given.questions)
        ]

    def of(self, question: int) -> list[float]:
        draw = self.generator.lognormvariate
        median = self.medians[question]
        return [min(draw(0, self.within) * median, self.limit) for _ in range(self.completions)]


def rollout_times(shares: Sequence[Sequence[float]], per_response: float) -> list[float]:
    """Of each rank, from its responses' lengths, in steps of an engine whose responses all run."""
    return [(1 - per_response) * max(lengths) + per_response * fmean(lengths) for lengths in shares]


def simulate(given: argparse.Namespace, *, balanced: bool) -> dict[str, tuple[float, float]]:
    """Share of the cost -> (fraction of the ranks' time spent waiting, time of a step), without epoch 1."""
    prompts = [
        Prompt(uid=str(number), text="", answer="", token_ids=())
        for number in range(given.questions)
    ]
    responses = Responses(given)
    stream = PromptStream(
        prompts,
        seed=given.seed,
        prompts_per_step=given.prompts,
        world_size=given.ranks,
        balanced_by=given.minibatch if balanced else None,
    )
    waited: dict[str, list[float]] = {name: [] for name in PER_RESPONSE}
    slowest: dict[str, list[float]] = {name: [] for name in PER_RESPONSE}
    for _ in range(given.epochs * given.questions // given.prompts):
        drawn = [
            [(p.uid, responses.of(int(p.uid))) for p in share] for share in stream.next_shares()
        ]
        stream.observe([(uid, fmean(of)) for share in drawn for uid, of in share])
        if stream.epoch == 0:
            continue
        shares = [[length for _, of in share for length in of] for share in drawn]
        for name, per_response in PER_RESPONSE.items():
            times = rollout_times(shares, per_response)
            waited[name].append(1 - fmean(times) / max(times))
            slowest[name].append(max(times))
    return {name: (fmean(waited[name]), fmean(slowest[name])) for name in PER_RESPONSE}


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--ranks", type=int, default=8)
    parser.add_argument("--questions", type=int, default=4096)
    parser.add_argument("--prompts", type=int, default=128, help="per step, over all ranks")
    parser.add_argument("--minibatch", type=int, default=32, help="prompts that are dealt together")
    parser.add_argument("--completions", type=int, default=12)
    parser.add_argument("--epochs", type=int, default=6)
    parser.add_argument("--median", type=float, default=2000, help="tokens")
    parser.add_argument("--limit", type=float, default=16384, help="tokens")
    parser.add_argument("--sigma", type=float, default=0.8, help="of the logarithm of a length")
    parser.add_argument("--between", type=float, default=0.6, help="share of its variance")
    parser.add_argument("--seed", type=int, default=0)
    given = parser.parse_args()
    plain, balanced = (simulate(given, balanced=balanced) for balanced in (False, True))
    measurements = []
    for name in PER_RESPONSE:
        where = f"cost per response: {name}"
        (waited, seconds), (waited_plain, seconds_plain) = balanced[name], plain[name]
        measurements += [
            Measurement(
                name=f"waiting, {where}",
                value=waited / waited_plain,
                ours=100 * waited,
                reference=100 * waited_plain,
                unit="%",
            ),
            Measurement(name=f"slowest rank's rollouts, {where}", value=seconds / seconds_plain),
        ]
    report("balance", measurements, settings=vars(given))


if __name__ == "__main__":
    main()
