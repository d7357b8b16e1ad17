"""python -m ceeh.data.mixture --config FILE [--out train.jsonl] [key=value ...]: draws, reports.

Without --out it prints the counts alone. Any machine can train on the file, without hub or
benchmarks, through ceeh.data.sources.Table.
"""

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from ceeh.config.settings import load
from ceeh.errors import ConfigError
from ceeh.run.places import check_folder
from ceeh.runtime.cli import run_command
from ceeh.runtime.paths import expanded


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m ceeh.data.mixture", description=__doc__)
    parser.add_argument(
        "--config", action="append", required=True, metavar="FILE", help="later files win"
    )
    parser.add_argument("--out", type=expanded, metavar="FILE.jsonl", help="one question per line")
    parser.add_argument("overrides", nargs="*", metavar="key=value")
    given = parser.parse_intermixed_args(arguments)

    def command() -> int:
        out: Path | None = given.out
        if out:
            check_folder(out.parent, "--out: its folder")
            if out.is_dir():
                raise ConfigError(f"--out: '{out}' is a folder; give a file, FILE.jsonl")
        train = load(given.config, given.overrides).prompts.train
        from ceeh.data.mixture.mixture import Mixture, write_lines  # takes seconds
        from ceeh.runtime.distributed import say

        mixture = train.build("prompts.train")
        if not isinstance(mixture, Mixture):
            raise ConfigError(
                f"prompts.train.class_path is '{train.class_path}', which is not a mixture; add"
                " --config configs/data/paper_mixture.yaml or your own"
            )
        try:
            questions = mixture.draw.questions
        except ConfigError as error:
            raise ConfigError(f"prompts.train: {error}") from error
        if out:
            mixture.write_report(out.parent)
            say(f"wrote mixture.json and decontamination.jsonl to {out.parent}")
            rows = (
                {**q.metadata, "uid": q.uid, "question": q.text, "answer": q.answer}
                for q in questions
            )
            write_lines(out, rows)
            say(f"wrote {len(questions):,} questions to {out}")
        return 0

    return run_command(command, if_stopped="run it again", last=arguments is None, at_once=True)


if __name__ == "__main__":
    sys.exit(main())
