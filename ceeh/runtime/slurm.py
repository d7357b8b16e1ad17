"""SLURM: the variables of a step that `srun` started, as torchrun would set them."""

import os
import re


def adopt_slurm() -> None:
    """In a step of several tasks that `srun` started, sets the variables that torchrun sets.

    So both ways of starting the processes look the same from here on, to Lightning and vLLM too.
    """
    if "RANK" in os.environ or int(os.environ.get("SLURM_STEP_NUM_TASKS", "1")) == 1:
        return
    from lightning.fabric.plugins.environments.slurm import SLURMEnvironment  # seconds, here alone

    node, job = int(os.environ["SLURM_NODEID"]), int(os.environ["SLURM_JOB_ID"])
    first_node = SLURMEnvironment.resolve_root_node_address(os.environ["SLURM_NODELIST"])
    os.environ |= {
        "RANK": os.environ["SLURM_PROCID"],
        "WORLD_SIZE": os.environ["SLURM_STEP_NUM_TASKS"],
        "LOCAL_RANK": os.environ["SLURM_LOCALID"],
        "LOCAL_WORLD_SIZE": str(tasks_per_node(os.environ["SLURM_STEP_TASKS_PER_NODE"])[node]),
        "GROUP_RANK": str(node),
        "MASTER_ADDR": first_node,
        "MASTER_PORT": str(15000 + job % 10000),  # two jobs may share a node
        "TORCHELASTIC_RUN_ID": str(job),
    }


def tasks_per_node(words: str) -> list[int]:
    """SLURM's spelling: `8(x2),4` is eight tasks on each of two nodes and four on the third."""
    found = re.findall(r"(\d+)(?:\(x(\d+)\))?", words)
    return [int(count) for count, times in found for _ in range(int(times or 1))]
