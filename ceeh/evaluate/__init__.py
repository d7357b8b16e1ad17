"""python -m ceeh.evaluate MODEL --benchmarks NAME,... [--config FILE] [key=value ...]: evaluates a model.

As in `ceeh.fit`, the configuration is checked before torch is imported; `ceeh.evaluate.run` does the work.
"""

from collections.abc import Sequence
from pathlib import Path

from ceeh.config.reference import CommandParser
from ceeh.data.benchmarks import Benchmark, benchmark_files
from ceeh.evaluation.config import EvaluationConfig, load_evaluation_config
from ceeh.runtime.callable_module import make_callable
from ceeh.runtime.cli import run_command

make_callable(__name__)


def evaluate(
    model: str | Path,
    benchmarks: Sequence[str],
    overrides: Sequence[str] = (),
    *,
    files: Sequence[str] = (),
    output: str | None = None,
    trust_remote_code: bool = False,
) -> Path:
    """Evaluates `model` on `benchmarks` as the command does; returns the folder with results.json.

    Raises ConfigError for bad input, before any engine starts where possible.
    """
    protocol, chosen = load_evaluation_config(benchmarks, files, overrides)
    from ceeh.evaluate.run import run

    return run(str(model), protocol, chosen, output, trust_remote_code)


def main(arguments: Sequence[str] | None = None) -> int:
    parser = CommandParser(
        prog="python -m ceeh.evaluate",
        description="Sample benchmarks with a model, grade the answers, report with intervals.",
    )
    parser.add_argument(
        "model",
        help="model folder, Hub id, adapter, run folder, .ckpt file, or 'starter', shipped with ceeh",
    )
    parser.add_argument(
        "--benchmarks",
        required=True,
        metavar="NAME,...",
        help=f"{', '.join(sorted(benchmark_files()))}, a file or folder of questions, or a benchmark's .yaml",
    )
    parser.add_settings(
        EvaluationConfig,
        Benchmark,
        example="limit=50; samples=4 for all benchmarks, gsm8k.samples=4 for one",
    )
    parser.add_argument(
        "--output", metavar="FOLDER", help="default: evaluation/ in a run folder, else evaluations/"
    )
    parser.add_argument("--trust-remote-code", action="store_true", help="run the model's own code")
    given = parser.parse_intermixed_args(arguments)

    def command() -> int:
        names = [name for name in given.benchmarks.split(",") if name]
        evaluate(
            given.model,
            names,
            given.overrides,
            files=given.config,
            output=given.output,
            trust_remote_code=given.trust_remote_code,
        )
        return 0

    return run_command(command, if_stopped="run the same command to resume", last=arguments is None)
