"""The datamodule: a rank's share of the probe, and its end."""

import pytest

from ceeh.config.settings import load
from ceeh.data import datamodule
from ceeh.data.datamodule import RolloutDataModule
from ceeh.data.verify.exact_answer import ExactAnswer
from ceeh.types import Prompt
from tests.data.scripted import PROMPTS, Scripted
from tests.groups import make_prompt


@pytest.mark.parametrize(("world_size", "shares"), [(1, [3]), (2, [2, 1]), (4, [1, 1, 1, 0])])
def test_each_rank_answers_its_share_of_the_probe(
    monkeypatch: pytest.MonkeyPatch, world_size: int, shares: list[int]
) -> None:
    found: list[Prompt] = []
    for rank, share in enumerate(shares):
        engine = Scripted()
        module = RolloutDataModule(
            load([], ["rollouts.prompts_per_step=4", "optimizer.prompts_per_minibatch=4"]),
            engine=engine,
            verifier=ExactAnswer(),
            train_prompts=PROMPTS,
            held_out_prompts=PROMPTS,
            probe_prompts=[make_prompt(f"p{number}") for number in range(3)],
            pad_token_id=0,
        )
        monkeypatch.setattr(datamodule, "rank", lambda at=rank: at)
        monkeypatch.setattr(datamodule, "world_size", lambda: world_size)
        prompts, samples = module.train_dataloader().probe
        assert (len(prompts), samples) == (share, 2)
        found += prompts
    assert sorted(prompt.uid for prompt in found) == ["p0", "p1", "p2"]


@pytest.mark.parametrize("end", ["close", "exception"])
def test_the_datamodule_closes_engine_and_verifier_at_every_end(end: str) -> None:
    engine = Scripted()
    module = RolloutDataModule(
        load([]),
        engine=engine,
        verifier=ExactAnswer(),
        train_prompts=PROMPTS,
        held_out_prompts=PROMPTS,
        pad_token_id=0,
    )
    if end == "close":
        module.close()
    else:
        module.on_exception(RuntimeError("out of memory"))
    assert engine.closed == 1
