"""ceeh COMMAND [arguments]: `ceeh fit ...` is `python -m ceeh.fit ...`."""

import runpy
import sys
from collections.abc import Sequence

COMMANDS = {
    "init": ("ceeh.init", "copy the packaged configurations into a folder"),
    "sft": ("ceeh.sft", "train a model on demonstrations"),
    "fit": ("ceeh.fit", "train a model, evaluated before and after"),
    "evaluate": ("ceeh.evaluate", "evaluate a model, adapter, run or checkpoint on benchmarks"),
    "compare": ("ceeh.compare", "compare evaluations of the same questions"),
    "study": ("ceeh.study", "run arms x seeds, evaluate all and report"),
    "rollouts": ("ceeh.rollouts", "show the sampled responses of a run"),
    "export": ("ceeh.export", "write a run's model as a Hugging Face folder"),
    "mixture": ("ceeh.data.mixture", "draw a mixture of data sets into a file"),
    "tracking": ("ceeh.tracking", "send what MLflow has not received of a run"),
}


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs the command, which ends the process with its own status; 2 for an unknown command."""
    given = sys.argv[1:] if arguments is None else arguments
    name, *rest = given or ["--help"]
    if name in ("-h", "--help"):
        print("usage: ceeh COMMAND [arguments]\n       ceeh COMMAND --help\n")
        for command, (_, about) in COMMANDS.items():
            print(f"  {command:10} {about}")
        return 0
    if name not in COMMANDS:
        print(f"error: no command '{name}'; give one of {', '.join(COMMANDS)}", file=sys.stderr)
        return 2
    module, _ = COMMANDS[name]
    sys.argv = [f"ceeh {name}", *rest]
    runpy.run_module(module, run_name="__main__", alter_sys=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
