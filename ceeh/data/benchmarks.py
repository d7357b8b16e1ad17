"""Benchmarks: files in `configs/benchmarks` by name, others by path, or questions of the user's own."""

import json
import warnings
from collections.abc import Sequence
from dataclasses import MISSING, dataclass
from difflib import get_close_matches
from pathlib import Path
from typing import Any

from ceeh.config.component import Component
from ceeh.config.loading import merged
from ceeh.config.packaged import CONFIGS
from ceeh.config.rules import POSITIVE, TEXT, UNIT_ABOVE_0, at_least, setting
from ceeh.errors import ConfigError
from ceeh.runtime.paths import expanded
from ceeh.types import Question

FOLDER = Path("configs", "benchmarks")
FILES = {".yaml", ".yml", ".json", ".jsonl", ".parquet", ".csv", ".tsv", ".gz", ".zst"}
INSTRUCTION = r"Please reason step by step, and put your final answer within \boxed{}."


@dataclass(frozen=True, kw_only=True)
class Benchmark:
    r"""The questions, the verifier that grades responses, and how responses are sampled.

    The defaults are the protocol of the paper (arXiv 2602.22642, section 4: temperature 0.6, top-p
    0.95, 16 samples, 16,000 tokens) with the prompt that DeepSeek-R1's distilled models expect: no
    system prompt, the instruction after the question (arXiv 2501.12948). `level` names the metadata
    column that holds the difficulty. `samples` counts responses per question.
    """

    title: str = setting(MISSING, "Name in reports.")
    questions: Component = setting(MISSING, "Source of the questions.")
    verifier: Component = setting(MISSING, "Grades a response.")
    chat_template: bool = setting(True, "Format prompts with the tokenizer's chat template.")
    chat_template_args: dict[str, Any] = setting(
        {}, "Arguments of the chat template, e.g. {enable_thinking: false}."
    )
    system_prompt: str | None = setting(
        None, "System message of questions without one. Needs chat_template."
    )
    instruction: str | None = setting(INSTRUCTION, "Paragraph added after each question.", TEXT)
    level: str | None = setting(None, "Metadata column that holds the difficulty.", TEXT)
    expected_questions: int | None = setting(
        None, "Number of questions; another number is a warning.", at_least(1)
    )
    samples: int = setting(16, "Responses per question. Paper: 16.", at_least(1))
    temperature: float = setting(0.6, "Sampling temperature. Paper: 0.6.", POSITIVE)
    top_p: float = setting(0.95, "Nucleus sampling. Paper: 0.95.", UNIT_ABOVE_0)
    max_response_tokens: int = setting(
        16000, "Tokens. A longer response is truncated. Paper: 16000.", POSITIVE
    )
    max_prompt_tokens: int = setting(2048, "Tokens. Longer prompts are skipped.", POSITIVE)


def load_benchmark(name_or_file: str, overrides: Sequence[str] = ()) -> Benchmark:
    """A benchmark with `key=value` overrides: its name in `configs/benchmarks`, a YAML file, or questions.

    Questions are a file or folder for `ceeh.data.sources.Table`, with columns `question` and `answer`;
    answers are graded as mathematics, in the defaults' protocol. For a local copy of a benchmark
    override the path alone, `questions.init_args.path=copy.jsonl`: the column map stays. Raises
    ConfigError for an unknown name, listing the known ones, and for what `merged` refuses.
    """
    given = Path(name_or_file)
    if given.suffix in (".yaml", ".yml"):
        return merged([name_or_file], overrides, Benchmark)
    known = benchmark_files()
    if name_or_file in known:
        return merged([known[name_or_file]], overrides, Benchmark)
    if expanded(given).exists():
        return merged([], [*of_questions(name_or_file), *overrides], Benchmark)
    if given.suffix or "/" in name_or_file:
        raise ConfigError(f"--benchmarks: no file '{given}'; paths are relative to {Path.cwd()}")
    near = get_close_matches(name_or_file, known, n=1)
    raise ConfigError(
        f"no benchmark '{name_or_file}'{f'; did you mean {near[0]!r}?' if near else ';'}"
        f" known: {', '.join(sorted(known)) or 'none'};"
        f" add {FOLDER}/{name_or_file}.yaml, or give the path of a file: questions and answers, or a"
        " benchmark's .yaml"
    )


def of_questions(path: str) -> list[str]:
    """A benchmark's settings, as overrides, for questions in a file or folder. JSON is YAML."""
    table = {"class_path": "ceeh.data.sources.Table", "init_args": {"path": path}}
    return [
        f"title={json.dumps(benchmark_name(path))}",
        f"questions={json.dumps(table)}",
        "verifier={class_path: ceeh.data.verify.MathAnswer}",
    ]


def benchmark_name(given: str) -> str:
    """`mine` of mine, path/to/mine.yaml, mine.jsonl and mine.jsonl.gz."""
    path = Path(given)
    while path.suffix.lower() in FILES:
        path = path.with_suffix("")
    return path.name


def benchmark_files() -> dict[str, Path]:
    """Name -> file; files in the working folder override those shipped with the package."""
    files = [*(CONFIGS / "benchmarks").glob("*.yaml"), *FOLDER.glob("*.yaml")]
    return {file.stem: file for file in files}


def benchmark_questions(benchmark: Benchmark) -> list[Question]:
    """The questions in their order; warns if there are not `expected_questions` of them.

    Raises ConfigError when they cannot be read or lack the metadata that `level` names.
    """
    questions = list[Question](benchmark.questions.build("questions"))
    expected = benchmark.expected_questions
    if expected is not None and len(questions) != expected:
        warnings.warn(
            f"benchmark '{benchmark.title}' has {len(questions)} questions, not {expected}; a mirror"
            " may differ, and metrics compare only over the same questions",
            stacklevel=2,
        )
    for question in questions:
        if benchmark.level is not None and benchmark.level not in question.metadata:
            raise ConfigError(
                f"level is '{benchmark.level}', which is not in the metadata of question"
                f" '{question.uid}'; it has: {', '.join(question.metadata) or 'none'}; add it to"
                " questions.init_args.metadata"
            )
    return questions
