"""One engine of two ranks: the tokens, log-probs and rows of an engine each."""

import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from tests.data.engine.shared_engine import PROMPTS

pytestmark = [pytest.mark.engine, pytest.mark.slow]

ROOT = Path(__file__).parents[3]


@pytest.fixture(scope="module")
def ranks(tiny_model_dir: Path, tmp_path_factory: pytest.TempPathFactory) -> list[dict]:
    """What each of the two ranks saw."""
    folder = tmp_path_factory.mktemp("ranks")
    launch = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2"]
    done = subprocess.run(
        [*launch, "-m", "tests.data.engine.shared_engine", str(tiny_model_dir), str(folder)],
        capture_output=True,
        text=True,
        cwd=ROOT,
        env=os.environ | {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"},
        timeout=300,  # of a hang
    )
    assert done.returncode == 0, done.stderr[-3000:]
    return [json.loads((folder / f"{rank}.json").read_text()) for rank in (0, 1)]


def test_each_rank_gets_the_rows_of_its_own_prompts(ranks: list[dict]) -> None:
    uids = [prompt.uid for prompt in PROMPTS]
    for rank, seen in enumerate(ranks):
        for rows in (seen["shared"]["first"], seen["shared"]["rows 2"], seen["shared"]["step"]):
            assert list(rows) == uids[rank::2]
            assert all(len(completions) == 4 for completions in rows.values())
    assert [list(seen["shared"]["rank 1 without prompts"]) for seen in ranks] == [["p0", "p1"], []]
    assert [seen["shared"]["no prompts"] for seen in ranks] == [{}, {}]


@pytest.mark.parametrize("when", ["first", "rows 1", "rows 2", "rank 1 without prompts"])
def test_its_tokens_are_those_of_an_engine_each(ranks: list[dict], when: str) -> None:
    # In fp32; its sums come in another order, which changes a token where two nearly tie.
    for seen in ranks:
        assert seen["shared"][when] == seen["each"][when]


def test_its_log_probs_are_the_trainers(ranks: list[dict]) -> None:
    for seen in ranks:
        print(f"largest difference: {seen['shared']['difference']:.1e} nats")
        assert 0 < seen["shared"]["difference"] < 1e-4  # measured: 3e-6


def test_a_push_changes_tokens_and_canary_which_is_one_for_both_ranks(ranks: list[dict]) -> None:
    one, other = (seen["shared"] for seen in ranks)
    for push in (1, 2):
        assert one[f"canary {push}"] == other[f"canary {push}"]
        assert len(one[f"canary {push}"]) == 16
    for seen in (one, other):
        assert seen["canary 1"] != seen["canary 2"]
        assert seen["first"] != seen["rows 1"] != seen["rows 2"]


def test_a_push_holds_the_gathered_tensors_of_one_layer_of_the_engine(ranks: list[dict]) -> None:
    # vLLM loads a layer once it has all of it: here at most gate and up, which are one matrix there, of
    # 96 x 32 floats each, and the one that follows.
    for seen in ranks:
        print(seen["shared"]["gathered"])
        assert seen["shared"]["gathered"]["largest"] == 4 * 96 * 32
        assert seen["shared"]["gathered"]["at once"] <= 3 * 4 * 96 * 32


def test_an_evaluation_samples_every_part_whatever_a_rank_has_of_them(ranks: list[dict]) -> None:
    shared, each = (ranks[0][name]["samples"] for name in ("shared", "each"))
    assert [len(part) for part in shared] == [6, 6, 6, 0, 4]  # the fourth was there
    assert shared == each


def test_a_stop_of_one_rank_ends_both_at_the_same_step(ranks: list[dict]) -> None:
    # The signal comes in step 5; the ranks agree before every eighth.
    assert [seen["stopped"] for seen in ranks] == [[8, signal.SIGTERM]] * 2


def test_it_leaves_no_shared_memory_and_the_trainers_group(ranks: list[dict]) -> None:
    for seen in ranks:
        assert seen["left"] == []
        assert seen["total after shared"] == seen["total after each"] == 2


def test_more_sharers_than_processes_are_refused(ranks: list[dict]) -> None:
    for seen in ranks:
        assert "tensor_parallel is 3, but the number of processes, 2," in seen["three"]
