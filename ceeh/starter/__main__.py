"""python -m ceeh.starter: the starter model before its training, and its table of styles and levels.

The arguments are read before torch is imported.
"""

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from ceeh.runtime.cli import run_command


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        prog="python -m ceeh.starter",
        description="The starter model before its training, and its table of styles and levels.",
    )
    commands = parser.add_subparsers(dest="command", required=True)
    untrained = commands.add_parser("untrained", help="write a model folder with random weights")
    untrained.add_argument("folder", type=Path)
    untrained.add_argument("--seed", type=int, default=0)
    untrained.add_argument("--width", type=int, default=64)
    untrained.add_argument("--layers", type=int, default=3)
    untrained.add_argument("--heads", type=int, default=2)
    table = commands.add_parser("table", help="accuracy and tokens by style and level")
    table.add_argument("folder", type=Path, nargs="?", help="default: the shipped model")
    table.add_argument("--questions", type=int, default=200, help="per style and level")
    args = parser.parse_args(arguments)
    if args.command == "table" and args.questions < 1:
        parser.error(f"--questions must be at least 1, got {args.questions}")

    def command() -> int:
        from ceeh.starter.model import MODEL_DIR, write_untrained
        from ceeh.starter.table import print_table

        if args.command == "untrained":
            sizes = {"width": args.width, "layers": args.layers, "heads": args.heads}
            write_untrained(args.folder, seed=args.seed, **sizes)
        else:
            print_table(args.folder or MODEL_DIR, questions=args.questions, seed=11)
        return 0

    return run_command(
        command, if_stopped="nothing was saved", last=arguments is None, at_once=True
    )


if __name__ == "__main__":
    sys.exit(main())
