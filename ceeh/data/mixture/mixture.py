"""A mixture of sources: a seeded draw from each, without duplicates and without benchmark questions."""

import json
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import asdict, dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any

from ceeh.config.component import Component
from ceeh.config.loading import fill
from ceeh.config.rules import UNIT_BELOW_1, Rule, at_least, setting
from ceeh.data.benchmarks import Benchmark, benchmark_questions, load_benchmark
from ceeh.data.mixture.decontamination import Decontaminator
from ceeh.data.sources.table import Table, local_files
from ceeh.errors import ConfigError
from ceeh.run.atomic import atomic_write_text
from ceeh.runtime.distributed import say
from ceeh.runtime.paths import expanded
from ceeh.runtime.rng import stable_hash
from ceeh.runtime.text import redact
from ceeh.types import Question

KEPT = "questions.jsonl"


@dataclass(frozen=True)
class Part(Component):
    """A source and the number of its questions to draw; null draws all of them."""

    questions: int | None = setting(None, "Questions to draw; null for all.", at_least(1))


@dataclass(frozen=True)
class Decontamination:
    """`benchmarks` maps a name or file to replacements for its questions.init_args, `{}` for none."""

    benchmarks: dict[str, Any] = setting(
        {},
        "Benchmark name or file to the replacement of its questions.init_args; {} keeps them.",
        Rule("a mapping of benchmarks, at least one", bool),
    )
    ngram: int = setting(8, "Words that must repeat in a row.", at_least(2))
    coverage: float = setting(0.5, "Share of a question that must repeat.", UNIT_BELOW_1)


@dataclass(frozen=True, slots=True, kw_only=True)
class Draw:
    """The drawn questions; `report` is the content of mixture.json, `dropped` of decontamination.jsonl.

    Both are None for a draw reused from a run folder, which holds the files already.
    """

    questions: tuple[Question, ...]
    report: dict[str, Any] | None = None
    dropped: tuple[dict[str, Any], ...] | None = None


class Mixture:
    """Questions drawn at random from each of `parts`, after duplicates and contaminated ones are dropped.

    A part is `{class_path, init_args, questions}`. A text that occurs again, apart from white space,
    is a duplicate; the first part that has it keeps it. A text that repeats a question of
    `decontaminate.benchmarks` is contaminated (ceeh.data.mixture.decontamination). The rest is ordered
    by a hash of (seed, part, uid), and the first `questions` are drawn: the draw depends neither on
    the order of the rows nor on the other parts' sizes. Uids become `part/uid`; metadata gains `part`.

    `prompts.max_prompt_tokens` drops long prompts after the draw and counts them; ask for more
    questions where that matters. `run` is the folder of the run to resume: its draw is reused, and no
    source or benchmark is read, unless a setting or a local file changed.

    Raises ConfigError on the first read: for what a source refuses, for a benchmark that cannot be
    read, and for a part with fewer questions than requested.
    """

    run: Path | None = None

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
        self.rule = Decontamination()
        if decontaminate is not None:
            self.rule = fill(Decontamination, decontaminate, "decontaminate")

    def __iter__(self) -> Iterator[Question]:
        return iter(self.draw.questions)

    @cached_property
    def draw(self) -> Draw:
        """The questions and the counts, drawn once; prints one line of counts."""
        if self.run and (questions := self._kept(self.run / KEPT)):
            return Draw(questions=questions)
        known = {name: _questions(name, each) for name, each in self.benchmarks.items()}
        ngram, coverage = self.rule.ngram, self.rule.coverage
        decontaminator = Decontaminator(known, ngram=ngram, coverage=coverage)
        seen: set[str] = set()
        drawn: list[Question] = []
        dropped: list[dict[str, Any]] = []
        reports: list[dict[str, Any]] = []
        for name, part in self.parts.items():
            questions, clean, contaminated = self._read(name), [], Counter[str]()
            for question in questions:
                if question.squeezed in seen:
                    continue
                seen.add(question.squeezed)
                if overlap := decontaminator.find(question.text):
                    contaminated[overlap.benchmark] += 1
                    row = {"part": name, "uid": question.uid, "text": question.text}
                    dropped.append(row | asdict(overlap))
                else:
                    clean.append(question)
            source = self.sources[name]
            read = len(questions) + (source.num_duplicates if isinstance(source, Table) else 0)
            report = {
                "name": name,
                "source": {"class_path": part.class_path, "init_args": part.init_args},
                "read": read,
                "duplicates": read - len(clean) - contaminated.total(),
                "contaminated": dict(contaminated.most_common()),
                "clean": len(clean),
                "drawn": len(clean[: part.questions]),
            }
            if len(clean) < (part.questions or 1):
                raise ConfigError(
                    f"parts.{name}.questions is {part.questions or 'null'}, but only {len(clean)} are"
                    f" left: {_counts(report)}; lower it, or add to the source"
                )
            drawn += clean[: part.questions]
            reports.append(report)
        rule = f"{', '.join(known)} by {ngram}-grams over {coverage:.0%} of a question"
        against = f"against {rule}" if known else "not compared with any benchmark"
        say(f"mixture: {'; '.join(map(_counts, reports))}; {against}")
        sizes = {name: len(questions) for name, questions in known.items()}
        return Draw(
            questions=tuple(drawn),
            report={"seed": self.seed, "parts": reports, "benchmarks": sizes}
            | {"ngram": ngram, "coverage": coverage},
            dropped=tuple(dropped),
        )

    @cached_property
    def benchmarks(self) -> dict[str, Benchmark]:
        """The benchmarks of `decontaminate`, with the arguments that it replaces."""
        return {name: _benchmark(name, given) for name, given in self.rule.benchmarks.items()}

    def write(self, folder: Path) -> None:
        """Writes the report, and the questions so that a resumed run can reuse them."""
        if self.draw.report is None:
            return
        self.write_report(folder)
        rows = [
            asdict(question) | {"messages": [list(message) for message in question.messages]}
            for question in self.draw.questions
        ]
        # A resumed run must see the same metadata. JSON changes or refuses some (dates, NaN, tuples as
        # keys): then it draws again.
        try:
            if json.loads(json.dumps(rows, default=str)) == rows:
                write_lines(folder / KEPT, [{"fingerprint": self._fingerprint()}, *rows])
        except (TypeError, ValueError):
            return

    def write_report(self, folder: Path) -> None:
        """Writes the counts to mixture.json and each contaminated question to decontamination.jsonl."""
        folder.mkdir(parents=True, exist_ok=True)
        report = json.dumps(redact(self.draw.report), indent=2, default=str)
        atomic_write_text(folder / "mixture.json", report + "\n")
        write_lines(folder / "decontamination.jsonl", self.draw.dropped or ())

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

    def _kept(self, file: Path) -> tuple[Question, ...] | None:
        """The questions that `write` left in a run folder; None where they cannot be reused."""
        if not file.is_file():
            return None
        try:
            # Not splitlines, which also splits at U+2028 within a text.
            head, *rows = map(json.loads, file.read_text(encoding="utf-8").split("\n")[:-1])
            questions = tuple(
                Question(**row | {"messages": tuple(map(tuple, row["messages"]))}) for row in rows
            )
            unchanged = head["fingerprint"] == self._fingerprint()
        except (OSError, ValueError, TypeError, KeyError, RecursionError) as error:
            say(f"mixture: cannot read {file} ({type(error).__name__}: {error}); drawing again")
            return None
        if not unchanged:
            say(f"mixture: a setting or file changed since {file} was written; drawing again")
            return None
        say(f"mixture: reusing the {len(questions):,} questions of {file}")
        return questions

    def _fingerprint(self) -> str:
        """A hash of the settings and of size and date of each local file that a `path` leads to."""
        sources = [*self.parts.values(), *(each.questions for each in self.benchmarks.values())]
        paths = [
            path
            for source in sources
            if (given := source.init_args.get("path"))
            for path in local_files(str(given)) or [expanded(str(given))]
        ]
        files = [file for path in paths for file in (path, *sorted(path.rglob("*")))]
        dates = [(file.stat().st_size, file.stat().st_mtime_ns) for file in files if file.is_file()]
        return stable_hash(repr([self.seed, self.parts, self.rule, sources, dates])).hex()


def write_lines(file: Path, rows: Iterable[Mapping[str, Any]]) -> None:
    """One JSON object per line."""
    lines = (json.dumps(row, ensure_ascii=False, default=str) + "\n" for row in rows)
    atomic_write_text(file, "".join(lines))


def _counts(report: Mapping[str, Any]) -> str:
    found = ", ".join(f"{name} {count:,}" for name, count in report["contaminated"].items())
    contaminated = sum(report["contaminated"].values())
    return (
        f"{report['name']} {report['drawn']:,} of {report['read']:,} ({report['duplicates']:,} duplicates,"
        f" {contaminated:,} contaminated{': ' if found else ''}{found})"
    )


def _benchmark(name: str, given: Any) -> Benchmark:
    """The benchmark with `given` in place of the arguments of its questions."""
    benchmark = load_benchmark(name)
    given = _mapping(given or {}, f"decontaminate.benchmarks.{name}")
    questions = replace(benchmark.questions, init_args=benchmark.questions.init_args | given)
    # Only texts are compared, so a copy may lack the column of the level.
    return replace(benchmark, questions=questions, level=None)


def _questions(name: str, benchmark: Benchmark) -> list[Question]:
    try:
        return benchmark_questions(benchmark)
    except ConfigError as error:
        place = f"decontaminate.benchmarks.{name}"
        raise ConfigError(
            f"{place}: {error} (a key of {place}, such as path, replaces the argument of that name"
            " in the benchmark's file)"
        ) from error


def _mapping(given: Any, place: str) -> dict[str, Any]:
    if not isinstance(given, Mapping):
        raise ConfigError(f"{place} must be a mapping, got {given!r}")
    return dict(given)
