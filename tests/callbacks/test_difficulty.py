"""RollingDifficulty: the asymmetric history, the moving threshold, first readings, resume, size."""

import math
import sys
from collections.abc import Callable

import pytest
import torch

from ceeh.callbacks.difficulty import RollingDifficulty

RIGHT, WRONG = (True, 2), (False, 2)


def test_history_rises_by_a_fifth_and_falls_by_a_twentieth(outcome):
    signal = RollingDifficulty()
    readings = []
    for rows in ([RIGHT, WRONG], [RIGHT, RIGHT], [WRONG, WRONG]):
        signal.observe(outcome("a", *rows))
        readings.append(signal.read("a")["accuracy_history"])
    # First 1/2. Then 0.8 * 0.5 + 0.2 * 1 = 0.6. Then 0.95 * 0.6 + 0.05 * 0 = 0.57.
    assert readings == pytest.approx([0.5, 0.6, 0.57])


def test_hard_is_strictly_below_the_mean_of_the_histories(outcome):
    signal = RollingDifficulty()
    for uid, rows in (("a", [WRONG]), ("b", [RIGHT, WRONG]), ("c", [RIGHT])):
        signal.observe(outcome(uid, *rows))
    # Histories 0, 1/2, 1: the mean is 1/2.
    assert [signal.read(uid)["hard"] for uid in "abc"] == [1, 0, 0]
    metrics = signal.metrics()
    shares = {"0_20": 1 / 3, "20_40": 0, "40_60": 1 / 3, "60_80": 0, "80_100": 1 / 3}
    assert metrics == {
        "hard_fraction": 1 / 3,
        "hard_threshold": 0.5,
        "accuracy_history_mean": 0.5,
        "questions_seen": 3,
    } | {f"accuracy_history_{name}": share for name, share in shares.items()}


@pytest.mark.parametrize("solved", [1, 7, 11, 12])
def test_equal_histories_are_not_hard_although_their_mean_rounds_up(outcome, solved):
    signal = RollingDifficulty()
    for number in range(100):
        signal.observe(outcome(f"q{number}", *[RIGHT] * solved, *[WRONG] * (12 - solved)))
    assert signal.read("q0")["hard"] == 0
    assert signal.metrics()["hard_fraction"] == 0


def test_a_question_never_solved_is_hard_even_where_none_is(outcome, fit, batch):
    signal = RollingDifficulty()
    for uid in "ab":
        signal.observe(outcome(uid, WRONG, WRONG))
    assert signal.read("a")["hard"] == 1
    assert signal.metrics()["hard_fraction"] == 1
    _, module = fit([RollingDifficulty()], [batch(("a", [WRONG]), ("b", [WRONG]))])
    assert module.seen[0]["hard"] == [1, 1]


def test_the_threshold_moves_with_the_policy(outcome):
    signal = RollingDifficulty()
    signal.observe(outcome("a", RIGHT, WRONG))
    signal.observe(outcome("b", WRONG))
    assert signal.read("a")["hard"] == 0
    for _ in range(20):  # b: 1 - 0.8^20 = 0.988 > 0.5 = a
        signal.observe(outcome("b", RIGHT))
    assert signal.read("a")["hard"] == 1


def test_histories_match_a_slow_reference_over_random_visits(outcome):
    generator = torch.Generator().manual_seed(0)
    signal, reference = RollingDifficulty(rise=0.3, fall=0.1), {}
    for _ in range(300):
        uid = f"q{int(torch.randint(9, (), generator=generator))}"
        correct = (torch.rand(5, generator=generator) < 0.4).tolist()
        signal.observe(outcome(uid, *((flag, 3) for flag in correct)))
        accuracy = sum(correct) / 5
        if uid not in reference:
            reference[uid] = accuracy
        elif accuracy > reference[uid]:
            reference[uid] = 0.7 * reference[uid] + 0.3 * accuracy
        else:
            reference[uid] = 0.9 * reference[uid] + 0.1 * accuracy
    mean = sum(reference.values()) / len(reference)
    assert len(reference) == 9
    for uid, history in reference.items():
        reading = signal.read(uid)
        assert reading["accuracy_history"] == pytest.approx(history)
        assert reading["hard"] == (history < mean)


def test_a_question_never_seen_has_no_history_and_is_not_hard():
    reading = RollingDifficulty().read("a")
    assert math.isnan(reading["accuracy_history"])
    assert reading["hard"] == 0


def test_the_first_step_reads_each_question_from_its_own_group(fit, batch):
    _, module = fit(
        [RollingDifficulty()], [batch(("a", [RIGHT]), ("b", [RIGHT, WRONG]), ("c", [WRONG]))]
    )
    # Mean of 1, 1/2, 0 is 1/2: c alone is below.
    assert module.seen == [{"accuracy_history": [1, 0.5, 0], "hard": [0, 0, 1]}]


def test_an_unseen_question_is_compared_with_the_mean_of_the_seen_ones(fit, batch):
    first = batch(("a", [RIGHT]), ("b", [RIGHT, WRONG]))
    second = batch(("new", [RIGHT, RIGHT, WRONG]), ("a", [WRONG]))
    _, module = fit([RollingDifficulty()], [first, second])
    # The mean is (1 + 1/2) / 2 = 3/4, without new's 2/3; a counts with its 1, not with today's 0.
    assert module.seen[1]["hard"] == [1, 0]
    assert module.seen[1]["accuracy_history"] == pytest.approx([2 / 3, 1])


def rows_of(solved: int, of: int = 4) -> list[tuple[bool, int]]:
    return [RIGHT] * solved + [WRONG] * (of - solved)


@pytest.mark.parametrize(
    ("arguments", "limit", "hard"),
    [
        # Histories 0, 1/4, 1/2, 1: mean 7/16, median 3/8, lower quartile 3/16.
        ({"threshold": "mean"}, 7 / 16, "ab"),
        ({"threshold": "median"}, 3 / 8, "ab"),
        ({"threshold": "quantile", "level": 0.25}, 3 / 16, "a"),
        ({"threshold": "fixed", "level": 0.75}, 0.75, "abc"),
        ({"threshold": "fixed", "level": 0.2}, 0.2, "a"),
    ],
)
def test_the_threshold_may_be_another_than_the_mean(outcome, arguments, limit, hard):
    signal = RollingDifficulty(**arguments)
    groups = [outcome(uid, *rows_of(n)) for uid, n in zip("abcd", (0, 1, 2, 4), strict=True)]
    signal.before_step(groups)  # the first step: from the step's own groups
    assert signal.threshold == pytest.approx(limit)
    assert [uid for uid in "abcd" if signal.read(uid)["hard"]] == list(hard)
    for group in groups:
        signal.observe(group)
    assert signal.threshold == pytest.approx(limit)
    assert [uid for uid in "abcd" if signal.read(uid)["hard"]] == list(hard)
    assert signal.metrics()["hard_threshold"] == pytest.approx(limit)


@pytest.mark.parametrize(
    ("judged", "hard"),
    [
        # a: 1 then 1/4, history 0.95 * 1 + 0.05 / 4 = 0.9625. b: 1/4 then 3/4, history 0.35.
        ("history", "b"),  # below the mean 0.65625
        ("last_visit", "a"),  # 1/4 and 3/4, mean 1/2
        ("own_group", "c"),  # today's, 3/4, 1 and 0 of c, against 0.65625
    ],
)
def test_the_accuracy_that_decides_may_be_the_last_or_the_own_groups(outcome, judged, hard):
    signal = RollingDifficulty(judged=judged)
    for groups in ((4, 1), (1, 3)):
        for uid, solved in zip("ab", groups, strict=True):
            signal.observe(outcome(uid, *rows_of(solved)))
    signal.before_step([outcome(uid, *rows_of(n)) for uid, n in zip("abc", (3, 4, 0), strict=True)])
    readings = {uid: signal.read(uid) for uid in "abc"}
    assert [uid for uid in "ab" if readings[uid]["hard"]] == [uid for uid in hard if uid != "c"]
    assert readings["c"]["hard"] == 1  # a new question is judged by its own group in any case
    # The gate's history is the same for all.
    assert readings["a"]["accuracy_history"] == pytest.approx(0.9625)


def test_last_visits_are_saved_and_a_checkpoint_without_them_is_refused(fit, batch, tmp_path):
    steps = [batch(("a", rows_of(a)), ("b", rows_of(b))) for a, b in ((4, 1), (1, 3), (2, 2))]
    make = lambda: RollingDifficulty(judged="last_visit")  # noqa: E731
    _, whole = fit([make()], steps)
    fit([make()], steps, stop_after=2, checkpoints=tmp_path)
    _, resumed = fit([make()], steps, checkpoints=tmp_path, resume=True)
    assert resumed.seen == whole.seen[2:]
    assert resumed.seen[0]["hard"] == [1, 0]
    with pytest.raises(ValueError, match="judged is 'last_visit', but the checkpoint"):
        make().load_state_dict(RollingDifficulty().state_dict())


@pytest.mark.parametrize(
    "arguments", [{"rise": 0.0}, {"fall": 1.5}, {"rise": float("nan")}, {"level": 0.0}]
)
def test_a_rate_outside_its_range_is_refused(arguments):
    (name,) = arguments
    with pytest.raises(ValueError, match=rf"{name} must be in \(0, 1\], got"):
        RollingDifficulty(**arguments)


def opcodes(work: Callable[[], None]) -> int:
    """How many Python instructions `work` executes: a measure of time that no clock disturbs."""
    count = 0

    def trace(frame, event, argument):
        nonlocal count
        frame.f_trace_opcodes, frame.f_trace_lines = True, False
        count += event == "opcode"
        return trace

    before = sys.gettrace()
    sys.settrace(trace)
    try:
        work()
    finally:
        sys.settrace(before)
    return count


def test_a_large_table_costs_no_pass_in_python_and_sixty_bytes_a_question(outcome, tmp_path):
    uids = [f"question-{number:07d}" for number in range(200_000)]
    groups = [outcome(uid, *[RIGHT, WRONG] * 6) for uid in uids[:32]]

    def loaded(questions: int) -> RollingDifficulty:
        signal = RollingDifficulty()
        for uid, value in zip(uids[:questions], torch.rand(questions).tolist(), strict=True):
            signal.history[uid] = value
        return signal

    def step(signal: RollingDifficulty) -> None:
        signal.before_step(groups)
        for group in groups:
            signal.read(group.uid)
        for group in groups:
            signal.observe(group)
        signal.metrics()

    signal, small = loaded(200_000), loaded(1_000)
    for table in (signal, small):
        step(table)  # whatever is done once only, such as an import
    assert opcodes(lambda: step(signal)) < 1.2 * opcodes(lambda: step(small)) < 200_000
    torch.save(signal.state_dict(), tmp_path / "table.pt")
    assert (tmp_path / "table.pt").stat().st_size < 60 * 200_000
