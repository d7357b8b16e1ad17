"""A whole run of two processes that share one engine: the numbers of a run with an engine each."""

from pathlib import Path

import pyarrow.parquet as pq
import pytest
import torch

from tests.runtime.test_distributed import ended_well, two_processes
from tests.test_fit import SMALL, rows, weights

pytestmark = [pytest.mark.engine, pytest.mark.slow]

SETTINGS = (
    *SMALL,
    "engine.class_path=ceeh.data.engine.VLLMEngine",
    "engine.init_args.kv_cache_gib=0.1",
    "rollouts.steps=3",
    "rollouts.prompts_per_step=2",
    # A rank whose question has contrast waits for the other in further rounds.
    "rollouts.dynamic_sampling.max_rounds=3",
    # The second step knows some questions' lengths and shares them out by these.
    "prompts.train.init_args.questions=6",
    # Five for rank 0 and four for rank 1, in batches of at most four.
    "prompts.held_out.init_args.questions=9",
    "evaluation.every_n_steps=2",
    "checkpoints.every_n_steps=3",
    "checkpoints.format=full",
)


@pytest.fixture(scope="module")
def each(tiny_model_dir: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The run with an engine each."""
    return fitted(tiny_model_dir, tmp_path_factory.mktemp("each"), "ddp", tensor_parallel=1)


def fitted(model: Path, output: Path, strategy: str, *, tensor_parallel: int) -> Path:
    given = [f"hardware.strategy={strategy}", f"engine.init_args.tensor_parallel={tensor_parallel}"]
    ended_well(two_processes([*SETTINGS, *given, f"model.path={model}"], output))
    return output / "starter"


def test_a_shared_engine_gives_the_numbers_of_an_engine_each(
    tiny_model_dir: Path, each: Path, tmp_path: Path
) -> None:
    # Sharded too, so that each push gathers what the ranks hold.
    shared = fitted(tiny_model_dir, tmp_path, "fsdp", tensor_parallel=2)
    names = [f"rollouts/step-{step:06d}.parquet" for step in (1, 2, 3)]
    responses = [
        [pq.read_table(folder / name, columns=["uid", "response"]) for name in names]
        for folder in (shared, each)
    ]
    assert responses[0] == responses[1]
    # Equal tokens; log-probs, and what follows from them, differ by fp32's rounding. Measured: metrics by
    # 1.3e-6 (relative), weights by 1.2e-6.
    for one, other in zip(rows(shared), rows(each), strict=True):
        assert one.keys() == other.keys()
        for name in one:
            if name.startswith(("engine/canary", "engine/mismatch")):
                continue  # differences of engine and trainer are rounding themselves
            if other[name] is None:
                assert one[name] is None, name
            else:
                assert one[name] == pytest.approx(other[name], rel=1e-5, abs=1e-6), name
    assert any(row.get("rollout/sampling_rounds", 1) > 1 for row in rows(shared))
    for name, weight in weights(shared).items():
        torch.testing.assert_close(weight, weights(each)[name], rtol=0, atol=1e-5, msg=name)
