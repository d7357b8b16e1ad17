"""What an evaluation is: its benchmarks, and how they are sampled, in one mapping of keys.

`key=value` on the command line reaches the evaluation itself (`seed=1`), every benchmark
(`samples=4`), or one of them (`gsm8k.samples=4`).
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields

from ceeh.config.component import Component
from ceeh.config.loading import merged
from ceeh.config.rules import FILE_NAME, POSITIVE, at_least, setting
from ceeh.config.settings import Hardware, Tracking
from ceeh.data.benchmarks import Benchmark, load_benchmark
from ceeh.errors import ConfigError


@dataclass(frozen=True)
class EvaluationConfig:
    """How benchmarks are run. `limit` takes the first questions of each, for a quick look."""

    seed: int = setting(0, "Seed of sampling and bootstrap.", at_least(0))
    limit: int | None = setting(None, "First questions of each benchmark only.", at_least(1))
    questions_per_batch: int = setting(64, "Questions sampled and saved together.", POSITIVE)
    bootstrap_draws: int = setting(2000, "Bootstrap draws per 95 % interval.", at_least(100))
    engine: Component = setting(
        Component("ceeh.data.engine.VLLMEngine"), "Engine that generates responses in this process."
    )
    hardware: Hardware = setting(Hardware, "Device and precision.")
    tracking: Tracking = setting(Tracking, "Records of the evaluation.")


def load_evaluation_config(
    benchmarks: Sequence[str], files: Sequence[str], overrides: Sequence[str]
) -> tuple[EvaluationConfig, dict[str, Benchmark]]:
    """The protocol and the benchmarks by name, each `key=value` where it belongs.

    Raises ConfigError for an unknown benchmark, an unknown key or a value out of range.
    """
    if not benchmarks:
        raise ConfigError("--benchmarks names none; give some of them, e.g. gsm8k,math500")
    names = [benchmark_name(benchmark) for benchmark in benchmarks]
    for name, given in zip(names, benchmarks, strict=True):
        if not FILE_NAME.holds(name):
            raise ConfigError(
                f"--benchmarks: the name of a benchmark is that of a folder of samples and must be "
                f"{FILE_NAME.words}, got '{name}' of '{given}'; rename the file"
            )
    if doubled := [name for name in names if names.count(name) > 1]:
        raise ConfigError(f"--benchmarks names '{doubled[0]}' twice")
    own = {item.name for item in fields(EvaluationConfig)}
    shared = {item.name for item in fields(Benchmark)}
    to_protocol: list[str] = []
    to_benchmarks: dict[str, list[str]] = {name: [] for name in names}
    for override in overrides:
        first, _, rest = override.partition("=")[0].partition(".")
        if first in to_benchmarks and rest:
            to_benchmarks[first].append(override.removeprefix(f"{first}."))
        elif first in shared and first not in own:
            for given in to_benchmarks.values():
                given.append(override)
        elif first in own:
            to_protocol.append(override)
        else:
            raise ConfigError(
                f"'{override}' is not for an evaluation: its keys are {', '.join(sorted(own))}; for all "
                f"benchmarks {', '.join(sorted(shared))}; for one of them NAME.key, with a NAME that "
                f"--benchmarks has ({', '.join(names)})"
            )
    protocol = merged(files, to_protocol, EvaluationConfig)
    loaded: Mapping[str, str] = dict(zip(names, benchmarks, strict=True))
    return protocol, {
        name: load_benchmark(given, to_benchmarks[name]) for name, given in loaded.items()
    }


def benchmark_name(given: str) -> str:
    """`gsm8k` of gsm8k and of path/to/gsm8k.yaml."""
    return given.rpartition("/")[2].removesuffix(".yaml").removesuffix(".yml")
