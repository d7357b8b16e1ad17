"""A short run of the starter with the real engine, in its own process, where an experiment injects faults."""

import argparse
import gc
import json
import os
import shutil
import signal
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

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
    output: Path, log: Path, *overrides: str, inject: Callable[[], None] = lambda: None
) -> int:
    """Runs the command once, after `inject`; returns its exit status, negative for a signal."""
    process = os.fork()
    if process == 0:
        # A shell starts background processes with Ctrl-C ignored.
        signal.signal(signal.SIGINT, signal.default_int_handler)
        with log.open("a") as file:
            os.dup2(file.fileno(), sys.stdout.fileno())
            os.dup2(file.fileno(), sys.stderr.fileno())
            inject()
            given = [*RUN, f"output={output}", *overrides]
            sys.argv = ["python -m ceeh.fit", "--config", str(CONFIG), *given]
            status = fit.main()
            sys.stdout.flush()
        os._exit(status)
    return os.waitstatus_to_exitcode(os.waitpid(process, 0)[1])


def uninterrupted(work: Path, inject: Callable[[], None] = lambda: None) -> Path:
    """The output of a run without faults. Raises RuntimeError when it fails."""
    if (status := attempt(work / "whole", work / "whole.log", inject=inject)) != 0:
        raise RuntimeError(f"the uninterrupted run ended with {status}; see {work / 'whole.log'}")
    return work / "whole"


def command_line(module: str, description: str) -> argparse.ArgumentParser:
    """The options that the experiments share; `module` is their `__name__` as a package path."""
    parser = argparse.ArgumentParser(prog=f"python -m {module}", description=description)
    work = Path("runs", module.rpartition(".")[2])
    parser.add_argument("--work", type=Path, default=work, help="emptied first")
    parser.add_argument("--output", type=Path, help="file for the results, JSON")
    return parser


def prepare(work: Path) -> None:
    """Empties `work` and imports what each attempt needs, half of its time, without starting anything."""
    shutil.rmtree(work, ignore_errors=True)
    work.mkdir(parents=True)
    torch.set_num_threads(1)  # a pool of threads would not outlive a fork
    with rng_preserved(), process_kept():
        vllm = import_vllm()
        assert vllm.LLM
        assert vllm.SamplingParams
    gc.freeze()  # forks share the imported objects


def write_results(results: Mapping[str, Any], output: Path | None) -> None:
    if output:
        output.write_text(json.dumps(results, indent=2) + "\n")
