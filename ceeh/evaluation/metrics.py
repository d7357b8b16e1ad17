"""Metrics of a table of samples, each a pure function: accuracy, pass@k, maj@k, tokens, entropy, NAG.

Axes: Q questions, K samples per question, S subsets of the samples, C classes of equal answers.
A metric is a mean over questions (`question_values`) or a ratio of two sums over samples
(`sample_ratios`), so that a bootstrap can resample questions and samples.
"""

import math
from itertools import combinations

import numpy as np

from ceeh.evaluation.samples import SampleTable

MAX_SUBSETS = 512
CHUNK_QUESTIONS = 64  # bounds the memory of counting votes: 64 x 512 x K numbers
TIE = 1e-6
"""Accuracies closer than this are equal: a mean of equal numbers can round up by an ulp, and different
accuracies of a group differ by at least one response."""


def hard_below(mean: float) -> float:
    """The accuracy below which a question is hard, given the mean accuracy; NaN for NaN.

    Questions at the mean are not hard, and a question that was never solved is, whatever the mean.
    """
    return max(mean - TIE, TIE)


def pass_at_k(correct: int, samples: int, k: int) -> float:
    """1 - C(n - c, k) / C(n, k): the chance that k of n samples include a correct one.

    n = `samples`, c = `correct`; the k are drawn without replacement. Unbiased for k fresh samples
    (the plug-in 1 - (1 - c/n)^k is not). Chen et al. 2021, eq. 1, https://arxiv.org/abs/2107.03374.
    Raises ValueError unless 1 <= k <= n and 0 <= c <= n.
    """
    if not 1 <= k <= samples:
        raise ValueError(
            f"pass@k needs 1 <= k <= samples, got k={k} of {samples} samples; draw more"
        )
    if not 0 <= correct <= samples:
        raise ValueError(f"pass@k needs 0 <= correct <= samples, got {correct} of {samples}")
    return 1.0 - math.comb(samples - correct, k) / math.comb(samples, k)


def vote_subsets(samples: int, k: int) -> np.ndarray:
    """Subsets of k out of n samples [S, n], True where chosen: all of them, or MAX_SUBSETS random ones.

    The random seed is (n, k): every question and policy gets the same subsets.
    """
    if math.comb(samples, k) <= MAX_SUBSETS:
        chosen = np.array(list(combinations(range(samples), k)))
    else:
        rng = np.random.default_rng((samples, k))
        chosen = rng.random((MAX_SUBSETS, samples)).argsort(1)[:, :k]
    subsets = np.zeros((len(chosen), samples), dtype=bool)
    np.put_along_axis(subsets, chosen, True, axis=1)
    return subsets


def majority_at_k(answers: np.ndarray, correct: np.ndarray, k: int) -> np.ndarray:
    """maj@k per question [Q]: the chance that the most common answer of k samples is correct.

    `answers` [Q, K] numbers a question's distinct answers from 0, negative for none; `correct` [Q, K].
    Samples without an answer do not vote; without any vote the result is wrong. A tie counts the share
    of correct answers in it. An answer is correct if any response with it was graded correct, because
    grading may time out. Averaged over the `vote_subsets` of k samples. Self-consistency: Wang et al.,
    https://arxiv.org/abs/2203.11171. Raises ValueError unless 1 <= k <= K.
    """
    questions, samples = answers.shape
    if not 1 <= k <= samples:
        raise ValueError(f"maj@k needs 1 <= k <= samples, got k={k} of {samples} samples")
    subsets = vote_subsets(samples, k).astype(np.float32)
    values = np.empty(questions)
    for start in range(0, questions, CHUNK_QUESTIONS):
        rows = slice(start, start + CHUNK_QUESTIONS)
        of_class = answers[rows, :, None] == np.arange(samples)  # [Q, K, C]
        is_correct = (of_class & correct[rows, :, None]).any(1)  # [Q, C]
        votes = np.einsum("sk,qkc->qsc", subsets, of_class.astype(np.float32))
        most = votes.max(2, keepdims=True)
        winners = (votes == most) & (most > 0)
        share = (winners & is_correct[:, None]).sum(2) / np.maximum(winners.sum(2), 1)
        values[rows] = share.mean(1)
    return values


def nag_product(accuracy: float, base_accuracy: float, tokens: float, base_tokens: float) -> float:
    """(1 - Acc / Acc_b) * 100 * sqrt(1 - L / L_b): the form of the paper's main table, in percent.

    Positive where accuracy was lost. NaN where nothing was shortened or the base is never correct.
    https://arxiv.org/abs/2602.22642 prints the quotient and tabulates both.
    """
    if base_accuracy <= 0 or not 0 <= tokens < base_tokens:
        return math.nan
    return (1 - accuracy / base_accuracy) * 100 * math.sqrt(1 - tokens / base_tokens)


def nag_quotient(accuracy: float, base_accuracy: float, tokens: float, base_tokens: float) -> float:
    """(1 - Acc / Acc_b) * 100 / sqrt(1 - L / L_b): the paper's printed equation and its ablation.

    Unbounded as L approaches L_b; otherwise like `nag_product`.
    """
    if base_accuracy <= 0 or not 0 <= tokens < base_tokens:
        return math.nan
    return (1 - accuracy / base_accuracy) * 100 / math.sqrt(1 - tokens / base_tokens)


def majority_sizes(samples: int) -> list[int]:
    """The reported k of maj@k: powers of two below K, and K."""
    return [2**power for power in range(samples.bit_length()) if 2**power < samples] + [samples]


def sample_ratios(table: SampleTable) -> dict[str, tuple[np.ndarray, np.ndarray]]:
    """Metrics that are a ratio of two sums over samples: name -> (numerator, denominator) [Q, K].

    accuracy (avg@K), tokens of all, correct, wrong and truncated responses, and the truncated share.
    """
    correct, finished, lengths = (
        column.double().numpy() for column in (table.correct, table.finished, table.lengths)
    )
    one = np.ones_like(lengths)
    return {
        "accuracy": (correct, one),
        "tokens": (lengths, one),
        "tokens_correct": (lengths * correct, correct),
        "tokens_wrong": (lengths * (1 - correct), 1 - correct),
        "tokens_truncated": (lengths * (1 - finished), 1 - finished),
        "truncated_fraction": (1 - finished, one),
    }


def question_values(table: SampleTable) -> dict[str, np.ndarray]:
    """Metrics that are a mean over questions: name -> [Q].

    pass_at_k for k from 1 to K, maj_at_k where answers are known, and entropy: nats per token, with
    equal weight for all tokens of a question.
    """
    num_correct = table.correct.sum(1).numpy()
    samples = table.samples
    values = {}
    for k in range(1, samples + 1):
        chances = np.array([pass_at_k(count, samples, k) for count in range(samples + 1)])
        values[f"pass_at_{k}"] = chances[num_correct]
    if bool((table.answers >= 0).any()):
        answers, correct = table.answers.numpy(), table.correct.numpy()
        for k in majority_sizes(samples):
            values[f"maj_at_{k}"] = majority_at_k(answers, correct, k)
    lengths = table.lengths.double().numpy()
    weights = lengths / np.maximum(lengths.sum(1, keepdims=True), 1)
    values["entropy"] = (table.entropy.double().numpy() * weights).sum(1)
    return values


def logged_values(table: SampleTable) -> dict[str, np.ndarray]:
    """Values by name, of which an evaluation during training logs the means: [Q], or [Q, K] where equal.

    pass_at_k is there for each k up to K, so that evaluations of several K share one.
    """
    ratios = sample_ratios(table)
    names = ("accuracy", "tokens", "truncated_fraction")
    return {name: ratios[name][0] for name in names} | question_values(table)
