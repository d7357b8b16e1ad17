"""What an evaluation is: its benchmarks, and how they are sampled, in one mapping of keys.

`key=value` on the command line reaches the evaluation itself (`seed=1`), every benchmark
(`samples=4`), or one of them (`gsm8k.samples=4`).
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, fields

from ceeh.config.component import Component
from ceeh.config.rules import FILE_NAME, at_least, is_file_name, positive, rule
from ceeh.config.settings import Hardware, Tracking, load
from ceeh.data.benchmarks import Benchmark, load_benchmark
from ceeh.errors import ConfigError


@dataclass(frozen=True)
class EvaluationConfig:
    """How benchmarks are run. `limit` takes the first questions of each, for a quick look."""

    seed: int = at_least(0, 0)
    limit: int | None = rule("at least 1, or null", lambda value: value is None or value >= 1, None)
    questions_per_batch: int = positive(64)
    bootstrap_draws: int = at_least(100, 2000)
    engine: Component = field(default_factory=lambda: Component("ceeh.data.engine.VLLMEngine"))
    hardware: Hardware = field(default_factory=Hardware)
    tracking: Tracking = field(default_factory=Tracking)


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
        if not is_file_name(name):
            raise ConfigError(
                f"--benchmarks: the name of a benchmark is that of a folder of samples and must be "
                f"{FILE_NAME}, got '{name}' of '{given}'; rename the file"
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
    protocol = load(files, to_protocol, EvaluationConfig)
    loaded: Mapping[str, str] = dict(zip(names, benchmarks, strict=True))
    return protocol, {
        name: load_benchmark(given, to_benchmarks[name]) for name, given in loaded.items()
    }


def benchmark_name(given: str) -> str:
    """`gsm8k` of gsm8k and of path/to/gsm8k.yaml."""
    return given.rpartition("/")[2].removesuffix(".yaml").removesuffix(".yml")
