"""Sampling benchmarks through the embedded engine: batch by batch, resumable, over ranks.

Axes: Q questions of a benchmark, K samples per question.
"""

import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from datetime import timedelta
from typing import Any

from transformers import PreTrainedTokenizerBase

from ceeh.data.benchmarks import Benchmark, benchmark_questions
from ceeh.data.engine.base import RolloutEngine, Sampling
from ceeh.data.loader import rollout
from ceeh.data.prompts import PromptBuilder, load_prompts
from ceeh.data.verify.base import Verifier
from ceeh.data.verify.build import build_verifier, drop_unverifiable
from ceeh.errors import ConfigError
from ceeh.evaluation.responses import response_rows
from ceeh.evaluation.store import SampleStore
from ceeh.runtime.distributed import from_rank_zero, rank, say, world_size
from ceeh.runtime.rng import derived_seed
from ceeh.types import Prompt, ScoredGroup


@dataclass(frozen=True, slots=True, kw_only=True)
class Task:
    """One benchmark, ready to be sampled. `skipped` counts the questions left out, by reason."""

    name: str
    benchmark: Benchmark
    prompts: Sequence[Prompt]
    verifier: Verifier
    skipped: Mapping[str, int]

    def sampling(self, seed: int) -> Sampling:
        return Sampling(
            completions=self.benchmark.samples,
            temperature=self.benchmark.temperature,
            top_p=self.benchmark.top_p,
            max_tokens=self.benchmark.max_response_tokens,
            seed=derived_seed(seed, "benchmark", self.name),
        )

    @property
    def settings(self) -> dict[str, Any]:
        """Everything but the model that the samples, their grades and their place in a report depend on."""
        questions = (
            (prompt.uid, prompt.token_ids, prompt.answer, self.level(prompt))
            for prompt in self.prompts
        )
        return asdict(self.benchmark) | {"questions_digest": f"{derived_seed(*questions):016x}"}

    def level(self, prompt: Prompt) -> str | None:
        level = self.benchmark.level and prompt.metadata.get(self.benchmark.level)
        return None if level is None else str(level)


def build_task(
    name: str, benchmark: Benchmark, tokenizer: PreTrainedTokenizerBase, limit: int | None
) -> Task:
    """Reads the questions and drops those that are too long or whose reference cannot be read.

    Raises ConfigError with the benchmark's name for any error in it.
    """
    try:
        questions = benchmark_questions(benchmark)[:limit]
        prompts = load_prompts(questions, PromptBuilder(tokenizer, benchmark), "questions")
        verifier = build_verifier(benchmark.verifier)
        verifiable = drop_unverifiable(prompts, verifier, "questions")
    except ConfigError as error:
        raise ConfigError(f"benchmark {name}: {error}") from error
    return Task(
        name=name,
        benchmark=benchmark,
        prompts=verifiable,
        verifier=verifier,
        skipped={
            "prompt_too_long": len(questions) - len(prompts),
            "unreadable_reference": len(prompts) - len(verifiable),
        },
    )


def sample_task(
    task: Task, engine: RolloutEngine, store: SampleStore, *, seed: int, questions_per_batch: int
) -> None:
    """Samples the batches that `store` lacks; rank r of w takes every w-th, starting with the r-th.

    A rank that has no more of them calls the engine without prompts until all have none: it may be shared.
    """
    starts = range(0, len(task.prompts), questions_per_batch)
    batches = [task.prompts[start : start + questions_per_batch] for start in starts]
    missing = from_rank_zero(
        lambda: [part for part in range(len(batches)) if not store.has(task.name, part)]
    )
    shares = [[part for part in missing if part % world_size() == r] for r in range(world_size())]
    own = shares[rank()]
    questions, to_do = (
        sum(len(batches[part]) for part in parts)
        for parts in (range(rank(), len(batches), world_size()), own)
    )
    progress = Progress(task.name, questions, done=questions - to_do)
    sampling = task.sampling(seed)
    for turn in range(max(map(len, shares))):
        if turn >= len(own):
            rollout(engine, task.verifier, [], sampling)
            continue
        part, prompts = own[turn], batches[own[turn]]
        scored, _ = rollout(engine, task.verifier, prompts, sampling)
        first = part * questions_per_batch
        rows = [
            row
            for index, group in enumerate(scored, first)
            for row in sample_rows(task, index, group)
        ]
        store.write(task.name, part, rows)
        progress.advance(len(prompts), rows)


def sample_rows(task: Task, index: int, scored: ScoredGroup) -> list[dict[str, Any]]:
    """A row of `ceeh.evaluation.store.SCHEMA` per completion of the question at `index`."""
    rows = response_rows(index, scored, task.level(scored.group.prompt))
    return [
        row
        | {
            "benchmark": task.name,
            "score": verdict.score,
            "outcome": verdict.outcome.value,
            "answer": task.verifier.answer(completion),
            "entropy": -sum(completion.logprobs) / max(len(completion.logprobs), 1),
        }
        for row, completion, verdict in zip(
            rows, scored.group.completions, scored.verdicts, strict=True
        )
    ]


class Progress:
    """Prints a line per batch of rank 0: questions done, metrics so far, elapsed and remaining time."""

    def __init__(self, name: str, questions: int, done: int) -> None:
        self.name, self.questions, self.done = name, questions, done
        self.here = self.responses = self.correct = self.tokens = 0
        self.began = time.perf_counter()
        if done:
            say(f"{name}: {done} of {questions} questions were sampled before")

    def advance(self, questions: int, rows: Sequence[Mapping[str, Any]]) -> None:
        self.done += questions
        self.here += questions
        self.responses += len(rows)
        self.correct += sum(row["correct"] for row in rows)
        self.tokens += sum(row["tokens"] for row in rows)
        elapsed = time.perf_counter() - self.began
        left = elapsed / self.here * (self.questions - self.done)
        times = [timedelta(seconds=round(seconds)) for seconds in (elapsed, left)]
        say(
            f"{self.name}  {self.done}/{self.questions} questions  "
            f"accuracy {100 * self.correct / self.responses:.1f}%  "
            f"tokens {self.tokens / self.responses:.1f}  {self.tokens / elapsed:.0f} tokens/s  "
            f"elapsed {times[0]}  ETA {times[1]}"
        )
