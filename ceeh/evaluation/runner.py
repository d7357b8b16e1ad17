"""Sampling benchmarks through the embedded engine: batch by batch, resumable, over ranks.

Axes: Q questions of a benchmark, K samples per question.
"""

import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
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
from ceeh.evaluation.store import SampleStore
from ceeh.runtime.distributed import rank, say, world_size
from ceeh.runtime.rng import derived_seed
from ceeh.types import Prompt, ScoredGroup


@dataclass(frozen=True, slots=True, kw_only=True)
class Task:
    """One benchmark, ready to be sampled. `skipped` counts questions that were left out, by reason."""

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
        """All that the samples depend on, but the model."""
        return asdict(self.benchmark) | {
            "questions_digest": f"{derived_seed(*map(self._judged, self.prompts)):016x}"
        }

    def level(self, prompt: Prompt) -> str | None:
        level = self.benchmark.level and prompt.metadata.get(self.benchmark.level)
        return None if level is None else str(level)

    def _judged(self, prompt: Prompt) -> tuple[object, ...]:
        """What of a question decides its samples, their verdicts and where they are shown."""
        return prompt.uid, prompt.token_ids, prompt.answer, self.level(prompt)


def build_task(
    name: str, benchmark: Benchmark, tokenizer: PreTrainedTokenizerBase, limit: int | None
) -> Task:
    """Reads the questions and drops those that cannot be judged or are too long for the prompt.

    Raises ConfigError naming the benchmark for whatever is wrong with it.
    """
    try:
        questions = benchmark_questions(benchmark)[:limit]
        builder = PromptBuilder(
            tokenizer,
            max_prompt_tokens=benchmark.max_prompt_tokens,
            chat_template=benchmark.chat_template,
            system_prompt=benchmark.system_prompt,
            instruction=benchmark.instruction,
        )
        prompts = load_prompts(questions, builder, "questions")
        verifier = build_verifier(benchmark.verifier)
        judged = drop_unverifiable(prompts, verifier, "questions")
    except ConfigError as error:
        raise ConfigError(f"benchmark {name}: {error}") from error
    return Task(
        name=name,
        benchmark=benchmark,
        prompts=[
            replace(prompt, metadata=dict(prompt.metadata) | {"held_out_index": index})
            for index, prompt in enumerate(judged)
        ],
        verifier=verifier,
        skipped={
            "prompt_too_long": len(questions) - len(prompts),
            "unreadable_reference": len(prompts) - len(judged),
        },
    )


def sample_task(
    task: Task, engine: RolloutEngine, store: SampleStore, *, seed: int, questions_per_batch: int
) -> None:
    """Samples the batches that `store` does not have yet; rank r takes every w-th, from the r-th on."""
    starts = range(0, len(task.prompts), questions_per_batch)
    batches = [task.prompts[start : start + questions_per_batch] for start in starts]
    mine = [number for number in range(len(batches)) if number % world_size() == rank()]
    missing = [number for number in mine if not store.has(task.name, number)]
    done = sum(len(batches[number]) for number in mine) - sum(len(batches[n]) for n in missing)
    progress = Progress(task.name, sum(len(batches[number]) for number in mine), done)
    sampling = task.sampling(seed)
    for number in missing:
        scored, _ = rollout(engine, task.verifier, batches[number], sampling)
        rows = [row for group in scored for row in sample_rows(task, group)]
        store.write(task.name, number, rows)
        progress.advance(len(batches[number]), rows)


def sample_rows(task: Task, scored: ScoredGroup) -> list[dict[str, Any]]:
    """A row of `ceeh.evaluation.store.SCHEMA` per completion."""
    prompt = scored.group.prompt
    shared = {
        "benchmark": task.name,
        "index": prompt.metadata["held_out_index"],
        "uid": prompt.uid,
        "level": task.level(prompt),
        "question": prompt.text,
        "reference": prompt.answer,
    }
    return [
        shared
        | {
            "sample": number,
            "response": completion.text,
            "tokens": len(completion.token_ids),
            "finish": completion.finish.value,
            "score": verdict.score,
            "correct": verdict.score == 1.0,
            "outcome": verdict.outcome.value,
            "answer": task.verifier.answer(completion),
            "entropy": -sum(completion.logprobs) / max(len(completion.logprobs), 1),
        }
        for number, (completion, verdict) in enumerate(
            zip(scored.group.completions, scored.verdicts, strict=True)
        )
    ]


class Progress:
    """A line per batch of rank 0: what is done, what it shows so far, time gone and to go."""

    def __init__(self, name: str, questions: int, done: int) -> None:
        self.name, self.questions, self.done = name, questions, done
        self.here = self.responses = self.correct = self.tokens = 0
        self.began = time.perf_counter()
        if done:
            say(f"{name}: {done} of {questions} questions are there already")

    def advance(self, questions: int, rows: Sequence[Mapping[str, Any]]) -> None:
        self.done += questions
        self.here += questions
        self.responses += len(rows)
        self.correct += sum(row["correct"] for row in rows)
        self.tokens += sum(row["tokens"] for row in rows)
        gone = time.perf_counter() - self.began
        left = gone / self.here * (self.questions - self.done)
        say(
            f"{self.name}  {self.done}/{self.questions} questions  "
            f"accuracy {100 * self.correct / self.responses:.1f}%  "
            f"tokens {self.tokens / self.responses:.1f}  {self.tokens / gone:.0f} tokens/s  "
            f"{_clock(gone)} gone  ETA {_clock(left)}"
        )


def _clock(seconds: float) -> str:
    return str(timedelta(seconds=round(seconds)))
