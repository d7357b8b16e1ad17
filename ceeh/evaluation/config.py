"""The configuration of an evaluation: its own settings, and its benchmarks with theirs.

`key=value` on the command line sets the evaluation itself (`seed=1`), every benchmark (`samples=4`), or
one of them (`gsm8k.samples=4`).
"""

from collections.abc import Sequence
from dataclasses import dataclass, fields

from ceeh.config.component import Component
from ceeh.config.loading import merged
from ceeh.config.rules import FILE_NAME, POSITIVE, SEED, at_least, setting
from ceeh.config.settings import Hardware, Tracking
from ceeh.data.benchmarks import Benchmark, benchmark_name, load_benchmark
from ceeh.errors import ConfigError


@dataclass(frozen=True)
class EvaluationConfig:
    """How benchmarks are run. `limit` takes the first questions of each, for a quick look."""

    seed: int = setting(0, "Seed of sampling and bootstrap.", SEED)
    limit: int | None = setting(None, "First questions of each benchmark only.", at_least(1))
    questions_per_batch: int = setting(64, "Questions sampled and saved together.", POSITIVE)
    bootstrap_draws: int = setting(2000, "Bootstrap draws per 95 % interval.", at_least(100))
    canary_tolerance: float | None = setting(
        None,
        "Largest mean difference in nats between engine and trainer on the canary, for a run, checkpoint "
        "or adapter. Null: 0.001 in fp32, 0.1 in bf16.",
        POSITIVE,
    )
    engine: Component = setting(
        Component("ceeh.data.engine.VLLMEngine"), "Engine that generates responses in this process."
    )
    hardware: Hardware = setting(Hardware, "Device and precision.")
    tracking: Tracking = setting(Tracking, "Records of the evaluation.")


def load_evaluation_config(
    benchmarks: Sequence[str], files: Sequence[str], overrides: Sequence[str]
) -> tuple[EvaluationConfig, dict[str, Benchmark]]:
    """The evaluation's settings, and the benchmarks by name.

    Raises ConfigError for an unknown benchmark, an unknown key or a value out of range.
    """
    if not benchmarks:
        raise ConfigError("--benchmarks is empty; name at least one, e.g. gsm8k,math500")
    given: dict[str, str] = {}
    for benchmark in benchmarks:
        name = benchmark_name(benchmark)
        if not FILE_NAME.holds(name):
            raise ConfigError(
                f"--benchmarks: a benchmark's name is also a folder of samples and must be "
                f"{FILE_NAME.words}, got '{name}' of '{benchmark}'; rename the file"
            )
        if name in given:
            raise ConfigError(f"--benchmarks names '{name}' twice")
        given[name] = benchmark
    own = {item.name for item in fields(EvaluationConfig)}
    shared = {item.name for item in fields(Benchmark)}
    to_evaluation: list[str] = []
    to_benchmarks: dict[str, list[str]] = {name: [] for name in given}
    for override in overrides:
        first, _, rest = override.partition("=")[0].partition(".")
        if first in given and rest:
            to_benchmarks[first].append(override.removeprefix(f"{first}."))
        elif first in own:
            to_evaluation.append(override)
        elif first in shared:
            for each in to_benchmarks.values():
                each.append(override)
        else:
            raise ConfigError(
                f"'{override}' is not a setting of an evaluation: those are {', '.join(sorted(own))}; of all "
                f"benchmarks {', '.join(sorted(shared))}; of one benchmark NAME.key, with a NAME from "
                f"--benchmarks ({', '.join(given)})"
            )
    return merged(files, to_evaluation, EvaluationConfig), {
        name: load_benchmark(benchmark, to_benchmarks[name]) for name, benchmark in given.items()
    }
