"""Length rewards: CEEH's optimal-length penalty, Arora & Zanette's, none."""

import math
from dataclasses import replace

import pytest
import torch
from torch import Tensor

from ceeh.config.component import Component
from ceeh.errors import ConfigError
from ceeh.modules.metrics import row_means
from ceeh.modules.shaping.base import NoShaping, Shaping, ShapingInputs
from ceeh.modules.shaping.optimal_length import OptimalLengthPenalty, not_worse_than_history
from ceeh.modules.shaping.reference_length import LengthPenalty

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
        group=group,
        num_prompts=num_prompts,
        signals={"optimal_length": optimal, "accuracy_history": history},
        progress=0.0,
    )


def rows(given: ShapingInputs, order: Tensor) -> ShapingInputs:
    names = ("scores", "correct", "lengths", "finished", "group")
    return replace(given, **{name: getattr(given, name)[order] for name in names})


def reference(given: ShapingInputs, shaping: Shaping) -> list[float]:
    """A python loop over rows, formulas written out."""
    columns = (given.group, given.correct, given.lengths, given.scores)
    table = list(zip(*map(Tensor.tolist, columns), strict=True))
    rewards = []
    for prompt, correct, length, score in table:
        mates = [right for other, right, *_ in table if other == prompt]
        solved = [tokens for other, right, tokens, _ in table if other == prompt and right]
        optimal = given.signals["optimal_length"][prompt].item()
        history = given.signals["accuracy_history"][prompt].item()
        if isinstance(shaping, OptimalLengthPenalty):
            worse = sum(mates) / len(mates) < history
            if correct and not (shaping.gate and worse) and not math.isnan(optimal):
                score += max(-0.9, -0.1 * (length - optimal) / optimal)
        elif correct:
            mean = sum(solved) / len(solved)
            std = math.sqrt(sum((n - mean) ** 2 for n in solved) / len(solved))
            z = 0.0 if std == 0 else (length - mean) / std
            score -= 0.4 / (1 + math.exp(-z))
        rewards.append(score)
    return rewards


@pytest.mark.parametrize(
    ("shaping", "given", "expected"),
    [
        # L_x = 100, Acc = 0.75 >= 0.5. 1 - 0.1 * 0; 1 - 0.1 * 50/100; 1 - min(0.9, 0.1 * 11);
        # wrong: 0; below the stored optimum 1 + 0.1 * 20/100 on the second prompt.
        pytest.param(
            OptimalLengthPenalty(),
            inputs([1, 1, 1, 0, 1], [100, 150, 1200, 500, 80], [0, 0, 0, 0, 1],
                   [100.0, 100.0], [0.5, 1.0]),
            [1.0, 0.95, 0.1, 0.0, 1.02],
            id="optimal-length",
        ),
        pytest.param(
            OptimalLengthPenalty(), inputs([1, 1], [10, 900], [0, 0]), [1.0, 1.0], id="never-solved"
        ),
        # Prompt 0: mean 200, std 100 of its correct ones, z = -1 and 1; sigmoid 0.26894 and
        # 0.73106. 1 - 0.2 * 0.26894; 1 - 0.2 * 0.73106. Prompt 1: one response, 1 - 0.2 / 2.
        pytest.param(
            LengthPenalty(alpha=0.2),
            inputs([1, 1, 0, 1], [100, 300, 900, 70], [0, 0, 0, 1]),
            [0.946212, 0.853788, 0.0, 0.9],
            id="length-penalty",
        ),
    ],
)  # fmt: skip
def test_literal_case(shaping: Shaping, given: ShapingInputs, expected: list[float]):
    torch.testing.assert_close(shaping(given), torch.tensor(expected))


@pytest.mark.parametrize(
    ("history", "expected"),
    [(0.4, 0.9), (0.5, 0.9), (0.6, 1.0), (NAN, 0.9)],
    ids=["better", "equal", "worse", "first-visit"],
)
def test_gate_spares_a_prompt_that_went_worse_than_its_history(history: float, expected: float):
    # Acc = 1/2. The correct response is 200 long against 100: 1 - 0.1 where the gate is open.
    given = inputs([1, 0], [200, 50], [0, 0], [100.0], [history])
    torch.testing.assert_close(OptimalLengthPenalty()(given), torch.tensor([expected, 0.0]))
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
        is_open = not_worse_than_history(accuracy, torch.tensor([history] * 2, dtype=dtype))
        assert is_open.tolist() == [True, False], (solved, size)


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


SHAPINGS: list[Shaping] = [
    OptimalLengthPenalty(),
    OptimalLengthPenalty(gate=False),
    LengthPenalty(alpha=0.4),
]


@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize("shaping", SHAPINGS)
def test_agrees_with_a_slow_loop_in_any_row_order(shaping: Shaping, seed: int):
    given = ragged(seed)
    rewards = shaping(given)
    torch.testing.assert_close(rewards, torch.tensor(reference(given, shaping)))
    assert rewards.dtype == torch.float32
    assert torch.equal(rewards[~given.correct], given.scores[~given.correct])
    assert (rewards != given.scores).any()
    order = torch.randperm(len(given.group), generator=torch.Generator().manual_seed(0))
    torch.testing.assert_close(shaping(rows(given, order)), rewards[order])


def test_no_shaping_and_nobody_correct_leave_all_scores():
    given = ragged(11)
    assert torch.equal(NoShaping()(given), given.scores)
    for shaping in SHAPINGS:
        assert shaping(inputs([0, 0], [5, 9], [0, 0], [7.0], [0.0])).tolist() == [0.0, 0.0]


def test_reads_names_exactly_the_signals_that_are_looked_up():
    assert NoShaping().reads == LengthPenalty().reads == ()
    assert OptimalLengthPenalty().reads == ("optimal_length", "accuracy_history")
    assert OptimalLengthPenalty(gate=False).reads == ("optimal_length",)
    given = ragged(0)
    renamed = OptimalLengthPenalty(optimal_length_signal="target", history_signal="past")
    assert renamed.reads == ("target", "past")
    signals = {"target": given.signals["optimal_length"], "past": given.signals["accuracy_history"]}
    torch.testing.assert_close(
        renamed(replace(given, signals=signals)), OptimalLengthPenalty()(given)
    )


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
