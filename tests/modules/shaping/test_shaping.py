"""Length rewards: each by hand, by a slow loop, whatever the order of rows; what they read and refuse."""

import math
from dataclasses import replace

import pytest
import torch
from torch import Tensor

from ceeh.config.component import Component
from ceeh.errors import ConfigError
from ceeh.modules.metrics import row_means
from ceeh.modules.shaping.base import NoShaping, Shaping, ShapingInputs
from ceeh.modules.shaping.optimal_length import (
    BudgetPenalty,
    OptimalLengthPenalty,
    not_worse_than_history,
)
from ceeh.modules.shaping.reference_length import (
    AdaptivePenalty,
    HistoryAware,
    LengthPenalty,
    MinMaxLength,
    SampleOptimalLength,
)
from ceeh.modules.shaping.token_limits import LengthLimit, SoftOverlong, TargetLength

NAN = float("nan")


def inputs(
    correct: list[int],
    lengths: list[int],
    group: list[int],
    optimal_length: list[float] | None = None,
    history: list[float] | None = None,
) -> ShapingInputs:
    """Finished responses; signals are NaN where nothing is given."""
    unknown = [NAN] * (max(group) + 1)
    return ShapingInputs(
        scores=torch.tensor(correct).float(),
        correct=torch.tensor(correct).bool(),
        lengths=torch.tensor(lengths),
        finished=torch.ones(len(correct), dtype=torch.bool),
        answered=torch.ones(len(correct), dtype=torch.bool),
        group=torch.tensor(group),
        num_prompts=len(unknown),
        signals={
            "optimal_length": torch.tensor(optimal_length or unknown),
            "accuracy_history": torch.tensor(history or unknown),
        },
        progress=0.0,
    )


def ragged(seed: int, num_prompts: int = 6) -> ShapingInputs:
    generator = torch.Generator().manual_seed(seed)

    def uniform(count: int) -> Tensor:
        return torch.rand(count, generator=generator)

    sizes = torch.randint(1, 9, (num_prompts,), generator=generator)
    group = torch.arange(num_prompts).repeat_interleave(sizes)
    group = group[torch.randperm(len(group), generator=generator)]
    correct = uniform(len(group)) < 0.6
    optimal = torch.where(uniform(num_prompts) < 0.8, 10 + 90 * uniform(num_prompts), torch.nan)
    history = torch.where(uniform(num_prompts) < 0.8, uniform(num_prompts), torch.nan)
    return ShapingInputs(
        scores=torch.where(correct, 1.0, 0.25 * uniform(len(group))),
        correct=correct,
        lengths=torch.randint(1, 400, (len(group),), generator=generator),
        finished=uniform(len(group)) < 0.9,
        answered=correct | (uniform(len(group)) < 0.8),
        group=group,
        num_prompts=num_prompts,
        signals={"optimal_length": optimal, "accuracy_history": history},
        progress=0.0,
    )


def rows(given: ShapingInputs, order: Tensor) -> ShapingInputs:
    names = ("scores", "correct", "lengths", "finished", "answered", "group")
    return replace(given, **{name: getattr(given, name)[order] for name in names})


@pytest.mark.parametrize(
    ("shaping", "given", "expected"),
    [
        # L_x = 100, Acc = 0.75 >= 0.5. 1 - 0.1 * 0; 1 - 0.1 * 50/100; 1 - min(0.9, 0.1 * 11);
        # wrong: 0; below the stored optimum 1 + 0.1 * 20/100 on the second prompt.
        (
            OptimalLengthPenalty(),
            inputs([1, 1, 1, 0, 1], [100, 150, 1200, 500, 80], [0, 0, 0, 0, 1],
                   [100.0, 100.0], [0.5, 1.0]),
            [1.0, 0.95, 0.1, 0.0, 1.02],
        ),
        (OptimalLengthPenalty(), inputs([1, 1], [10, 900], [0, 0]), [1.0, 1.0]),
        # The floor before beta: 1 - 0.1 * 0.5; 1 - 0.1 * 0.9 where the term is -11; below L_x as ever.
        (
            OptimalLengthPenalty(floor_on="unscaled"),
            inputs([1, 1, 1], [150, 1200, 80], [0, 0, 0], [100.0], [0.5]),
            [0.95, 0.91, 1.02],
        ),
        # B = 1.5 * 100. Up to it nothing, below it nothing; 1 - 0.4 * 30 / 150; 1 - 0.4 * 2; at least
        # 1 - 0.9; wrong 0; no budget, no term.
        (
            BudgetPenalty(beta=0.4, kappa=1.5),
            inputs([1, 1, 1, 1, 1, 0, 1], [150, 20, 180, 450, 990, 990, 990], [0] * 6 + [1],
                   [100.0, NAN]),
            [1.0, 1.0, 0.92, 0.2, 0.1, 0.0, 1.0],
        ),
        # Prompt 0: mean 200, std 100 of its correct ones, z = -1 and 1; sigmoid 0.26894 and
        # 0.73106. 1 - 0.2 * 0.26894; 1 - 0.2 * 0.73106. Prompt 1: one response, 1 - 0.2 / 2.
        (
            LengthPenalty(alpha=0.2),
            inputs([1, 1, 0, 1], [100, 300, 900, 70], [0, 0, 0, 1]),
            [0.946212, 0.853788, 0.0, 0.9],
        ),
        # h = 100. Correct: 1 + cos(pi/4); 1 + cos(pi/2); 1 + max(-0.7, cos(3 pi/4) = -0.707); 1 - 0.7.
        # Wrong: min(0, cos(pi/4)); cos(3 pi/4); cos(pi). The second question has no h.
        (
            HistoryAware(),
            inputs([1, 1, 1, 1, 0, 0, 0, 1], [50, 100, 150, 300, 50, 150, 250, 900],
                   [0] * 7 + [1], [100.0, NAN]),
            [1.707107, 1.0, 0.3, 0.3, 0.0, -0.707107, -1.0, 1.0],
        ),
        # SOL = 100: 2; 2 - 0.001 * 50; -0.001 * 20. None correct, mean 50: -0.001 * 10 each.
        (
            SampleOptimalLength(),
            inputs([1, 1, 0, 0, 0], [100, 150, 80, 40, 60], [0, 0, 0, 1, 1]),
            [2.0, 1.95, -0.02, -0.01, -0.01],
        ),
        # beta / N = 0.0025. Three of four correct: 1 - 0.0025 * 0.75 * 100; twice 200; wrong:
        # -0.0025 * 0.75 * 200. None of two: max(0, 1/2): -0.0025 * 0.5 * 40; 0.
        (
            AdaptivePenalty(beta=0.5, max_response_tokens=200),
            inputs([1, 1, 1, 0, 0, 0], [100, 200, 200, 200, 40, 0], [0, 0, 0, 0, 1, 1]),
            [0.8125, 0.625, 0.625, -0.375, -0.05, 0.0],
        ),
        # 100 to 300: s = 0.5, 0.25, 0, -0.5; a wrong one gets no bonus. Equal lengths: s = 0.
        (
            MinMaxLength(weight=0.4),
            inputs([1, 0, 1, 0, 1, 0], [100, 150, 200, 300, 70, 70], [0, 0, 0, 0, 1, 1]),
            [1.2, 0.0, 1.0, -0.2, 1.0, 0.0],
        ),
        # Within the limit, beyond it, wrong, within it but truncated.
        (
            LengthLimit(limits=[64]),
            replace(inputs([1, 1, 0, 1], [64, 65, 10, 64], [0] * 4),
                    finished=torch.tensor([True, True, True, False])),
            [1.0, 0.0, 0.0, 0.0],
        ),
        # 200 with a margin of 40. Correct 1, wrong -1; less 0, (160 - 170) / 40, 1, 1 beyond 200.
        (
            SoftOverlong(margin=40, max_response_tokens=200),
            inputs([1, 1, 0, 0, 0], [160, 170, 160, 200, 230], [0] * 5),
            [1.0, 0.75, -1.0, -2.0, -2.0],
        ),
        # Target 100: correct within it 1 + 0.5, correct beyond it 1, wrong -0.5 however short, no answer -1.
        (
            TargetLength(target_signal="optimal_length"),
            replace(inputs([1, 1, 0, 0], [100, 101, 50, 50], [0] * 4, [100.0]),
                    answered=torch.tensor([True, True, True, False])),
            [1.5, 1.0, -0.5, -1.0],
        ),
    ],
    ids=lambda value: type(value).__name__ if isinstance(value, Shaping) else "",
)  # fmt: skip
def test_literal_case(shaping: Shaping, given: ShapingInputs, expected: list[float]):
    torch.testing.assert_close(shaping(given), torch.tensor(expected))


def reference(shaping: Shaping, given: ShapingInputs) -> list[float]:
    """A python loop over rows, formulas written out."""
    columns = (
        given.group, given.correct, given.lengths, given.scores, given.finished, given.answered
    )  # fmt: skip
    table = list(zip(*map(Tensor.tolist, columns), strict=True))
    return [reference_row(shaping, given, table, row) for row in table]


def reference_row(shaping: Shaping, given: ShapingInputs, table: list, row: tuple) -> float:
    prompt, correct, length, score, finished, answered = row
    every = [tokens for other, _, tokens, *_ in table if other == prompt]
    solved = [tokens for other, right, tokens, *_ in table if other == prompt and right]
    accuracy = len(solved) / len(every)
    optimal = given.signals["optimal_length"][prompt].item()
    if isinstance(shaping, OptimalLengthPenalty):
        worse = accuracy < given.signals["accuracy_history"][prompt].item()
        if correct and not (shaping.gate and worse) and not math.isnan(optimal):
            score += max(-0.9, -0.1 * (length - optimal) / optimal)
    elif isinstance(shaping, LengthPenalty):
        if correct:
            mean = sum(solved) / len(solved)
            std = math.sqrt(sum((n - mean) ** 2 for n in solved) / len(solved))
            z = 0.0 if std == 0 else (length - mean) / std
            score -= 0.4 / (1 + math.exp(-z))
    elif isinstance(shaping, HistoryAware):
        if not math.isnan(optimal):
            value = math.cos(min(math.pi / 2 * length / optimal, math.pi))
            score += max(-0.7, value) if correct else min(0.0, value)
    elif isinstance(shaping, SampleOptimalLength):
        shortest = min(solved) if solved else sum(every) / len(every)
        score = 2 * score - 0.001 * abs(length - shortest)
    elif isinstance(shaping, AdaptivePenalty):
        score -= 0.5 / 400 * max(accuracy, 1 / len(every)) * length
    elif isinstance(shaping, MinMaxLength):
        if max(every) > min(every):
            value = 0.5 - (length - min(every)) / (max(every) - min(every))
            score += 0.4 * (value if correct else min(0.0, value))
    elif isinstance(shaping, LengthLimit):
        score = score if finished and length <= 200 else 0.0
    elif isinstance(shaping, SoftOverlong):
        score = 2 * score - 1 - min(max((length - 300) / 100, 0.0), 1.0)
    elif isinstance(shaping, TargetLength):
        wrong = 0.5 if answered else 1.0
        score = score - wrong * (1 - score) + (0.5 if correct and length <= optimal else 0.0)
    elif isinstance(shaping, BudgetPenalty) and correct and not math.isnan(optimal):
        score -= min(0.9, 0.3 * max(0.0, length / (2 * optimal) - 1))
    return score


SHAPINGS: list[Shaping] = [
    OptimalLengthPenalty(),
    OptimalLengthPenalty(gate=False),
    LengthPenalty(alpha=0.4),
    BudgetPenalty(beta=0.3, kappa=2.0),
    HistoryAware(),
    SampleOptimalLength(),
    AdaptivePenalty(beta=0.5, max_response_tokens=400),
    MinMaxLength(weight=0.4),
    LengthLimit(limits=[200]),
    SoftOverlong(margin=100, max_response_tokens=400),
    TargetLength(target_signal="optimal_length"),
]
each_shaping = pytest.mark.parametrize("shaping", SHAPINGS, ids=lambda each: type(each).__name__)


@pytest.mark.parametrize("seed", range(4))
@each_shaping
def test_agrees_with_a_slow_loop_in_any_row_order(shaping: Shaping, seed: int):
    given = ragged(seed)
    rewards = shaping(given)
    torch.testing.assert_close(rewards, torch.tensor(reference(shaping, given)))
    assert rewards.dtype == torch.float32
    assert (rewards != given.scores).any()
    order = torch.randperm(len(given.group), generator=torch.Generator().manual_seed(0))
    torch.testing.assert_close(shaping(rows(given, order)), rewards[order])


@each_shaping
def test_a_correct_response_is_never_worth_less_for_being_shorter_than_all(shaping: Shaping):
    rewards = shaping(inputs([1, 1, 0], [60, 250, 250], [0, 0, 0], [80.0]))
    assert rewards[0] > rewards[2]
    assert rewards[0] > rewards[1] or isinstance(shaping, SoftOverlong)


def test_the_budgets_coefficient_may_be_a_signal():
    given = inputs([1, 1], [200, 200], [0, 1], [100.0, 100.0])
    given = replace(given, signals=given.signals | {"mine": torch.tensor([0.1, 0.5])})
    rewards = BudgetPenalty(beta_signal="mine")(given)
    torch.testing.assert_close(rewards, torch.tensor([0.9, 0.5]))


@pytest.mark.parametrize(
    ("history", "expected", "strict"),
    [(0.4, 0.9, 0.9), (0.5, 0.9, 1.0), (0.6, 1.0, 1.0), (NAN, 0.9, 0.9)],
    ids=["better", "equal", "worse", "first-visit"],
)
def test_gate_closes_for_a_prompt_that_is_worse_than_its_history(
    history: float, expected: float, strict: float
):
    # Acc = 1/2. The correct response is 200 long against 100: 1 - 0.1 where the gate is open.
    given = inputs([1, 0], [200, 50], [0, 0], [100.0], [history])
    torch.testing.assert_close(OptimalLengthPenalty()(given), torch.tensor([expected, 0.0]))
    narrow = OptimalLengthPenalty(strict_gate=True)(given)
    torch.testing.assert_close(narrow, torch.tensor([strict, 0.0]))
    ungated = OptimalLengthPenalty(gate=False)(given)
    torch.testing.assert_close(ungated, torch.tensor([0.9, 0.0]))


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_equal_to_its_history_opens_the_gate_for_every_fraction(dtype: torch.dtype):
    fractions = [(solved, size) for size in range(1, 17) for solved in range(size + 1)]
    for solved, size in fractions:
        history = solved / size
        for _ in range(50):
            history = 0.95 * history + 0.05 * (solved / size)
        accuracy = torch.tensor([solved, solved - 1], dtype=torch.float64) / size
        past = torch.tensor([history] * 2, dtype=dtype)
        assert not_worse_than_history(accuracy, past).tolist() == [True, False], (solved, size)
        assert not not_worse_than_history(accuracy, past, strict=True).any(), (solved, size)


def test_gate_and_penalty_are_logged_as_means_over_the_rows_of_all_ranks():
    given = inputs([1, 1, 0, 1], [100, 150, 500, 300], [0, 0, 0, 1], [100.0, 100.0], [0.5, 2.0])
    # Open on the three rows of prompt 0. Correct responses: 0, -0.05 and, behind the gate, 0.
    numbers = OptimalLengthPenalty().metrics(given)
    whole = row_means([numbers])
    assert whole == pytest.approx({"gate_open": 0.75, "length_penalty": -0.05 / 3})
    # Of unequal shares of the rows, the second without a correct response.
    shares = [{name: rows[part] for name, rows in numbers.items()} for part in ([0, 1, 3], [2])]
    assert row_means(shares) == pytest.approx(whole)
    assert math.isnan(row_means(shares[1:])["length_penalty"])


def test_kimi_has_no_length_term_before_its_warm_up_is_over():
    case, shaping = inputs([1, 1], [100, 300], [0, 0]), MinMaxLength(weight=0.4, warmup=0.25)
    torch.testing.assert_close(shaping(replace(case, progress=0.24)), torch.tensor([1.0, 1.0]))
    torch.testing.assert_close(shaping(replace(case, progress=0.25)), torch.tensor([1.2, 0.8]))


def test_limits_tighten_over_equal_shares_of_the_run():
    shaping = LengthLimit(limits=[128, 96, 64])
    limits = [shaping.limit(step / 9) for step in range(9)]
    assert limits == [128, 128, 128, 96, 96, 96, 64, 64, 64]
    assert shaping(replace(inputs([1], [100], [0]), progress=0.4)).tolist() == [0.0]


def test_scores_stay_without_shaping_and_without_a_correct_response():
    given = ragged(11)
    assert torch.equal(NoShaping()(given), given.scores)
    for shaping in SHAPINGS[:3]:
        assert shaping(inputs([0, 0], [5, 9], [0, 0], [7.0], [0.0])).tolist() == [0.0, 0.0]


def test_reads_names_exactly_the_signals_that_are_looked_up():
    given = ragged(0)
    signals = given.signals | {"target_length": given.signals["optimal_length"]}
    for shaping in (NoShaping(), *SHAPINGS, TargetLength()):
        shaping(replace(given, signals={name: signals[name] for name in shaping.reads}))
        for name in shaping.reads:
            with pytest.raises(ValueError, match=f"'{name}', which no callback wrote"):
                shaping(replace(given, signals={n: v for n, v in signals.items() if n != name}))
    renamed = OptimalLengthPenalty(optimal_length_signal="target", history_signal="past")
    assert renamed.reads == ("target", "past")


def test_a_missing_signal_is_named_with_the_cure():
    given = replace(ragged(0), signals={"hard": torch.zeros(6)})
    with pytest.raises(ValueError, match=r"'optimal_length', which no callback wrote.*: hard"):
        OptimalLengthPenalty()(given)


@pytest.mark.parametrize(
    ("name", "arguments", "message"),
    [
        ("OptimalLengthPenalty", {"beta": -0.1}, "beta must be .* got -0.1"),
        ("OptimalLengthPenalty", {"beta": NAN}, "beta must be a finite number"),
        ("OptimalLengthPenalty", {"floor": 1.5}, r"floor must be in \(0, 1\], got 1.5"),
        ("OptimalLengthPenalty", {"gate": "no"}, "gate"),
        ("OptimalLengthPenalty", {"strict_gate": 1}, "strict_gate"),
        ("OptimalLengthPenalty", {"floor_on": "beta"}, "floor_on must be .*scaled, unscaled"),
        ("BudgetPenalty", {"kappa": -1.0}, "kappa must be a finite number"),
        ("LengthPenalty", {"alpha": 1.0}, r"alpha must be in \[0, 1\), got 1.0"),
        ("HistoryAware", {"weight": 1.5}, r"weight must be in \[0, 1\], got 1.5"),
        ("SampleOptimalLength", {"beta": -1.0}, "beta must be a finite number"),
        ("AdaptivePenalty", {"beta": NAN}, "beta must be a finite number"),
        ("AdaptivePenalty", {}, "lacks beta"),
        ("MinMaxLength", {"weight": 2.0}, r"weight must be in \[0, 1\], got 2.0"),
        ("MinMaxLength", {"weight": 0.4, "warmup": 1.0}, r"warmup .* got 1.0"),
        ("LengthLimit", {"limits": []}, r"limits must be one or more .* got \[\]"),
        ("SoftOverlong", {"margin": 300}, r"max_response_tokens \(224\), got 300"),
        ("TargetLength", {"bonus": -0.5}, "bonus must be a finite number"),
    ],
)
def test_arguments_out_of_range_are_refused_at_their_place(
    name: str, arguments: dict, message: str
):
    component = Component(f"ceeh.modules.shaping.{name}", arguments)
    with pytest.raises(ConfigError, match=f"(?s)objective.shaping.*{message}"):
        component.build("objective.shaping", max_response_tokens=224)
