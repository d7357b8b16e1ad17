"""The command answers a mistake before it imports what takes seconds."""

import signal
import subprocess
import sys

from ceeh import fit
from tests.commands import said
from tests.test_fit import SHIPPED


def imported_by(module: str, *arguments: str) -> str:
    program = (
        f"import sys\nfrom {module} import main\n"
        "try: main(sys.argv[1:])\nexcept SystemExit: pass\n"
        "print([name for name in ('torch', 'lightning', 'transformers') if name in sys.modules])"
    )
    given = [sys.executable, "-c", program, *arguments]
    return subprocess.run(given, capture_output=True, text=True, check=True).stdout.splitlines()[-1]


def test_help_a_typo_and_the_printed_configuration_import_no_torch() -> None:
    config = ["--config", str(SHIPPED)]
    assert imported_by("ceeh.fit", "--help") == "[]"
    assert imported_by("ceeh.fit", *config, "optimizer.lrr=1") == "[]"
    assert imported_by("ceeh.fit", *config, "--print-config") == "[]"


def test_a_setting_with_dashes_is_answered_without_them() -> None:
    answer = said(fit.main, ["--config", "x.yaml", "--optimizer.lr=0.1"])
    assert answer.code == 2
    assert "--optimizer.lr=0.1; settings are written without dashes: optimizer.lr=0.1" in answer.err


def test_a_reader_that_leaves_is_no_error_of_the_command() -> None:
    given = [sys.executable, "-m", "ceeh.fit", "--config", str(SHIPPED), "--print-config"]
    with subprocess.Popen(given, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as command:
        assert command.stdout is not None
        assert command.stderr is not None
        command.stdout.close()
        assert command.stderr.read() == b""
    assert command.returncode == 128 + signal.SIGPIPE
