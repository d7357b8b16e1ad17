"""An experiment's command, and a short run of the starter in its own process, where faults are injected."""

import argparse
import gc
import inspect
import json
import os
import shutil
import signal
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch

from ceeh.data.engine.vllm_process import import_vllm, process_kept
from ceeh.fit import main
from ceeh.runtime.rng import rng_preserved
from ceeh.runtime.versions import provenance

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


def run_experiment(
    inject: Callable[..., dict[str, Any]], arguments: Sequence[str] | None = None
) -> int:
    """Runs `inject(work, **options)`; the exit status is 0 if its results have `passed`, else 1.

    The options are the keyword arguments of `inject` with their defaults.
    """
    module = Path(inspect.getfile(inject)).stem
    parser = argparse.ArgumentParser(
        prog=f"python -m fault_injection.{module}", description=inspect.getdoc(inject)
    )
    parser.add_argument("--work", type=Path, default=Path("runs", module), help="emptied first")
    parser.add_argument("--output", type=Path, help="file for the results, JSON")
    options = [p for p in inspect.signature(inject).parameters.values() if p.kind == p.KEYWORD_ONLY]
    for option in options:
        flag = f"--{option.name.replace('_', '-')}"
        help = f"default {option.default}"
        parser.add_argument(flag, type=type(option.default), default=option.default, help=help)
    given = parser.parse_args(arguments)
    shutil.rmtree(given.work, ignore_errors=True)
    given.work.mkdir(parents=True, exist_ok=True)
    begin = time.monotonic()
    results = inject(given.work, **{option.name: getattr(given, option.name) for option in options})
    results |= {"seconds": round(time.monotonic() - begin), "versions": provenance()}
    if given.output:
        given.output.write_text(json.dumps(results, indent=2) + "\n")
    print(json.dumps({name: value for name, value in results.items() if name != "hits"}, indent=1))
    return 0 if results["passed"] else 1


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
            status = main()
            sys.stdout.flush()
        os._exit(status)
    return os.waitstatus_to_exitcode(os.waitpid(process, 0)[1])


def uninterrupted(work: Path, inject: Callable[[], None] = lambda: None) -> Path:
    """The output of a run without faults, the first of an experiment. Raises RuntimeError when it fails.

    Imports what each attempt needs, half of its time, without starting anything.
    """
    torch.set_num_threads(1)  # a pool of threads would not outlive a fork
    with rng_preserved(), process_kept():
        vllm = import_vllm()
        assert vllm.LLM
        assert vllm.SamplingParams
    gc.freeze()  # forks share the imported objects
    if (status := attempt(work / "whole", work / "whole.log", inject=inject)) != 0:
        raise RuntimeError(f"the uninterrupted run ended with {status}; see {work / 'whole.log'}")
    return work / "whole"
