"""srun's variables become torchrun's; processes that cannot meet end in a sentence."""

import os
import socket

import pytest

from ceeh.errors import RunError
from ceeh.runtime.distributed import join_processes
from ceeh.runtime.slurm import adopt_slurm, tasks_per_node

STEP = {
    "SLURM_STEP_NUM_TASKS": "12",
    "SLURM_STEP_TASKS_PER_NODE": "4(x2),3,1",
    "SLURM_PROCID": "9",
    "SLURM_LOCALID": "1",
    "SLURM_NODEID": "2",
    "SLURM_NODELIST": "gpu[07-10]",
    "SLURM_JOB_ID": "412345",
}
NAMES = ("RANK", "WORLD_SIZE", "LOCAL_RANK", "LOCAL_WORLD_SIZE", "GROUP_RANK")


@pytest.fixture
def environment(monkeypatch: pytest.MonkeyPatch) -> pytest.MonkeyPatch:
    for name in list(os.environ):
        if name.startswith(("SLURM_", "MASTER_", "TORCHELASTIC")) or name in NAMES:
            monkeypatch.delenv(name)
    before = dict(os.environ)
    monkeypatch.setattr(os, "environ", before)  # what adopt_slurm sets goes with it
    return monkeypatch


@pytest.mark.parametrize(
    ("words", "tasks"), [("8", [8]), ("8(x3)", [8, 8, 8]), ("4(x2),3,1", [4, 4, 3, 1])]
)
def test_tasks_per_node_are_read_in_slurms_spelling(words: str, tasks: list[int]) -> None:
    assert tasks_per_node(words) == tasks


def test_a_task_of_srun_gets_what_torchrun_would_set(environment: pytest.MonkeyPatch) -> None:
    os.environ.update(STEP)
    adopt_slurm()
    assert [os.environ[name] for name in NAMES] == ["9", "12", "1", "3", "2"]
    assert os.environ["MASTER_ADDR"] == "gpu07"
    assert os.environ["MASTER_PORT"] == "17345"


@pytest.mark.parametrize("given", [{"RANK": "0"}, {"SLURM_STEP_NUM_TASKS": "1"}])
def test_under_torchrun_or_alone_nothing_changes(
    given: dict[str, str], environment: pytest.MonkeyPatch
) -> None:
    os.environ.update(STEP | given)
    before = dict(os.environ)
    adopt_slurm()
    assert dict(os.environ) == before


@pytest.mark.parametrize(
    ("address", "why"),
    [("127.0.0.1", r"timed? ?out|refused|connect"), ("no-such-host.invalid", "")],
)
def test_processes_that_cannot_meet_end_in_a_sentence(
    address: str, why: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    for name, value in {
        "RANK": "1",
        "WORLD_SIZE": "2",
        "LOCAL_RANK": "1",
        "MASTER_ADDR": address,
        "MASTER_PORT": str(port),
    }.items():
        monkeypatch.setenv(name, value)
    message = (
        rf"rank 1 of 2 cannot meet the other processes at {address}:{port} within 0.02 minutes"
    )
    with pytest.raises(RunError, match=rf"(?i){message}.*{why}.*check that every process"):
        join_processes("cpu", join_minutes=0.02)
