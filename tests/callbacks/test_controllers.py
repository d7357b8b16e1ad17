"""Controllers: their rules by hand, their bounds, their state, and what follows their coefficient."""

import math
import random
from collections.abc import Callable
from dataclasses import replace
from statistics import median

import pytest
import torch

from ceeh.assembly.components import build_callbacks
from ceeh.callbacks.controllers import (
    AnchoredEntropy,
    Controller,
    LengthByAccuracy,
    SkyworkEntropy,
    accuracy_variance,
    step_entropy,
)
from ceeh.config.objective import Entropy
from ceeh.config.settings import load
from ceeh.errors import ConfigError
from ceeh.modules.entropy import entropy_weights
from ceeh.modules.shaping.optimal_length import OptimalLengthPenalty
from ceeh.types import GroupOutcome
from tests.modules.shaping.shaping_inputs import inputs

RIGHT, WRONG = (True, 2), (False, 2)
CONTROLLERS: dict[str, Callable[[], Controller]] = {
    "length": lambda: LengthByAccuracy(start=0.1, rate=0.5, band=0.5, window=2),
    "anchored": lambda: AnchoredEntropy(start=0.01, rate=0.1, fraction=0.5, maximum=0.2),
    "skywork": lambda: SkyworkEntropy(target=0.5, step=0.01),
}


def followed(controller: Controller, steps: list[list[GroupOutcome]]) -> list[float]:
    """The coefficient before the first of these steps and after each."""
    values = [controller.coefficient]
    for outcomes in steps:
        controller.after_step(outcomes, [])
        values.append(controller.coefficient)
    return values


HAND = {"start": 0.1, "rate": 0.2, "slack": 0.125, "band": 0.5, "minimum": 0.0}


def test_the_length_coefficient_follows_accuracy_by_hand(outcome):
    solved = [outcome("a", RIGHT, RIGHT, RIGHT, WRONG)] * 2  # 3/4, equal groups: no standard error
    worse = [outcome("a", RIGHT, WRONG, WRONG, WRONG)] * 2  # 1/4
    # The target is 0.5 - 0.125 = 0.375: e = (0.75 - 0.375) / 0.5 = 0.75; (0.25 - 0.375) / 0.5 = -0.25.
    expected = [0.1, 0.1 * math.exp(0.15), 0.1 * math.exp(0.15 - 0.05)]
    controller = LengthByAccuracy(**HAND, reference=0.5, window=1)
    assert followed(controller, [solved, worse]) == pytest.approx(expected)
    # Over two steps: 0.75, then their mean 0.5: e = 0.75, 0.25, -0.25.
    exponents = [0, 0.15, 0.15 + 0.05, 0.15 + 0.05 - 0.05]
    expected = [0.1 * math.exp(each) for each in exponents]
    controller = LengthByAccuracy(**HAND, reference=0.5, window=2)
    assert followed(controller, [solved, worse, worse]) == pytest.approx(expected)


@pytest.mark.parametrize("start", [0.03, 0.3, 3.0])
def test_one_rate_corrects_a_start_of_any_size(outcome, start):
    """ln(10) / 0.1 = 23 steps of the largest change are a factor of ten, from whatever start."""
    wrong = [[outcome("a", WRONG)]] * 23
    controller = LengthByAccuracy(
        start=start, rate=0.1, band=0.01, minimum=0.001, reference=1.0, maximum=10.0
    )
    assert followed(controller, wrong)[-1] == pytest.approx(start * math.exp(-2.3))


def test_without_a_reference_it_is_the_best_running_mean_after_steps_without_a_penalty(outcome):
    half = [outcome("a", RIGHT, WRONG)] * 2
    solved = [outcome("a", RIGHT, RIGHT)] * 2
    controller = LengthByAccuracy(**HAND | {"slack": 0.25}, window=2, smoothing=0.5)
    applied = []
    for outcomes in (half, half, solved, half, half):
        applied.append(controller.read("a")["length_coefficient"])
        assert controller.metrics() == controller.read("any")
        controller.after_step(outcomes, [])
    # Running means 1/2, 1/2, 3/4, 5/8, 9/16: the reference is 1/2, then 3/4. Acc over two steps is 1/2, 3/4,
    # 3/4, 1/2, of which the first is measured without a penalty: then e = (3/4 - 1/2) / 0.5 = 1/2, 1/2, 0.
    assert controller.best == 0.75
    assert applied == pytest.approx([0, 0, 0.1, 0.1 * math.exp(0.1), 0.1 * math.exp(0.2)])
    assert controller.coefficient == pytest.approx(0.1 * math.exp(0.2))


def test_at_its_minimum_the_penalty_is_not_to_blame_for_a_loss(outcome):
    """Accuracy falls from 1 to 1/2 and stays: the coefficient falls to its minimum, and then returns."""
    half, solved = [outcome("a", RIGHT, WRONG)] * 2, [outcome("a", RIGHT, RIGHT)] * 2
    rule = {"start": 0.1, "minimum": 0.01, "slack": 0.01, "window": 1, "smoothing": 0.5}
    controller = LengthByAccuracy(**rule)
    values = followed(controller, [solved, *[half] * 12])
    assert min(values) == 0.01
    assert values[-1] > 0.01
    assert controller.best < 0.51
    never = LengthByAccuracy(**rule, reference=1.0)
    assert followed(never, [solved, *[half] * 12])[-1] == 0.01


def test_the_length_coefficient_follows_the_probe_where_there_is_one(outcome):
    """What is trained on stays solved, what is not gets worse."""
    controller = LengthByAccuracy(
        start=0.1, rate=0.5, slack=0, band=1.0, minimum=0, reference=1.0, window=1
    )
    probe = [outcome("p", *[RIGHT] * 5, *[WRONG] * 5)] * 4
    # The standard error of four groups of ten is sqrt(4 x 0.25 / 9) / 4 = 1/12.
    controller.after_step([outcome("a", RIGHT, RIGHT)], probe)
    assert controller.coefficient == pytest.approx(0.1 * math.exp(0.5 * (0.5 - (1 - 1 / 12))))


def test_the_variance_of_an_accuracy_is_of_responses_or_of_questions_too(outcome):
    groups = [outcome("a", RIGHT, RIGHT), outcome("b", RIGHT, WRONG), outcome("c", WRONG)]
    # Within groups: 0 / 1, 0.25 / 1; of a single response by the mean 0.5: 0.25. Over 3 questions, squared.
    assert accuracy_variance(groups, same=True) == pytest.approx((0.25 + 0.25) / 9)
    # Of 1, 0.5, 0: the variance 0.25 over three questions.
    assert accuracy_variance(groups, same=False) == pytest.approx(0.25 / 3)
    assert accuracy_variance(groups[:1], same=False) == 0


@pytest.mark.parametrize("samples", [1, 2])
@pytest.mark.parametrize("accuracy", [0.5, 0.7, 0.9, 0.97])
def test_noise_alone_does_not_turn_the_length_penalty_off(outcome, accuracy, samples):
    """64 questions of one difficulty: 60 steps of a policy that does not change."""
    rng, ends = random.Random(0), []

    def probe(accuracy: float) -> list[GroupOutcome]:
        drawn = [[(rng.random() < accuracy, 2) for _ in range(samples)] for _ in range(64)]
        return [outcome(str(n), *rows) for n, rows in enumerate(drawn)]

    for _ in range(9):
        controller = LengthByAccuracy(start=0.03)
        for _ in range(60):
            controller.after_step([], probe(accuracy))
        ends.append(controller.coefficient)
    assert median(ends) > 0.03
    # Fifteen points fewer do.
    lower = [probe(accuracy - 0.15) for _ in range(20)]
    after = []
    for outcomes in lower:
        controller.after_step([], outcomes)
        after.append(controller.coefficient)
    assert min(after) == controller.minimum


@pytest.mark.parametrize(("step", "bound"), [(1.0, 0.3), (-1.0, 0.0)])
def test_a_coefficient_stays_between_zero_and_its_maximum(outcome, step, bound):
    class Steps(Controller):
        def updated(self, outcomes, probe):
            return self.coefficient + step

    assert followed(Steps(start=0.1, maximum=0.3), [[outcome("a", RIGHT)]])[-1] == bound
    relative = LengthByAccuracy(
        start=0.1, rate=9.0, reference=0.5, window=1, minimum=0.05, maximum=0.3
    )
    steps = [[outcome("a", RIGHT)], [outcome("a", WRONG)], [outcome("a", WRONG)]]
    assert followed(relative, steps) == [0.1, 0.3, 0.05, 0.05]


def test_the_entropy_of_a_step_is_over_tokens_and_over_what_was_trained(outcome):
    long = replace(outcome("a", (True, 30), (True, 10)), entropy=1.0, hard=1.0)
    short = replace(outcome("b", (True, 10)), entropy=0.5, hard=0.0)
    dropped = outcome("c", (True, 99))  # no entropy
    assert step_entropy([long, short, dropped]) == pytest.approx((40 * 1.0 + 10 * 0.5) / 50)
    assert step_entropy([long, short, dropped], hard=True) == 1.0
    assert math.isnan(step_entropy([short, dropped], hard=True))
    # Equal groups count each.
    assert step_entropy([short, short, long]) == pytest.approx((20 * 0.5 + 40) / 60)


def test_the_anchored_coefficient_rises_where_hard_questions_lose_entropy(outcome):
    def step(entropy: float, hard: float = 1.0) -> list[GroupOutcome]:
        easy = replace(outcome("e", RIGHT), entropy=9.0, hard=0.0)
        return [replace(outcome("h", RIGHT), entropy=entropy, hard=hard), easy]

    controller = AnchoredEntropy(start=0.1, rate=0.1, fraction=0.5, maximum=0.12)
    # H0 = 2, target 1: e = 1 - 2 = -1; 1 - 0.4 = 0.6; no hard group: 0; 1 - 9, clipped to -1;
    # 1 - -1, clipped to 1, four times, at most 0.12.
    steps = [step(2.0), step(0.4), step(0.4, hard=0.0), step(9.0), *[step(-1.0)] * 4]
    exponents = [0.0, -0.1, -0.04, -0.04, -0.14, -0.04, 0.06, 0.16, 0.26]
    expected = [min(0.1 * math.exp(each), 0.12) for each in exponents]
    assert followed(controller, steps) == pytest.approx(expected)


def test_an_anchor_needs_a_signal_that_marks_hard_questions():
    given = [
        "objective.entropy.method=none",
        "objective.hard_signal=harsh",
        "callbacks.anchor.class_path=ceeh.callbacks.controllers.AnchoredEntropy",
    ]
    with pytest.raises(ConfigError, match="no callback wrote the signal 'harsh'"):
        build_callbacks(load(["configs/ceeh.yaml"], given))


def test_skywork_moves_by_a_step_and_acts_only_below_its_target(outcome):
    controller, readings = SkyworkEntropy(target=0.2, step=0.005, maximum=0.012), []
    for entropy in (0.1, 0.2, 0.15, 0.3, 0.3, 0.1):
        controller.after_step([replace(outcome("a", RIGHT), entropy=entropy)], [])
        readings.append((controller.coefficient, controller.read("a")["entropy_coefficient"]))
    assert [c for c, _ in readings] == pytest.approx([0.005, 0.01, 0.012, 0.007, 0.002, 0.007])
    # Above the target nothing is applied, although c is kept.
    assert [c for _, c in readings] == pytest.approx([0.005, 0.01, 0.012, 0, 0, 0.007])
    assert SkyworkEntropy(start=0.1).read("a") == {"entropy_coefficient": 0.0}  # nothing seen yet


@pytest.mark.parametrize("make", CONTROLLERS.values(), ids=CONTROLLERS)
def test_a_resumed_fit_continues_the_same_sequence(fit, batch, tmp_path, tiny_module, make):
    steps = [
        batch(("a", [RIGHT] * n + [WRONG] * (4 - n)), ("b", [RIGHT] * (4 - n) + [WRONG] * 2))
        for n in (1, 4, 2, 3, 0, 4)
    ]

    def module(first: int):
        """Its entropy falls from step to step, as that of hard questions."""
        fresh = type(tiny_module)()
        entropies = iter([0.9, 0.7, 0.4, 0.2, 0.6, 0.1][first:])
        step = fresh.training_step

        def training_step(*arguments):
            fresh.entropy = next(entropies)
            return step(*arguments)

        fresh.training_step = training_step
        return fresh

    trainer, whole = fit([make()], steps, module=module(0))
    (name,) = make().writes
    assert len({reading[name][0] for reading in whole.seen}) > 1
    assert all(len(set(reading[name])) == 1 for reading in whole.seen)  # one for all questions
    assert f"signal/{name}" in trainer.callback_metrics
    fit([make()], steps, module=module(0), stop_after=3, checkpoints=tmp_path)
    _, resumed = fit([make()], steps, module=module(3), checkpoints=tmp_path, resume=True)
    assert resumed.seen == whole.seen[3:]
    _, fresh = fit([make()], steps[3:], module=module(3))
    assert fresh.seen != resumed.seen, "the state makes no difference"


def test_penalty_and_bonus_follow_the_signals_coefficient(outcome):
    given = inputs([1, 1], [150, 150], [0, 1], [100.0, 100.0])
    given = replace(given, signals=given.signals | {"length_coefficient": torch.tensor([0.4, 0])})
    shaping = OptimalLengthPenalty(beta_signal="length_coefficient")
    # 1 - 0.4 * 50 / 100 = 0.8; 1.
    torch.testing.assert_close(shaping(given), torch.tensor([0.8, 1.0]))
    assert "length_coefficient" in shaping.reads
    weights = entropy_weights(
        torch.tensor([1.0, 0.0]),
        torch.tensor([0.03, 0.03]),
        torch.tensor([4, 4]),
        settings=Entropy(coefficient=7.0),
        anneal=1.0,
    )
    torch.testing.assert_close(weights, torch.tensor([0.15, 0.03]))


def test_a_controller_of_ones_own_is_a_class_with_one_method(fit, batch):
    class ByLength(Controller):
        """Half a unit per step in which the mean response is longer than 3 tokens."""

        writes = ("my_coefficient",)

        def updated(self, outcomes, probe):
            lengths = [length for each in outcomes for length in each.lengths]
            return self.coefficient + (0.5 if sum(lengths) / len(lengths) > 3 else -0.5)

    steps = [batch(("a", [(True, n)])) for n in (9, 9, 2, 9)]
    _, module = fit([ByLength(start=0.0, maximum=0.8)], steps)
    assert [reading["my_coefficient"] for reading in module.seen] == [
        pytest.approx([value]) for value in (0.0, 0.5, 0.8, 0.3)
    ]


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: LengthByAccuracy(start=2.0), "start must be from 0 to maximum, got 2.0"),
        (lambda: LengthByAccuracy(rate=0.0), "rate must be greater than 0, got 0.0"),
        (
            lambda: LengthByAccuracy(minimum=0.2),
            "minimum must be from 0 to start, got 0.2 with start 0.03",
        ),
        (lambda: LengthByAccuracy(reference=98), r"reference must be in \[0, 1\], got 98"),
        (lambda: LengthByAccuracy(reference=math.nan), r"reference must be in \[0, 1\], got nan"),
        (lambda: LengthByAccuracy(window=0), "window must be at least 1, got 0"),
        (lambda: LengthByAccuracy(smoothing=0.0), r"smoothing must be in \(0, 1\], got 0.0"),
        (lambda: LengthByAccuracy(slack=1.0), r"slack must be in \[0, 1\), got 1.0"),
        (lambda: LengthByAccuracy(band=0.0), r"band must be in \(0, 1\], got 0.0"),
        (lambda: LengthByAccuracy(start=0.0), "start must be greater than 0"),
        (lambda: AnchoredEntropy(fraction=0.0), "fraction must be greater than 0"),
        (lambda: SkyworkEntropy(target=-1.0), "target must be greater than 0"),
    ],
)
def test_arguments_out_of_range_are_refused(make, message):
    with pytest.raises(ValueError, match=message):
        make()
