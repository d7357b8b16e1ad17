"""The probe: questions that the same weights answer beside each step, and that are never trained on."""

import time
from typing import Any

from ceeh.types import GroupOutcome
from tests.data.scripted import Scripted, loader, uids
from tests.groups import make_prompt


def test_a_probe_is_answered_by_the_same_weights_and_is_not_among_the_rows() -> None:
    engine, plain = Scripted(), Scripted()
    apart = [make_prompt("u31"), make_prompt("u30")]  # 1 and 0 of 2 responses are correct
    batches = list(loader(engine, 1, steps=2, probe=(apart, 7)))
    without = list(loader(plain, 1, steps=2))
    assert [uids(batch) for batch in batches] == [uids(batch) for batch in without]
    assert engine.asked[::2] == plain.asked, "the probe changes no rollout"
    for batch, (asked, sampling) in zip(batches, engine.asked[1::2], strict=True):
        assert (asked, sampling.completions) == (["u31", "u30"], 7)
        assert [outcome.uid for outcome in batch.probe] == ["u31", "u30"]
        assert [outcome.accuracy for outcome in batch.probe] == [0.5, 0.0]
        assert set(batch.timings) == {"generate", "score", "waiting", "collate", "probe"}
    assert len({sampling.seed for _, sampling in engine.asked}) == 4
    assert without[0].probe == ()


def test_a_rank_without_a_probe_question_makes_the_same_calls_and_gets_the_others_answers() -> None:
    engine, elsewhere = (
        Scripted(),
        GroupOutcome(uid="p", correct=(True,), lengths=(1,), finished=(True,)),
    )

    def gather(own: Any) -> list[Any]:
        time.sleep(0.02)
        return [own, [elsewhere]] if own == [] else [own]

    (batch,) = loader(engine, 1, steps=1, probe=([], 2), gather=gather)
    assert (engine.rounds[1], batch.probe) == ([], (elsewhere,))
    assert batch.timings["waiting"] >= 0.04, "for the slowest rank's rollouts and its probe"


def test_with_dynamic_sampling_the_probe_is_answered_once() -> None:
    engine = Scripted()
    (batch,) = loader(engine, 8, steps=1, probe=([make_prompt("u31")], 2))
    assert len(engine.rounds) == batch.sampling_rounds + 1 > 2
    assert (engine.rounds[-1], len(batch.probe)) == (["u31"], 1)
    assert len(batch.dropped) > 0
