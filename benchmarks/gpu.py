"""python -m benchmarks.gpu [PART ...]: what one GPU does, each part in its own process and time limit.

agreement      engine against trainer at 1.5B shapes, step by step; first, for the open fault of docs/gpu.md
head           loss and gradients of the chunked head, and their error against float64
update-1.5b    tokens per second, MFU and host waits of an optimizer step: all weights, LoRA, and LoRA on
               rows without padding
update-7b      the same with LoRA on a bf16 base, without padding
engine         rollouts against vLLM alone, a push against a copy, a cycle of sleep

Prints a table and writes results/gpu.json; a part that fails or runs out of time costs no other. Less than
eight minutes on an H100. `--tiny` runs the same code in seconds, also on a CPU.
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
import warnings
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from statistics import median
from typing import Any

import torch
from torch import Tensor

from benchmarks.agreement import agreement
from benchmarks.harness import RESULTS, machine
from benchmarks.workload import random_config, random_model
from ceeh.config.settings import LoRA, Model, Objective, Optimizer
from ceeh.data.batch import RolloutBatch
from ceeh.data.engine.base import Sampling
from ceeh.data.engine.vllm_engine import VLLMEngine
from ceeh.modules import policy as policy_module
from ceeh.modules.batching import microbatches, padding_fraction
from ceeh.modules.flops import utilization
from ceeh.modules.head import chunked_logprobs_and_entropy, chunked_objective
from ceeh.modules.policy import Policy
from ceeh.modules.schedule import build_optimizer
from ceeh.modules.timing import StepClock
from ceeh.modules.update import UpdateInputs, accumulate_gradients
from ceeh.runtime.versions import provenance
from ceeh.types import Prompt

Row = dict[str, Any]
"""What was measured: `what`, `value`, `unit`, and `of` for a second number to compare with."""

CUDA = torch.cuda.is_available()
DEVICE = "cuda" if CUDA else "cpu"
BF16 = torch.bfloat16


FULL = Model(gradient_checkpointing=True)
ADAPTER = replace(FULL, lora=LoRA(rank=32))
PACKED = replace(ADAPTER, attention="varlen")


def row(what: str, value: float, unit: str, of: str = "") -> Row:
    return {"what": what, "value": value, "unit": unit, "of": of}


def synchronize() -> None:
    if CUDA:
        torch.cuda.synchronize()


def seconds(call: Callable[[], object], repeats: int) -> float:
    """Median of `repeats` calls after one that compiles and warms up, the device's work included."""
    found = []
    for _ in range(repeats + 1):
        synchronize()
        begin = time.perf_counter()
        call()
        synchronize()
        found.append(time.perf_counter() - begin)
    return median(found[1:])


def measure_agreement(tiny: bool) -> Iterator[Row]:
    """Eager, then with graphs and sleep mode: `benchmarks.agreement` takes apart what jumps."""
    shape, vocabulary = ("tiny", 2000) if tiny else ("qwen2-1.5b", 151_936)
    steps: tuple[dict[str, bool], ...] = ({}, {"graphs": True, "sleep": True})
    with tempfile.TemporaryDirectory() as folder:
        random_model(Path(folder), shape, vocabulary=vocabulary, dtype=torch.bfloat16)
        policy = Policy(Model(), folder, temperature=1.0, keep_reference=False)
        policy = policy.to(DEVICE).eval()
        for step in steps if CUDA else steps[:1]:
            name = " and ".join(step) or "eager"
            options = {"enforce_eager": not step.get("graphs"), "max_num_seqs": 16}
            sleep = step.get("sleep", False)
            with VLLMEngine(folder, 256, kv_cache_gib=0.5, sleep=sleep, options=options) as engine:
                for weights in ("disk", "push", "push after sleep" if sleep else ""):
                    if weights.startswith("push"):
                        if weights == "push after sleep":
                            engine.sleep()
                        engine.wake()
                        engine.load_weights(policy.engine_weights(), policy_version=0)
                    if weights:
                        found = agreement(policy, engine, DEVICE)
                        others = ", ".join(
                            f"{field} {value:.2g}" for field, value in found._asdict().items()
                        )
                        yield row(f"{shape}, {name}, {weights}", found.engine_bf16, "nats", others)


def measure_head(tiny: bool) -> Iterator[Row]:
    tokens, width, vocabulary = (64, 32, 500) if tiny else (8192, 1536, 151_936)
    torch.manual_seed(0)
    hidden = torch.randn(tokens, width, device=DEVICE, requires_grad=True)
    weight = 0.02 * torch.randn(vocabulary, width, device=DEVICE)
    targets = torch.randint(vocabulary, (tokens,), device=DEVICE)

    def objective(logprobs: Tensor, entropy: Tensor, rows: slice) -> Tensor:
        return logprobs.sum() + 0.01 * entropy.sum()

    for name, operands in (("fp32", None), ("bf16", BF16)):
        for trained in (True, False):
            head = weight.clone() if trained or operands is None else weight.to(operands)
            head.requires_grad_(trained)

            def step(head: Tensor = head, operands: torch.dtype | None = operands) -> None:
                hidden.grad = head.grad = None
                chunked_objective(
                    hidden,
                    head,
                    targets,
                    objective,
                    temperature=1.0,
                    chunk_tokens=2048,
                    operands=operands,
                ).backward()

            part = "loss and both gradients" if trained else "weight frozen"
            yield row(f"{name} operands, {part}", 1000 * seconds(step, 3), "ms")
        some = slice(0, 256)
        given = {"temperature": 1.0, "chunk_tokens": 2048}
        found, _ = chunked_logprobs_and_entropy(
            hidden[some], weight, targets[some], operands=operands, **given
        )
        exact, _ = chunked_logprobs_and_entropy(
            hidden[some].double(), weight.double(), targets[some], **given
        )
        error = (found - exact).abs()
        largest = f"at most {float(error.max()):.1e}"
        yield row(f"{name} operands, log-prob error", float(error.mean()), "nats", largest)


def random_batch(rows: int, prompt: int, longest: int, vocabulary: int) -> RolloutBatch:
    """Rows of random tokens; responses of an eighth of `longest` to all of it, as ragged as real ones."""
    generator = torch.Generator().manual_seed(0)
    lengths = torch.linspace(longest // 8, longest, rows).long()
    places, total = torch.arange(prompt + longest), prompt + lengths
    mask = (places >= prompt) & (places < total[:, None])
    tokens = torch.randint(2, vocabulary, mask.shape, generator=generator)
    return RolloutBatch(
        token_ids=tokens * (places < total[:, None]),
        response_mask=mask,
        engine_logprobs=-11.0 * mask,
        group=torch.arange(rows) // 4,
        scores=torch.zeros(rows),
        correct=torch.zeros(rows).bool(),
        lengths=lengths,
        groups=(),
        policy_version=0,
    ).to(DEVICE)


def made_on_the_device(path: str, *, dtype: torch.dtype, attention: str, **_: Any) -> Any:
    """In place of `load_model`: random weights, without 15 GB of files."""
    from transformers import AutoConfig, AutoModelForCausalLM

    with torch.device(DEVICE):
        return AutoModelForCausalLM.from_config(
            AutoConfig.from_pretrained(path), dtype=dtype, attn_implementation=attention
        )


def measure_update(shape: str, tiny: bool, *settings: Model) -> Iterator[Row]:
    policy_module.load_model = made_on_the_device
    config = random_config(
        "tiny" if tiny else shape, vocabulary=2000 if tiny else 151_936, dtype=torch.bfloat16
    )
    rows, longest, budget = (8, 32, 128) if tiny else (24, 4096, 16_384)
    for given in settings:
        with tempfile.TemporaryDirectory() as folder:
            config.save_pretrained(folder)
            policy = Policy(
                given, folder, temperature=1.0, keep_reference=False, precision="bf16-mixed"
            ).to(DEVICE)
        batch = random_batch(rows, 16, longest, config.vocab_size)
        totals = batch.totals.cpu()
        micro = microbatches(totals, torch.arange(rows), budget, packed=policy.packs)
        inputs = UpdateInputs(
            old_logprobs=batch.engine_logprobs,
            advantages=torch.linspace(-1, 1, rows, device=DEVICE),
            hard=torch.zeros(rows, device=DEVICE),
            settings=Objective(kl_coefficient=0.0),
            entropy_weights=torch.zeros(rows, device=DEVICE),
            ea_mask=torch.zeros(rows, device=DEVICE),
        )
        optimizer = build_optimizer(Optimizer(lr=1e-6), policy.trainable, torch.device(DEVICE))

        def step(
            policy: Policy = policy,
            batch: RolloutBatch = batch,
            micro: Any = micro,
            inputs: UpdateInputs = inputs,
            optimizer: torch.optim.Optimizer = optimizer,
        ) -> None:
            optimizer.zero_grad()
            with torch.autocast(DEVICE, BF16, cache_enabled=False):
                accumulate_gradients(
                    policy,
                    batch,
                    micro,
                    inputs,
                    denominator=batch.lengths.sum().double(),
                    backward=lambda loss, last: loss.backward(),
                    clock=StepClock(),
                )
            torch.nn.utils.clip_grad_norm_(policy.trainable, 1.0)
            optimizer.step()

        rank = given.lora.rank
        name = f"{shape}, {f'LoRA of rank {rank}' if rank else 'all weights'}, {given.attention}"
        used = seconds(step, 2)
        share = utilization(policy, batch.totals, used).get("optimizer/mfu")
        mfu = "" if share is None else f"MFU {share:.1%}, recomputation not counted"
        yield row(f"{name}, update", int(totals.sum()) / used, "tokens/s", mfu)
        yield row(f"{name}, padding", padding_fraction(totals, micro), "of tokens")
        if CUDA:
            peak = torch.cuda.max_memory_allocated() / 2**30
            yield row(f"{name}, memory", peak, "GiB", f"{budget} tokens a micro-batch")
            torch.cuda.set_sync_debug_mode("warn")
            with warnings.catch_warnings(record=True) as caught:
                warnings.simplefilter("always")
                step()
            torch.cuda.set_sync_debug_mode("default")
            waits = sum("synchronizing" in str(each.message) for each in caught)
            yield row(f"{name}, waits", waits, "a step", f"{len(micro)} micro-batches")
            torch.cuda.reset_peak_memory_stats()
        del policy, optimizer, inputs, step


def measure_engine(tiny: bool) -> Iterator[Row]:
    shape, vocabulary = ("tiny", 2000) if tiny else ("qwen2-1.5b", 151_936)
    prompts, completions, tokens = (2, 2, 8) if tiny else (32, 8, 256)
    settings = Model(lora=LoRA(rank=0))
    with tempfile.TemporaryDirectory() as folder:
        random_model(Path(folder), shape, vocabulary=vocabulary, dtype=torch.bfloat16)
        policy = Policy(settings, folder, temperature=1.0, keep_reference=False).to(DEVICE)
        begin = time.perf_counter()
        engine = VLLMEngine(
            folder,
            1024,
            sleep=CUDA,
            kv_cache_gib=8 if CUDA else 0.25,
            options={"max_num_seqs": 256},
        )
        yield row(f"{shape}, engine built", time.perf_counter() - begin, "s")
        with engine:
            size = sum(weight.nbytes for _, weight in policy.engine_weights())
            weights = [weight for _, weight in policy.engine_weights()]
            copies = [torch.empty_like(weight, dtype=BF16) for weight in weights]

            def push() -> None:
                engine.load_weights(policy.engine_weights(), policy_version=0)

            def copy() -> None:
                for target, source in zip(copies, weights, strict=True):
                    target.copy_(source)

            both = seconds(push, 3), seconds(copy, 3)
            per_gb = f"a copy takes {both[1] / size * 1e9:.3f}"
            yield row(f"{shape}, push", both[0] / size * 1e9, "s/GB of fp32", per_gb)
            asked = [
                Prompt(uid=str(i), text="", token_ids=(5 + i, 7, 9), answer="")
                for i in range(prompts)
            ]
            sampling = Sampling(completions=completions, temperature=1.0, max_tokens=tokens)
            params = engine._params(n=completions, temperature=1.0, max_tokens=tokens)
            inputs = [{"prompt_token_ids": list(prompt.token_ids)} for prompt in asked]
            counted: dict[str, int] = {}

            def ours() -> None:
                groups = engine.generate(asked, sampling)
                counted["ours"] = sum(len(c.token_ids) for g in groups for c in g.completions)

            def raw() -> None:
                outputs = engine._live().generate(inputs, params, use_tqdm=False)
                counted["raw"] = sum(len(c.token_ids) for o in outputs for c in o.outputs)

            speed = counted_speed(ours, raw, counted)
            of = f"vLLM alone {speed[1]:,.0f}"
            yield row(f"{shape}, rollouts of {prompts * completions}", speed[0], "tokens/s", of)
            if CUDA:
                del copies

                def cycle() -> None:
                    engine.sleep()
                    engine.wake()
                    push()

                before = torch.cuda.mem_get_info()[0]
                engine.sleep()
                freed = (torch.cuda.mem_get_info()[0] - before) / 2**30
                engine.wake()
                push()
                of = f"{freed:.1f} GiB given back"
                yield row(f"{shape}, sleep, wake and push", seconds(cycle, 2), "s", of)


def counted_speed(
    ours: Callable[[], None], raw: Callable[[], None], counted: dict[str, int]
) -> tuple[float, float]:
    times = seconds(ours, 2), seconds(raw, 2)
    return counted["ours"] / times[0], counted["raw"] / times[1]


PARTS: dict[str, tuple[int, Callable[[bool], Iterator[Row]]]] = {
    "agreement": (145, measure_agreement),
    "head": (40, measure_head),
    "update-1.5b": (90, lambda tiny: measure_update("qwen2-1.5b", tiny, FULL, ADAPTER, PACKED)),
    "update-7b": (75, lambda tiny: measure_update("qwen2-7b", tiny, PACKED)),
    "engine": (125, measure_engine),
}
"""Seconds that a part may take, and what it does."""


def run_part(name: str, limit: int, tiny: bool, folder: Path) -> Row:
    """Runs a part in a process of its own. Its rows survive a failure or the end of its time."""
    log, begin = folder / f"{name}.log", time.perf_counter()
    command = [sys.executable, "-m", "benchmarks.gpu", "--into", str(folder), "--part", name]
    with log.open("w") as output:
        process = subprocess.Popen(
            command + ["--tiny"] * tiny,
            stdout=output,
            stderr=subprocess.STDOUT,
            env=os.environ | {"PYTHONUNBUFFERED": "1"},
        )
        try:
            ended = f"exit status {process.wait(limit)}"
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
            ended = f"stopped after its {limit} s"
    file = folder / f"{name}.jsonl"
    rows = [json.loads(line) for line in file.read_text().splitlines()] if file.exists() else []
    passed = ended == "exit status 0"
    if not passed:
        print(f"{name}: {ended}\n" + "\n".join(log.read_text().splitlines()[-25:]), flush=True)
    return {
        "part": name,
        "ended": "passed" if passed else ended,
        "seconds": round(time.perf_counter() - begin, 1),
        "rows": rows,
    }


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.gpu",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("parts", nargs="*", metavar="PART", help=f"of {', '.join(PARTS)}")
    parser.add_argument("--tiny", action="store_true", help="sizes for a CPU and a test")
    parser.add_argument("--into", type=Path, help="folder of gpu.json and the parts' logs")
    parser.add_argument("--part", help=argparse.SUPPRESS)
    given = parser.parse_args(arguments)
    folder = given.into or RESULTS
    if unknown := set(given.parts) - set(PARTS):
        parser.error(f"no part {', '.join(unknown)}; there are {', '.join(PARTS)}")
    if given.part:
        with (folder / f"{given.part}.jsonl").open("w") as file:
            for measured in PARTS[given.part][1](given.tiny):
                file.write(json.dumps(measured) + "\n")
                file.flush()
        return 0
    with tempfile.TemporaryDirectory() as work:
        found = []
        for name in given.parts or PARTS:
            part = run_part(name, PARTS[name][0], given.tiny, Path(work))
            found.append(part)
            print(f"{name}: {part['ended']}, {part['seconds']} s", flush=True)
            for each in part["rows"]:
                print(f"  {each['what']:46}{each['value']:>12,.4g} {each['unit']:12} {each['of']}")
            # After each part: what was measured is kept if this process is killed.
            content = {
                "benchmark": "gpu",
                "date": time.strftime("%Y-%m-%d"),
                "machine": machine(),
                "versions": provenance(),
                "settings": {"tiny": given.tiny},
                "parts": found,
            }
            folder.mkdir(parents=True, exist_ok=True)
            (folder / "gpu.json").write_text(json.dumps(content, indent=2) + "\n")
    return int(any(part["ended"] != "passed" for part in found))


if __name__ == "__main__":
    sys.exit(main())
