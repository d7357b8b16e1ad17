"""Held-out statistics: pass@k, the table of held-out samples, and its 95 % bootstrap intervals.

Axes: Q questions of a table (P of an update), K samples per question, D bootstrap draws.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, TypedDict

import numpy as np
import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor
from torchmetrics import Metric

CHUNK_SAMPLES = 1_000_000  # samples drawn at once: some 30 MB


class Interval(TypedDict):
    """A figure with its 95 % percentile interval."""

    value: float
    low: float
    high: float


def pass_at_k(correct: int, samples: int, k: int) -> float:
    """1 - C(n - c, k) / C(n, k): the chance that some of k samples, drawn from n, is right.

    n = `samples`, c = `correct`, drawn without replacement. Unbiased for the chance over k
    fresh samples (the plug-in 1 - (1 - c/n)^k is not). Chen et al. 2021, eq. 1,
    https://arxiv.org/abs/2107.03374.
    Raises ValueError unless 1 <= k <= n and 0 <= c <= n.
    """
    if not 1 <= k <= samples:
        raise ValueError(
            f"pass@k needs 1 <= k <= samples, got k={k} of {samples} samples; draw more"
        )
    if not 0 <= correct <= samples:
        raise ValueError(f"pass@k needs 0 <= correct <= samples, got {correct} of {samples}")
    return 1.0 - math.comb(samples - correct, k) / math.comb(samples, k)


@dataclass(frozen=True, slots=True, kw_only=True)
class HeldOutQuestion:
    """The samples of one held-out question; `entropy` is their mean, in nats per token."""

    uid: str
    correct: tuple[bool, ...]
    lengths: tuple[int, ...]
    finished: tuple[bool, ...]
    entropy: float


class HeldOutTable:
    """What one policy did on the held-out questions, rows sorted by question `index`.

    `lengths` in tokens, `entropy` in nats per token. Not a dataclass: torchmetrics takes those
    apart when a metric returns one, squeezes single values and refuses frozen ones.
    """

    __slots__ = ("correct", "entropy", "index", "lengths")

    def __init__(
        self,
        *,
        index: Int[Tensor, " Q"],
        correct: Bool[Tensor, "Q K"],
        lengths: Int[Tensor, "Q K"],
        entropy: Float[Tensor, " Q"],
    ) -> None:
        self.index, self.correct, self.lengths, self.entropy = index, correct, lengths, entropy

    @classmethod
    def of(cls, questions: Sequence[HeldOutQuestion]) -> "HeldOutTable":
        """The table of `questions` in their order. Raises ValueError where sample counts differ."""
        counts = {len(question.correct) for question in questions}
        if len(counts) != 1:
            raise ValueError(f"held-out questions need one number of samples, got {sorted(counts)}")
        return cls(
            index=torch.arange(len(questions)),
            correct=torch.tensor([question.correct for question in questions]),
            lengths=torch.tensor([question.lengths for question in questions]),
            entropy=torch.tensor([question.entropy for question in questions]),
        )


class HeldOutMetric(Metric):
    """Gathers held-out samples over batches and ranks into a `HeldOutTable`.

    A question seen twice (a distributed sampler pads with repeats) counts once, as first seen in
    rank order. Every question has the same number K of samples.
    """

    full_state_update = False
    rows: list[Tensor] | Tensor

    def __init__(self) -> None:
        super().__init__()
        # One flat float32 list of rows [K, index, entropy, correct x K, lengths x K]: a single
        # collective, and a rank without questions joins with torchmetrics' own empty tensor, which
        # is flat and float32 and would fit no other shape or type. Counts below 2^24 are exact.
        self.add_state("rows", default=[], dist_reduce_fx="cat")

    def update(
        self,
        index: Int[Tensor, " P"],
        correct: Bool[Tensor, "P K"],
        lengths: Int[Tensor, "P K"],
        entropy: Float[Tensor, " P"],
    ) -> None:
        """Adds P questions; `index` numbers them within the held-out set."""
        samples = torch.full_like(index, correct.shape[1])
        parts = (torch.stack([samples, index, entropy], 1), correct, lengths)
        assert isinstance(self.rows, list), "states are lists until they are synchronised"
        self.rows.append(torch.cat([part.float() for part in parts], 1).flatten())

    def compute(self) -> HeldOutTable:
        """The table of all questions seen. Raises ValueError when there are none or K differs."""
        rows = torch.cat(self.rows) if isinstance(self.rows, list) and self.rows else self.rows
        if isinstance(rows, list) or not rows.numel():
            raise ValueError("no held-out question was scored; prompts.held_out gave none")
        samples = int(rows[0])
        width = 3 + 2 * samples
        if rows.numel() % width or (rows[::width] != samples).any():
            raise ValueError(
                f"held-out questions need one number of samples, got {samples} and others"
            )
        table = rows.view(-1, width)
        order = torch.argsort(table[:, 1], stable=True)
        index = table[order, 1].long()
        first = torch.ones_like(index, dtype=torch.bool)
        first[1:] = index[1:] != index[:-1]
        table = table[order[first]].cpu()  # whatever device the module is on: it is kept and saved
        return HeldOutTable(
            index=table[:, 1].long(),
            correct=table[:, 3 : 3 + samples].bool(),
            lengths=table[:, 3 + samples :].long(),
            entropy=table[:, 2],
        )


def summarise(
    base: HeldOutTable,
    tuned: HeldOutTable,
    hard: Bool[Tensor, " Q"],
    *,
    k: int,
    draws: int,
    seed: int,
) -> dict[str, Any]:
    """Base against tuned on all, easy and hard questions, every figure with a 95 % interval.

    Returns {"base": {"all": {"accuracy": {"value", "low", "high"}, "tokens", "pass_at_<k>",
    "entropy"}, "easy", "hard"}, "tuned": likewise, "difference": tuned - base, where tokens are
    "tokens_relative", tuned / base - 1, "questions": counts, "samples": K}. Figures of an empty
    subset are None. Accuracy and pass@k in [0, 1], tokens per response, entropy in nats per
    token, the mean over questions.

    Percentile bootstrap over `draws` draws, seeded: questions with replacement, then, for accuracy
    and tokens, samples within each drawn question. Both draws are shared by base and tuned: the
    differences are paired by question. pass@k and entropy are drawn by question alone: a resampled
    group repeats samples, so its pass@k is too low (one right of 8 counts 1 at k = 8, resampled
    1 - (7/8)^8 = 0.66), and drawing questions already carries the noise of their samples.
    Raises ValueError when the tables hold other questions or sample counts, or k > K.
    """
    if not torch.equal(base.index, tuned.index) or base.correct.shape != tuned.correct.shape:
        raise ValueError("base and tuned must hold the same questions, with as many samples each")
    samples = base.correct.shape[1]
    chances = torch.tensor(
        [pass_at_k(correct, samples, k) for correct in range(samples + 1)], dtype=torch.float64
    )
    names = ("accuracy", "tokens", f"pass_at_{k}", "entropy")
    subsets = {"all": torch.ones_like(hard), "easy": ~hard, "hard": hard}
    summary: dict[str, Any] = {"base": {}, "tuned": {}, "difference": {}}
    for subset, chosen in subsets.items():
        rows = [
            (table.correct[chosen], table.lengths[chosen], table.entropy[chosen])
            for table in (base, tuned)
        ]
        sampled = np.stack([_array(column) for row in rows for column in row[:2]], -1)
        solved = [_array(chances[correct.sum(1)]) for correct, _, _ in rows]
        spread = [_array(entropy) for _, _, entropy in rows]
        fixed = np.stack([solved[0], spread[0], solved[1], spread[1]], -1)
        # [1 + D, policy, figure]: the estimate itself, then its draws.
        figures = _estimates(sampled, fixed, draws, np.random.default_rng(seed))
        before, after = figures[:, 0], figures[:, 1]
        change = after - before
        change[:, 1] = after[:, 1] / before[:, 1] - 1
        summary["base"][subset] = _intervals(names, before)
        summary["tuned"][subset] = _intervals(names, after)
        renamed = ("accuracy", "tokens_relative", *names[2:])
        summary["difference"][subset] = _intervals(renamed, change)
    summary["questions"] = {subset: int(chosen.sum()) for subset, chosen in subsets.items()}
    return summary | {"samples": samples}


def _array(values: Tensor) -> np.ndarray:
    return values.detach().cpu().double().numpy()


def _estimates(
    sampled: np.ndarray, fixed: np.ndarray, draws: int, rng: np.random.Generator
) -> np.ndarray:
    """Accuracy, tokens, pass@k, entropy of two policies [1 + D, 2, 4]: the estimate, then D draws.

    `sampled` [Q, K, 4] holds accuracy and tokens of either policy per sample, `fixed` [Q, 4] pass@k
    and entropy of either per question. NaN without questions.
    """
    questions, samples, _ = sampled.shape
    if not questions:
        return np.full((1, 2, 4), math.nan)
    by_sample = sampled.reshape(questions * samples, 4)
    parts = [np.concatenate([by_sample.mean(0), fixed.mean(0)])[None]]
    chunk = max(1, CHUNK_SAMPLES // (questions * samples))
    for start in range(0, draws, chunk):
        count = min(chunk, draws - start)
        question = rng.integers(questions, size=(count, questions))
        sample = rng.integers(samples, size=(count, questions, samples))
        picked = (question[..., None] * samples + sample).reshape(count, -1)
        parts.append(np.concatenate([by_sample[picked].mean(1), fixed[question].mean(1)], -1))
    # columns: figures of samples, of questions; each base, base, tuned, tuned -> policy, figure
    columns = np.concatenate(parts).reshape(-1, 2, 2, 2)
    return columns.transpose(0, 2, 1, 3).reshape(-1, 2, 4)


def _intervals(names: Sequence[str], figures: np.ndarray) -> dict[str, Interval | None]:
    """Each figure's estimate (row 0) and 95 % percentile interval (the rest); None if NaN."""
    low, high = (
        np.percentile(figures[1:], [2.5, 97.5], axis=0) if len(figures) > 1 else figures[[0, 0]]
    )
    return {
        name: None
        if math.isnan(figures[0, i])
        else Interval(value=float(figures[0, i]), low=float(low[i]), high=float(high[i]))
        for i, name in enumerate(names)
    }
