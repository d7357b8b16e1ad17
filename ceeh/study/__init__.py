"""python -m ceeh.study FILE [key=value ...]: runs arms x seeds, evaluates all of them, writes one report.

As in `ceeh.fit`, the study is read and checked before torch is imported; `ceeh.study.run` does the work.
"""

from collections.abc import Sequence

from ceeh.config.reference import CommandParser, HelpConfig
from ceeh.config.study import UNTRAINED, StudyConfig, load_study
from ceeh.errors import ConfigError
from ceeh.runtime.cli import run_command


def main(arguments: Sequence[str] | None = None) -> int:
    parser = CommandParser(
        prog="python -m ceeh.study",
        description="Run arms x seeds, evaluate every model, write one report. The same command resumes.",
    )
    parser.add_argument("study", metavar="FILE", help="YAML file, e.g. configs/studies/ceeh.yaml")
    parser.add_argument("overrides", nargs="*", metavar="key=value", help="e.g. seeds=[0,1]")
    parser.add_argument("--help-config", action=HelpConfig, schemas=[StudyConfig])
    what = parser.add_mutually_exclusive_group()
    what.add_argument(
        "--dry-run",
        action="store_true",
        help="check all arms, list the runs and settings, and exit",
    )
    what.add_argument(
        "--report", action="store_true", help="write the report of what is there, and exit"
    )
    parser.add_argument(
        "--only",
        action="append",
        default=[],
        metavar="ARM",
        help="run, or report, this arm; may be repeated",
    )
    side = parser.add_mutually_exclusive_group()
    side.add_argument(
        "--jobs", type=int, default=1, metavar="N", help="runs side by side; default: 1"
    )
    side.add_argument(
        "--gpus", metavar="0,1,...", help="one run on each of these GPUs, by CUDA_VISIBLE_DEVICES"
    )
    given = parser.parse_intermixed_args(arguments)

    def command() -> int:
        if given.jobs < 1:
            raise ConfigError(f"--jobs must be at least 1, got {given.jobs}")
        gpus = given.gpus.split(",") if given.gpus is not None else []
        if not all(gpu.isdigit() for gpu in gpus):
            raise ConfigError(f"--gpus must list numbers, e.g. 0,1, got '{given.gpus}'")
        study = load_study(given.study, given.overrides)
        arms = [UNTRAINED, *study.arms]
        for arm in given.only:
            if arm not in arms:
                raise ConfigError(f"--only: no arm '{arm}'; the arms are {', '.join(arms)}")
        from ceeh.study.run import dry_run, report, run

        slots = [{"CUDA_VISIBLE_DEVICES": gpu} for gpu in gpus] or [{}] * given.jobs
        if given.dry_run:
            dry_run(study, given.only)
        elif given.report:
            report(study, given.only)
        else:
            run(study, given.only, slots)
        return 0

    return run_command(
        command,
        if_stopped="run the same command to resume",
        last=arguments is None,
        at_once=given.dry_run or given.report,
    )
