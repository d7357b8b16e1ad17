"""ReleasedDifficulty: the released code's records by hand, through a fit and a resume."""

import math

import pytest

from ceeh.callbacks.released_difficulty import ReleasedDifficulty

RIGHT, WRONG = (True, 2), (False, 2)


def test_records_start_at_minus_one_and_are_replaced_until_they_are_above_zero(outcome):
    signal = ReleasedDifficulty(questions=4)
    readings = [signal.record["a"]]
    for rows in ([WRONG], [RIGHT, WRONG], [RIGHT], [WRONG]):
        signal.observe(outcome("a", *rows))
        readings.append(signal.record["a"])
    # -1 (NaN here); 0; replaced by 0.5; 0.8 * 0.5 + 0.2 = 0.6; 0.95 * 0.6 = 0.57.
    assert math.isnan(readings[0])
    assert readings[1:] == pytest.approx([0, 0.5, 0.6, 0.57])


def test_the_mean_counts_the_unseen_at_minus_one_and_nothing_is_hard_at_first(outcome):
    signal = ReleasedDifficulty(questions=4)
    first = [outcome("a", RIGHT), outcome("b", WRONG)]
    signal.before_step(first)
    assert signal.mean == -1
    assert [signal.read(uid)["hard"] for uid in "ab"] == [0, 0]
    for each in first:
        signal.observe(each)
    assert signal.mean == (1 + 0 - 2) / 4
    second = [outcome("c", RIGHT, RIGHT, WRONG), outcome("d", WRONG, RIGHT)]
    for each in second:
        signal.observe(each)
    # (1 + 0 + 2/3 + 1/2) / 4 = 0.5417; Acc of the own group decides, not the record.
    signal.before_step([outcome("a", RIGHT, WRONG), outcome("b", RIGHT)])
    assert [signal.read(uid)["hard"] for uid in "ab"] == [1, 0]
    assert signal.read("a")["accuracy_history"] == 1


def test_the_records_survive_a_resume(fit, batch, tmp_path):
    steps = [batch(("a", [RIGHT] * n + [WRONG] * (3 - n)), ("b", [RIGHT])) for n in (0, 2, 1, 3)]
    make = lambda: ReleasedDifficulty(questions=3)  # noqa: E731
    _, whole = fit([make()], steps)
    fit([make()], steps, stop_after=2, checkpoints=tmp_path)
    _, resumed = fit([make()], steps, checkpoints=tmp_path, resume=True)
    assert str(resumed.seen) == str(whole.seen[2:])


def test_a_training_set_larger_than_declared_is_named(outcome):
    signal = ReleasedDifficulty(questions=1)
    signal.observe(outcome("a", RIGHT))
    with pytest.raises(ValueError, match="questions is 1, but 2 were seen"):
        signal.observe(outcome("b", RIGHT))
