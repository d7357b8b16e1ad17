"""Where a step's time went: the phases add up to it, in a real fit and by hand."""

import gzip
import json
from pathlib import Path

import pytest
import torch

from ceeh.config.settings import LoRA, Model
from ceeh.fit import fit
from ceeh.modules.flops import update_flops
from ceeh.modules.policy import Policy
from ceeh.modules.timing import StepClock
from tests.metric_table import differences
from tests.test_fit import small

pytestmark = pytest.mark.usefixtures("without_figures")

PARTS = (
    "generate", "score", "waiting", "collate", "forward", "backward", "optimizer", "push", "callbacks", "idle"
)  # fmt: skip


@pytest.mark.parametrize(
    ("override", "further"),
    [
        ("seed=0", []),
        ("rollouts.probe.questions=4", ["probe"]),
        ("objective.old_logprobs=trainer", ["old_logprobs"]),
    ],
)
def test_the_phases_of_every_step_add_up_to_it(
    tiny_model_dir: Path, tmp_path: Path, override: str, further: list[str]
) -> None:
    config = small(tiny_model_dir, tmp_path, override)
    folder = fit(config)
    assert differences(folder, "fit", config) == []
    lines = (folder / "metrics.jsonl").read_text().splitlines()
    steps = [row for row in map(json.loads, lines) if "loss/policy" in row]
    assert len(steps) == 4
    for row in steps:
        parts = {name: row[f"time/{name}"] for name in (*PARTS, *further)}
        assert all(seconds >= 0 for seconds in parts.values())
        # What the update does between its phases (shaping, logging) is in none of them but `idle`.
        assert sum(parts.values()) == pytest.approx(row["time/step"], rel=0.02)
        tokens = row["rollout/tokens_mean"] * 12
        assert row["rollout/tokens_total"] == pytest.approx(tokens)
        assert row["time/tokens_per_second"] == pytest.approx(tokens / row["time/step"], rel=0.01)
        assert row["optimizer/tokens_per_second"] > row["time/tokens_per_second"]


def test_phases_of_one_name_add_up_until_they_are_taken() -> None:
    clock = StepClock()
    for _ in range(2):
        with clock.phase("forward"):
            pass
    clock.add("push", 1.5)
    clock.add("push", 0.5)
    seconds = clock.take()
    assert seconds["push"] == 2.0
    assert set(seconds) == {"forward", "push"}
    assert clock.take() == {}


@pytest.mark.parametrize(("rank", "reference"), [(0, False), (0, True), (2, False)])
def test_flops_of_the_tiny_model(tiny_model_dir: Path, rank: int, reference: bool) -> None:
    settings = Model(lora=LoRA(rank=rank))
    policy = Policy(settings, str(tiny_model_dir), temperature=1.0, keep_reference=reference)
    # Width 32, 2 layers, 2 heads of 32, MLP 96, vocabulary 64 tied. Per layer q k v: 3 x 32 x 64,
    # o: 64 x 32, MLP: 3 x 32 x 96; the head 64 x 32.
    frozen = 2 * (4 * 32 * 64 + 3 * 32 * 96) + 64 * 32
    # Adapters of rank 2 add 2 x (inputs + outputs) to each of the seven matrices.
    adapters = 2 * 2 * (4 * (32 + 64) + 3 * (32 + 96)) if rank else 0
    used, trained = frozen + adapters, adapters if rank else frozen
    per_token = (6 if reference else 4) * used + 2 * trained
    # Two rows of 3 and 5 tokens; causal attention 2 layers x 64 wide: 2 x 2 x 64 (9 + 25) a pass.
    attention = (4 if reference else 3) * 2 * 2 * 64 * 34
    assert update_flops(policy, [3, 5]) == 8 * per_token + attention


def test_profile_writes_a_trace_with_the_phases(tiny_model_dir: Path, tmp_path: Path) -> None:
    folder = fit(small(tiny_model_dir, tmp_path, "profile=true", "rollouts.steps=3"))
    with gzip.open(folder / "trace-rank0.json.gz") as file:
        events = json.load(file)["traceEvents"]
    names = [event["name"] for event in events if str(event.get("name")).startswith("ceeh/")]
    # Steps 2 and 3, each of two updates.
    expected = {"ceeh/generate": 2, "ceeh/score": 2, "ceeh/optimizer": 4}
    assert {name: names.count(name) for name in expected} == expected
    assert {"ceeh/forward", "ceeh/backward", "ceeh/push"} <= set(names)


def test_a_run_of_one_step_is_traced(tiny_model_dir: Path, tmp_path: Path) -> None:
    folder = fit(small(tiny_model_dir, tmp_path, "profile=true", "rollouts.steps=1"))
    assert (folder / "trace-rank0.json.gz").stat().st_size > 0
    assert not torch.autograd.profiler._is_profiler_enabled
