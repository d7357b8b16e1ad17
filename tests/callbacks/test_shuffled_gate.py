"""ShuffledGate: as many open gates in a step as the histories give, of other questions, and a resume."""

from ceeh.callbacks.difficulty import RollingDifficulty
from ceeh.callbacks.shuffled_gate import CLOSED, OPEN, ShuffledGate

UIDS = [f"q{number}" for number in range(40)]
RIGHT, WRONG = (True, 2), (False, 2)
FIRST = [(uid, [RIGHT, RIGHT]) for uid in UIDS]
SECOND = [(uid, [RIGHT, WRONG] if uid < "q3" else [RIGHT, RIGHT]) for uid in UIDS]


def test_the_gate_is_open_for_as_many_questions_as_their_histories_open_it_for(fit, batch):
    steps = [batch(*FIRST), batch(*SECOND), batch(*SECOND)]
    _, module = fit([ShuffledGate()], steps)
    worse = [uid < "q3" for uid in UIDS]
    assert sum(worse) == 23
    first, second, third = (seen["shuffled_history"] for seen in module.seen)
    assert first == [OPEN] * 40  # no question has a history
    for opened in (second, third):
        assert sorted(opened) == [OPEN] * 17 + [CLOSED] * 23
        assert opened != [CLOSED if each else OPEN for each in worse]
    assert second != third


def test_difficulty_is_that_of_the_rolling_difficulty(fit, batch):
    steps = [batch(*FIRST), batch(*SECOND)]
    (_, control), (_, plain) = fit([ShuffledGate()], steps), fit([RollingDifficulty()], steps)
    for name in RollingDifficulty.writes:
        assert [seen[name] for seen in control.seen] == [seen[name] for seen in plain.seen]


def test_a_resumed_run_draws_the_same_questions(fit, batch, tmp_path):
    def steps() -> list:
        return [batch(*FIRST), batch(*SECOND), batch(*SECOND)]

    _, whole = fit([ShuffledGate()], steps())
    fit([ShuffledGate()], steps(), stop_after=2, checkpoints=tmp_path)
    _, resumed = fit([ShuffledGate()], steps(), checkpoints=tmp_path, resume=True)
    assert resumed.seen == whole.seen[2:]
