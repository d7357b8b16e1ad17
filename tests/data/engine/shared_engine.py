"""torchrun ... -m tests.data.engine.shared_engine MODEL FOLDER: what two ranks see, as FOLDER/RANK.json.

First of one engine that they share, then of one each.
"""

import json
import os
import signal
import sys
import weakref
from collections.abc import Iterable, Iterator
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path

import pyarrow.parquet as pq
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from ceeh.data.benchmarks import load_benchmark
from ceeh.data.engine.base import Sampling
from ceeh.data.engine.vllm_engine import VLLMEngine
from ceeh.errors import ConfigError
from ceeh.evaluation.runner import build_task, sample_task
from ceeh.evaluation.store import SampleStore
from ceeh.runtime.distributed import join_processes, rank, wait_for_all
from ceeh.runtime.shutdown import Stopped, signals_honored
from ceeh.types import Prompt
from tests.groups import make_prompt

PROMPTS = [
    make_prompt(f"p{index}", [2 + (7 * index + 3 * place) % 50 for place in range(4 + 5 * index)])
    for index in range(7)
]
SAMPLING = Sampling(completions=4, temperature=0.7, max_tokens=24, seed=3)
BENCHMARK = ("samples=2", "max_response_tokens=24", "expected_questions=null")


class Gathered:
    """Streams copies of weights, as a sharded trainer gathers them; counts the bytes that live at once."""

    def __init__(self, weights: Iterable[tuple[str, torch.Tensor]]) -> None:
        self.weights = weights
        self.alive = self.most = self.largest = 0

    def __iter__(self) -> Iterator[tuple[str, torch.Tensor]]:
        for name, weight in self.weights:
            array = weight.detach().numpy().copy()
            self.alive += array.nbytes
            self.most = max(self.most, self.alive)
            self.largest = max(self.largest, array.nbytes)
            weakref.finalize(array, self.freed, array.nbytes)
            gathered = torch.from_numpy(array)  # its storage keeps the array
            del array
            yield name, gathered
            del gathered

    def freed(self, size: int) -> None:
        self.alive -= size


class Ranks:
    """Both ranks' half of the prompts, with `model` as the trainer's."""

    def __init__(self, engine: VLLMEngine, model: torch.nn.Module, folder: Path) -> None:
        self.engine, self.model, self.folder = engine, model, folder
        self.difference = 0.0
        self.most_gathered: dict[str, int] = {}

    def rows(self, prompts: list[Prompt], seeds: str = "request") -> dict[str, list]:
        """Uid -> tokens of each completion."""
        groups = self.engine.generate(prompts, replace(SAMPLING, seeds=seeds))  # type: ignore[arg-type]
        assert [group.prompt for group in groups] == prompts
        for group in groups:
            for completion in group.completions:
                self.compare(group.prompt.token_ids, completion)
        return {g.prompt.uid: [c.token_ids for c in g.completions] for g in groups}

    @torch.no_grad()
    def compare(self, prompt, completion) -> None:
        """Keeps the largest distance in nats between the engine's log-probs and the model's."""
        ids = torch.tensor([[*prompt, *completion.token_ids]])
        logprobs = (self.model(input_ids=ids).logits[0, :-1] / 0.7).log_softmax(-1)
        expected = logprobs[len(prompt) - 1 :].gather(1, ids[0, len(prompt) :, None])[:, 0]
        found = float((torch.tensor(completion.logprobs) - expected).abs().max())
        self.difference = max(self.difference, found)

    @torch.no_grad()
    def push(self, seed: int) -> None:
        generator = torch.Generator().manual_seed(seed)
        for weight in self.model.parameters():
            noise = torch.randn(weight.shape, generator=generator)
            weight.copy_(0.15 * noise if weight.dim() == 2 else 1 + 0.2 * noise)
        gathered = Gathered(self.model.named_parameters())
        self.engine.load_weights(gathered, policy_version=seed)
        self.most_gathered = {"at once": gathered.most, "largest": gathered.largest}
        assert gathered.alive == 0

    def seen(self) -> dict[str, object]:
        own = PROMPTS[rank() :: 2]
        seen: dict[str, object] = {"first": self.rows(own)}
        for seed in (1, 2):
            self.push(seed)
            prompt, canary = self.engine.canary(temperature=0.7)
            self.compare(prompt, canary)
            seen[f"canary {seed}"] = canary.token_ids
            seen[f"rows {seed}"] = self.rows(own)
        seen["rank 1 without prompts"] = self.rows(PROMPTS[:2] if rank() == 0 else [])
        seen["no prompts"] = self.rows([])
        seen["step"] = self.rows(own, "step")
        seen["samples"] = self.samples()
        seen["difference"] = self.difference
        seen["gathered"] = self.most_gathered
        return seen

    def samples(self) -> list[list]:
        """Of an evaluation: of five parts this rank writes three or two, and one was there before."""
        tokenizer = AutoTokenizer.from_pretrained(sys.argv[1])
        task = build_task("starter", load_benchmark("starter", BENCHMARK), tokenizer, 14)
        store = SampleStore(self.folder)
        if rank() == 0:
            with ExitStack() as held:
                store.open({"starter": {"model": {}}}, held)
            store.write("starter", 3, [])
        wait_for_all()
        sample_task(task, self.engine, store, seed=1, questions_per_batch=3)
        wait_for_all()
        files = sorted((self.folder / "parts" / "starter").glob("*.parquet"))
        task.verifier.close()
        return [pq.read_table(file, columns=["uid", "response"]).to_pylist() for file in files]


def stopped(engine: VLLMEngine) -> list[int]:
    """The engine's steps until a signal to rank 0 alone stops the generation, and the signal."""
    steps, step = [], engine._llm.llm_engine.step

    def counted():
        steps.append(None)
        if len(steps) == 5 and rank() == 0:
            os.kill(os.getpid(), signal.SIGTERM)
        return step()

    engine._llm.llm_engine.step = counted
    try:
        with signals_honored():
            engine.generate(PROMPTS, SAMPLING)
    except Stopped as error:
        return [len(steps), error.number]
    return [len(steps), 0]


def main() -> None:
    join_processes("cpu")
    path, folder = sys.argv[1], Path(sys.argv[2])
    found: dict[str, object] = {}
    try:
        VLLMEngine(path, 320, tensor_parallel=3)
    except ConfigError as error:
        found["three"] = str(error)
    for name, number in (("shared", 2), ("each", 1)):
        model = AutoModelForCausalLM.from_pretrained(path, dtype=torch.float32).eval()
        with VLLMEngine(
            path, 320, kv_cache_gib=0.1, tensor_parallel=number, options={"max_num_seqs": 64}
        ) as engine:
            found[name] = Ranks(engine, model, folder / name).seen()
            if name == "shared":
                found["left"] = [file.name for file in Path("/dev/shm").glob("ceeh-*")]
                found["stopped"] = stopped(engine)
        total = torch.ones(1)
        torch.distributed.all_reduce(total)  # the trainer's group outlives the engine
        found[f"total after {name}"] = float(total)
    (folder / f"{rank()}.json").write_text(json.dumps(found))


if __name__ == "__main__":
    main()
