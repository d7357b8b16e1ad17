"""python -m ceeh.export RUN OUT: writes the model of a run as a Hugging Face folder with a model card.

As in `ceeh.fit`, the arguments are checked before torch is imported; `ceeh.export.run` does the work.
"""

import argparse
import sys
from collections.abc import Sequence

from ceeh.run.places import check_folder, check_run
from ceeh.runtime.cli import run_command
from ceeh.runtime.paths import expanded


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        prog="python -m ceeh.export",
        description="Write the model of a run as a Hugging Face folder with a model card.",
    )
    add = parser.add_argument
    add("run", metavar="RUN", help="a run folder, or a .ckpt file inside one")
    add("out", metavar="OUT", type=expanded, help="the folder to write")
    add("--adapter", action="store_true", help="only the LoRA, as a PEFT folder, not merged")
    add(
        "--dtype",
        choices=("auto", "bfloat16", "float16", "float32"),
        default="auto",
        help="auto: the base's; float32 for an adapter",
    )
    add(
        "--checkpoint",
        type=expanded,
        metavar="FILE",
        help="of the run, instead of its final weights",
    )
    add("--force", action="store_true", help="replace an older export")
    add("--completions", action="store_true", help="with the responses to held-out questions")
    add("--trust-remote-code", action="store_true", help="run the base model's own code")
    add("--push-to-hub", metavar="ID", help="upload OUT as user/name, with HF_TOKEN")
    add("--private", action="store_true", help="create a private repository")
    given = parser.parse_args(arguments)
    if given.private and not given.push_to_hub:
        parser.error("--private needs --push-to-hub ID")
    words = arguments or sys.argv[1:]

    def command() -> int:
        check_run(given.run)
        check_folder(given.out, "OUT")
        from ceeh.export.run import run

        run(given, words)
        return 0

    return run_command(
        command, if_stopped="an unfinished export leaves nothing behind", last=arguments is None
    )
