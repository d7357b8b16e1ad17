"""Rollouts against vLLM alone, a push against a copy, a cycle of sleep."""

import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import torch

from benchmarks.gpu.measured import BF16, CUDA, DEVICE, Row, row, seconds
from benchmarks.workload import random_model
from ceeh.config.settings import LoRA, Model
from ceeh.data.engine.base import Sampling
from ceeh.data.engine.vllm_engine import VLLMEngine
from ceeh.modules.policy import Policy
from ceeh.types import Prompt


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
