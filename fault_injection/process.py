"""A short run of the starter with the real engine, in a process of its own that a drill may meddle with."""

import gc
import os
import signal
import sys
from collections.abc import Callable
from pathlib import Path

import torch

from ceeh import fit
from ceeh.data.engine.vllm_process import import_vllm, process_kept
from ceeh.runtime.rng import rng_preserved

CONFIG = Path(__file__).parent.parent / "configs" / "ceeh.yaml"
RUN = (
    "ckpt_path=last",
    "rollouts.steps=8",
    "rollouts.prompts_per_step=16",
    "rollouts.completions_per_prompt=4",
    "rollouts.max_response_tokens=64",
    "optimizer.prompts_per_minibatch=8",
    "checkpoints.every_n_steps=2",
    "evaluation.questions=16",
    "evaluation.samples=2",
    "evaluation.split_samples=1",
    "evaluation.bootstrap_draws=100",
    "evaluation.every_n_steps=3",  # with a checkpoint at step 6, without at step 3
    "tracking.rollouts_every_n_steps=1",
    "tracking.mlflow=false",
    "hardware.accelerator=cpu",
    "engine.init_args.kv_cache_gib=0.25",
)


def attempt(
    output: Path, log: Path, *overrides: str, meddle: Callable[[], None] = lambda: None
) -> int:
    """The command once, `meddle` called before it; its exit status, negative for a signal."""
    process = os.fork()
    if process == 0:
        # A shell starts what it puts into the background with Ctrl-C ignored.
        signal.signal(signal.SIGINT, signal.default_int_handler)
        with log.open("a") as file:
            os.dup2(file.fileno(), sys.stdout.fileno())
            os.dup2(file.fileno(), sys.stderr.fileno())
            meddle()
            given = [*RUN, f"output={output}", *overrides]
            sys.argv = ["python -m ceeh.fit", "--config", str(CONFIG), *given]
            status = fit.main()
            sys.stdout.flush()
        os._exit(status)
    return os.waitstatus_to_exitcode(os.waitpid(process, 0)[1])


def import_everything() -> None:
    """What each attempt would import anew, half of its time; nothing is started by it."""
    torch.set_num_threads(1)  # a pool of threads would not outlive a fork
    with rng_preserved(), process_kept():
        vllm = import_vllm()
        assert vllm.LLM
        assert vllm.SamplingParams
    gc.freeze()  # what is shared with the forks stays shared
