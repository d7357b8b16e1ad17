"""A mixture of sources: a seeded draw from each, without duplicates and without benchmark questions."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

from ceeh.config.component import Component
from ceeh.config.loading import fill
from ceeh.config.rules import UNIT_BELOW_1, Rule, at_least, setting
from ceeh.data.benchmarks import benchmark_questions, load_benchmark
from ceeh.data.mixture.decontamination import Decontaminator
from ceeh.data.mixture.report import Dropped, MixtureReport, PartReport
from ceeh.data.sources.table import Table
from ceeh.errors import ConfigError
from ceeh.runtime.distributed import say
from ceeh.runtime.rng import stable_hash
from ceeh.types import Question


@dataclass(frozen=True)
class Part(Component):
    """A source, and how many of its questions to draw; null for all."""

    questions: int | None = setting(None, "Questions to draw; null for all.", at_least(1))


@dataclass(frozen=True)
class Decontamination:
    """`benchmarks` maps a name or file to what replaces its questions.init_args, `{}` for nothing."""

    benchmarks: dict[str, Any] = setting(
        {},
        "Benchmark name or file to the replacement of its questions.init_args; {} keeps them.",
        Rule("a mapping of benchmarks, at least one", bool),
    )
    ngram: int = setting(8, "Words that must repeat in a row.", at_least(2))
    coverage: float = setting(0.5, "Share of a question that must repeat.", UNIT_BELOW_1)


@dataclass(frozen=True, slots=True, kw_only=True)
class Draw:
    questions: tuple[Question, ...]
    report: MixtureReport


class Mixture:
    """Questions drawn at random from each of `parts`, after all that must not be drawn is out.

    A part is `{class_path, init_args, questions}`. A text that occurs again, white space aside, is
    a duplicate: it belongs to the first part that has it. A text that repeats a question of
    `decontaminate.benchmarks` is dropped (ceeh.data.mixture.decontamination). What is left is ordered by a
    hash of (seed, part, uid), and the first `questions` are drawn: the draw depends neither on the
    order of the rows nor on the other parts' sizes. Uids become `part/uid`, and `part` is metadata.

    `prompts.max_prompt_tokens` acts on the drawn prompts and says how many it leaves out; ask for
    more questions where that matters.

    Raises ConfigError while it reads: for what a source refuses, for a benchmark that cannot be
    read, and for a part with fewer questions than it was to give.
    """

    def __init__(
        self,
        parts: Mapping[str, Any],
        seed: int = 0,
        decontaminate: Mapping[str, Any] | None = None,
    ) -> None:
        if not parts:
            raise ConfigError("parts must name at least one source, e.g. parts.mine.class_path")
        self.seed = seed
        self.parts = {
            name: fill(Part, _mapping(given, f"parts.{name}"), f"parts.{name}")
            for name, given in parts.items()
        }
        self.sources = {name: part.build(f"parts.{name}") for name, part in self.parts.items()}
        self.decontaminate = (
            None if decontaminate is None else fill(Decontamination, decontaminate, "decontaminate")
        )

    def __iter__(self) -> Iterator[Question]:
        return iter(self.draw.questions)

    @property
    def report(self) -> MixtureReport:
        return self.draw.report

    @cached_property
    def draw(self) -> Draw:
        """The questions and the report, drawn once; a line says what was left out."""
        known = self.decontaminate or Decontamination()
        benchmarks = {name: _benchmark(name, given) for name, given in known.benchmarks.items()}
        filtered = Decontaminator(benchmarks, ngram=known.ngram, coverage=known.coverage)
        seen: set[str] = set()
        drawn = [self._draw_part(name, seen, filtered) for name in self.parts]
        report = MixtureReport(
            seed=self.seed,
            parts=tuple(part for _, part in drawn),
            benchmarks={name: len(questions) for name, questions in benchmarks.items()},
            ngram=known.ngram,
            coverage=known.coverage,
        )
        say(str(report))
        return Draw(questions=tuple(q for kept, _ in drawn for q in kept), report=report)

    def _draw_part(
        self, name: str, seen: set[str], filtered: Decontaminator
    ) -> tuple[list[Question], PartReport]:
        part, source = self.parts[name], self.sources[name]
        questions = self._read(name)
        clean: list[Question] = []
        dropped: list[Dropped] = []
        for question in questions:
            if question.squeezed in seen:
                continue
            seen.add(question.squeezed)
            if overlap := filtered.find(question.text):
                dropped.append(
                    Dropped(part=name, uid=question.uid, text=question.text, overlap=overlap)
                )
            else:
                clean.append(question)
        read = len(questions) + (source.num_duplicates if isinstance(source, Table) else 0)
        report = PartReport(
            name=name,
            source={"class_path": part.class_path, "init_args": part.init_args},
            read=read,
            duplicates=read - len(clean) - len(dropped),
            dropped=tuple(dropped),
            clean=len(clean),
            drawn=len(clean[: part.questions]),
        )
        if len(clean) < (part.questions or 1):
            raise ConfigError(
                f"parts.{name}.questions is {part.questions or 'null'}, but only {len(clean)} are"
                f" left: {report}; lower it, or add to the source"
            )
        return clean[: part.questions], report

    def _read(self, name: str) -> list[Question]:
        """The questions of a part in the order of the draw."""
        try:
            questions = [
                replace(q, uid=f"{name}/{q.uid}", metadata=dict(q.metadata) | {"part": name})
                for q in self.sources[name]
            ]
        except ConfigError as error:
            raise ConfigError(f"parts.{name}: {error}") from error
        return sorted(questions, key=lambda q: stable_hash(f"{self.seed}/{q.uid}"))


def _benchmark(name: str, given: Any) -> list[Question]:
    """The questions of a benchmark, with `given` in place of the arguments that say where they lie."""
    place = f"decontaminate.benchmarks.{name}"
    benchmark = load_benchmark(name)
    arguments = benchmark.questions.init_args | _mapping(given or {}, place)
    questions = replace(benchmark.questions, init_args=arguments)
    try:
        # Questions are all that is compared: a copy may lack the column of the level.
        return benchmark_questions(replace(benchmark, questions=questions, level=None))
    except ConfigError as error:
        raise ConfigError(
            f"{place}: {error} (a key of {place}, such as path, replaces the argument of that name"
            " in the benchmark's file)"
        ) from error


def _mapping(given: Any, place: str) -> dict[str, Any]:
    if not isinstance(given, Mapping):
        raise ConfigError(f"{place} must be a mapping, got {given!r}")
    return dict(given)
