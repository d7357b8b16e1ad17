"""python -m benchmarks.growth: how a step's time grows with tokens, prompts, group, vocabulary, tables.

Each axis alone grows 2, 4 and 8 times. The slope on log-log axes is 1 where time is proportional, below 1
because of fixed costs, and above 1 for long responses, since attention is quadratic in a row's length.
"""

import argparse
import os
import tempfile
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from statistics import median

os.environ.setdefault("OMP_NUM_THREADS", "1")  # read when torch is imported

import numpy as np
import torch
from matplotlib.figure import Figure as PlotFigure

from benchmarks.harness import RESULTS, Measurement, in_turn, report
from benchmarks.tables import signal_step
from benchmarks.workload import log_normal_lengths, random_model, scored_groups
from ceeh.callbacks.difficulty import RollingDifficulty
from ceeh.callbacks.optimal_length import OptimalLength
from ceeh.callbacks.signal import SignalCallback
from ceeh.config.objective import Entropy, Objective
from ceeh.config.settings import Model
from ceeh.data.batch import collate
from ceeh.modules.advantages import group_advantages
from ceeh.modules.aggregation import denominator_shares
from ceeh.modules.batching import microbatches
from ceeh.modules.policy import Policy
from ceeh.modules.timing import StepClock
from ceeh.modules.update import UpdateInputs, accumulate_gradients
from ceeh.reporting.style import PALETTE, dress
from ceeh.types import ScoredGroup

TIMES = (1, 2, 4, 8)
TOKENS_PER_MICROBATCH = 2048


@dataclass(frozen=True, slots=True, kw_only=True)
class Size:
    """Of one step: response tokens have a log-normal length around `median_tokens`."""

    prompts: int = 4
    group: int = 8
    median_tokens: int = 40
    vocabulary: int = 2048
    questions: int = 10_000


AXES: dict[str, Callable[[int], Size]] = {
    "tokens, by more prompts": lambda n: Size(prompts=4 * n),
    "tokens, by larger groups": lambda n: Size(group=8 * n),
    "tokens, by longer responses": lambda n: Size(median_tokens=40 * n),
    "vocabulary": lambda n: Size(vocabulary=2048 * n),
    "questions in the tables": lambda n: Size(questions=100_000 * n),
}


class Step:
    """All of a rollout step but the engine: collation, signals, gradients, the optimizer, the tables."""

    def __init__(self, folder: Path, size: Size) -> None:
        path = random_model(folder / f"v{size.vocabulary}", "balanced", vocabulary=size.vocabulary)
        self.policy = Policy(Model(), str(path), temperature=1.0, keep_reference=False)
        self.optimizer = torch.optim.AdamW(self.policy.trainable, lr=1e-5)
        difficulty, shortest = RollingDifficulty(), OptimalLength()
        for number in range(size.questions):
            difficulty.history[f"question-{number}"] = 0.5
            shortest.length[f"question-{number}"] = 0.5
        self.signals: list[SignalCallback] = [difficulty, shortest]
        lengths = log_normal_lengths(
            size.prompts * size.group,
            median=size.median_tokens,
            sigma=0.6,
            shortest=4,
            longest=10 * size.median_tokens,
        )
        self.groups: list[ScoredGroup] = scored_groups(
            lengths,
            group_size=size.group,
            prompt_tokens=16,
            vocabulary=size.vocabulary,
        )
        self.tokens = sum(lengths)

    def __call__(self) -> None:
        batch = collate(self.groups, pad_token_id=0)
        signal_step(self.signals, batch.outcomes)
        advantages = group_advantages(
            batch.scores, batch.group, batch.num_prompts, kind="group_mean", lengths=batch.lengths
        )
        micro = microbatches(batch.totals, torch.arange(len(batch.group)), TOKENS_PER_MICROBATCH)
        shares = denominator_shares(batch.lengths, "token_mean", max_response_tokens=1)
        self.optimizer.zero_grad()
        accumulate_gradients(
            self.policy,
            batch,
            micro,
            UpdateInputs(
                old_logprobs=batch.engine_logprobs,
                advantages=advantages,
                hard=torch.zeros_like(advantages),
                settings=replace(Objective(), kl_coefficient=0.0, entropy=Entropy(method="me")),
                entropy_weights=torch.zeros_like(advantages),
                ea_mask=torch.zeros_like(advantages),
            ),
            denominator=shares.sum().float(),
            backward=lambda loss, last: loss.backward(),
            clock=StepClock(),
        )
        self.optimizer.step()


def slope(times: dict[int, float]) -> float:
    """Of the line through log seconds against log size."""
    x, y = np.log(list(times)), np.log(list(times.values()))
    return float(np.polyfit(x, y, 1)[0])


def plot(measured: dict[str, dict[int, float]]) -> None:
    figure = PlotFigure(figsize=(7, 4.5), layout="constrained", dpi=110)
    axes = figure.add_subplot()
    axes.loglog(TIMES, TIMES, color="#777777", linestyle=":", label="proportional")
    for (name, times), color in zip(measured.items(), PALETTE[1:], strict=False):
        relative = [seconds / times[1] for seconds in times.values()]
        axes.loglog(
            TIMES, relative, marker="o", color=color, label=f"{name}: slope {slope(times):.2f}"
        )
    dress(axes, "How a step grows", "times as long")
    axes.set_xlabel("times as large")
    axes.set_xticks(TIMES, labels=[str(n) for n in TIMES])
    axes.legend(fontsize=8, frameon=False)
    figure.savefig(RESULTS / "growth.png")


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--repeats", type=int, default=5)
    given = parser.parse_args()
    measured: dict[str, dict[int, float]] = {}
    tokens: dict[str, dict[int, int]] = {}
    with tempfile.TemporaryDirectory() as folder:
        for axis, size_of in AXES.items():
            steps = {n: Step(Path(folder), size_of(n)) for n in TIMES}
            seconds = in_turn({str(n): steps[n] for n in TIMES}, repeats=given.repeats)
            measured[axis] = {n: median(seconds[str(n)]) for n in TIMES}
            tokens[axis] = {n: steps[n].tokens for n in TIMES}
            print(f"{axis}: {', '.join(f'{s:.2f} s' for s in measured[axis].values())}", flush=True)
    RESULTS.mkdir(exist_ok=True)
    plot(measured)
    report(
        "growth",
        [
            Measurement(name=f"slope, {axis}", value=slope(times))
            for axis, times in measured.items()
        ],
        settings={"tokens_per_microbatch": TOKENS_PER_MICROBATCH, "repeats": given.repeats},
        details={"seconds": measured, "tokens": tokens},
    )


if __name__ == "__main__":
    main()
