"""python -m ceeh.data.mixture --config FILE [--out train.jsonl] [key=value ...]: draws and reports.

The file written is read anywhere, without hub and without benchmarks, by ceeh.data.sources.Table.
"""

import argparse
import json
import sys
from collections.abc import Iterable, Sequence
from pathlib import Path

from ceeh.config.settings import load
from ceeh.data.mixture.mixture import Mixture
from ceeh.errors import ConfigError
from ceeh.run.atomic import atomic_write, check_folder
from ceeh.runtime.cli import complain
from ceeh.runtime.distributed import say
from ceeh.types import Question


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m ceeh.data.mixture", description=__doc__)
    parser.add_argument("--config", action="append", required=True, metavar="FILE")
    parser.add_argument(
        "--out", type=Path, metavar="FILE.jsonl", help="the questions, one per line"
    )
    parser.add_argument(
        "--report", type=Path, metavar="FOLDER", help="of the report; without it, beside --out"
    )
    parser.add_argument("overrides", nargs="*", metavar="key=value")
    given = parser.parse_intermixed_args(arguments)
    try:
        if given.out:
            check_folder(given.out.parent, "--out: what it lies in,")
            if given.out.is_dir():
                raise ConfigError(f"--out: '{given.out}' is a folder; give a file, FILE.jsonl")
        if given.report:
            check_folder(given.report, "--report:")
        config = load(given.config, given.overrides)
        mixture = config.prompts.train.build("prompts.train")
        if not isinstance(mixture, Mixture):
            raise ConfigError(
                f"prompts.train.class_path is '{config.prompts.train.class_path}', which is no"
                " mixture; add --config configs/data/paper_mixture.yaml, or one of your own"
            )
        questions = _drawn(mixture)
        if given.out:
            write_questions(given.out, questions)
            say(f"wrote {len(questions):,} questions to {given.out}")
        if folder := given.report or (given.out and given.out.parent):
            mixture.report.write(folder)
            say(f"wrote mixture.json and decontamination.jsonl to {folder}")
    except ConfigError as error:
        complain(error)
        return 2
    return 0


def _drawn(mixture: Mixture) -> list[Question]:
    try:
        return list(mixture)
    except ConfigError as error:
        raise ConfigError(f"prompts.train: {error}") from error


def write_questions(path: Path, questions: Iterable[Question]) -> None:
    """A line per question: uid, question, answer, and the metadata as columns beside them."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with atomic_write(path) as file:
        for q in questions:
            row = {**q.metadata, "uid": q.uid, "question": q.text, "answer": q.answer}
            file.write(json.dumps(row, ensure_ascii=False, default=str).encode() + b"\n")


if __name__ == "__main__":
    sys.exit(main())
