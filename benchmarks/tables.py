"""python -m benchmarks.tables: the cost of a million questions for a step, a checkpoint and a resume.

The checkpoint holds the tables and the prompt stream, without the model. Memory is that of the tables after a
resume. `--questions 10000000` takes 8 GB and some minutes, and writes results/tables-10000000.json.
"""

import argparse
import gc
import os
import random
import tempfile
from pathlib import Path
from statistics import median

import torch

from benchmarks.harness import Measurement, report, timed
from ceeh.callbacks.difficulty import RollingDifficulty
from ceeh.callbacks.optimal_length import OptimalLength
from ceeh.callbacks.signal import SignalCallback
from ceeh.data.stream import PromptStream
from ceeh.types import GroupOutcome, Prompt

MB = 1e6
QUESTIONS = 1_000_000


def resident_mb() -> float:
    """Memory of this process now."""
    gc.collect()
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE") / MB


def outcomes(uids: list[str], completions: int, generator: random.Random) -> list[GroupOutcome]:
    return [
        GroupOutcome(
            uid=uid,
            correct=tuple(generator.random() < 0.5 for _ in range(completions)),
            lengths=tuple(generator.randint(10, 4000) for _ in range(completions)),
            finished=(True,) * completions,
        )
        for uid in uids
    ]


def signal_step(signals: list[SignalCallback], seen: list[GroupOutcome]) -> None:
    """What the signals do in one step: read every prompt, observe every group, report metrics."""
    for signal in signals:
        signal.before_step(seen)
        signal.readings([outcome.uid for outcome in seen])
    for signal in signals:
        for outcome in seen:
            signal.observe(outcome)
        signal.metrics()


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--questions", type=int, default=QUESTIONS)
    parser.add_argument("--prompts", type=int, default=512, help="per step")
    parser.add_argument("--completions", type=int, default=12, help="per prompt")
    parser.add_argument("--repeats", type=int, default=9)
    given = parser.parse_args()
    generator = random.Random(0)
    uids = [f"{generator.getrandbits(64):016x}" for _ in range(given.questions)]
    prompts = [Prompt(uid=uid, text="", answer="", token_ids=()) for uid in uids]
    signals: list[SignalCallback] = [RollingDifficulty(), OptimalLength()]
    names = bytearray("\0".join([*uids, ""]).encode())
    values = torch.rand(given.questions, generator=torch.Generator().manual_seed(0)).double()
    state = {"uids": torch.frombuffer(names, dtype=torch.uint8), "values": values}
    before = resident_mb()
    for signal in signals:
        signal.load_state_dict(state | {"rule": "minimum", "recent": {}})
    held = resident_mb() - before

    def stream() -> PromptStream:
        return PromptStream(prompts, seed=0, prompts_per_step=given.prompts)

    began = timed(stream)
    drawn = stream()
    per_step = []
    for _ in range(given.repeats):
        seen = outcomes(generator.sample(uids, given.prompts), given.completions, generator)
        per_step.append(1000 * timed(lambda seen=seen: signal_step(signals, seen)))
    draws = [1000 * timed(drawn.next_step) for _ in range(given.repeats)]
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "tables.ckpt"

        def save() -> None:
            state = {type(signal).__name__: signal.state_dict() for signal in signals}
            torch.save(state | {"stream": drawn.state_dict()}, file)

        def resume() -> None:
            state = torch.load(file, weights_only=True)
            for signal in (RollingDifficulty(), OptimalLength()):
                signal.load_state_dict(state[type(signal).__name__])
            drawn.load_state_dict(state["stream"])

        saves = [timed(save) for _ in range(3)]
        size = file.stat().st_size / MB
        resumes = [timed(resume) for _ in range(3)]
    report(
        "tables" if given.questions == QUESTIONS else f"tables-{given.questions}",
        [
            Measurement(name="read and observe a step", value=median(per_step), unit="ms"),
            Measurement(name="draw a step's prompts", value=median(draws), unit="ms"),
            Measurement(name="checkpoint", value=median(saves), unit="s"),
            Measurement(name="checkpoint's size", value=size, unit="MB"),
            Measurement(name="resume", value=median(resumes), unit="s"),
            Measurement(name="first order of the prompts", value=began, unit="s"),
            Measurement(name="memory of both tables", value=held, unit="MB"),
        ],
        settings=vars(given),
        details={"step": per_step, "checkpoint": saves, "resume": resumes},
    )


if __name__ == "__main__":
    main()
