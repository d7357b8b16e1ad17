"""What ceeh uses of vLLM is there: read in the installed one's sources; and the reader finds what is not."""

import ast
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from tests.data.engine.vllm_surface import (
    SURFACE,
    VARIABLES,
    Used,
    definitions,
    installed,
    main,
    missing,
)

ENGINE = Path("ceeh/data/engine")


@pytest.mark.parametrize("used", SURFACE, ids=lambda used: used.name)
def test_the_installed_vllm_has_what_is_used(used: Used) -> None:
    assert missing(installed(), used) == ""


def test_the_installed_vllm_has_it_at_run_time() -> None:
    """By import, where a decorator or an alias could hide what the sources show.

    The engine's tests cannot tell: they run on the CPU, where nothing sleeps.
    """
    code = (
        "import inspect, vllm; from vllm.logprobs import FlatLogprobs; "
        "takes = lambda f, *names: set(names) <= set(inspect.signature(f).parameters); "
        "assert takes(vllm.LLM.enqueue, 'prompts', 'sampling_params', 'use_tqdm'); "
        "assert takes(vllm.LLM.sleep, 'level') and takes(vllm.LLM.wake_up, 'tags'); "
        "vllm.SamplingParams(logprobs=0, flat_logprobs=True, detokenize=False); vllm.TokensPrompt; "
        "assert {'logprobs', 'token_ids', 'start_indices'} <= set(vars(FlatLogprobs())); "
        "from vllm.distributed import cleanup_dist_env_and_memory"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


def test_each_variable_that_is_set_is_one_that_is_looked_up() -> None:
    source = (ENGINE / "vllm_process.py").read_text()
    assert set(re.findall(r'"(VLLM_\w*[A-Z])"', source)) == set(VARIABLES)


def test_each_method_of_llm_that_is_called_is_looked_up() -> None:
    called = set()
    for file in sorted(ENGINE.glob("vllm_*.py")):
        for node in ast.walk(ast.parse(file.read_text())):
            if isinstance(node, ast.Attribute) and ast.unparse(node.value) in (
                "llm",
                "self._llm",
                "self._live()",
            ):
                called.add(f"LLM.{node.attr}")
    assert called >= {"LLM.enqueue", "LLM.collective_rpc", "LLM.sleep"}
    names = {used.name.partition("(")[0] for used in SURFACE}
    assert called <= names


def test_a_changed_vllm_is_found_out(tmp_path: Path, capsys, monkeypatch) -> None:
    """Each change to a copy of the files is told by name."""
    package = tmp_path / "vllm"
    for used in SURFACE:
        for name in used.file.split("|"):
            if (installed() / name).is_file():
                (package / name).parent.mkdir(parents=True, exist_ok=True)
                shutil.copy(installed() / name, package / name)
    monkeypatch.setattr(sys, "argv", ["vllm_surface.py", str(tmp_path)])
    assert main() == 0
    for name, old, new in (
        ("entrypoints/llm.py", "def enqueue(", "def queue("),
        ("entrypoints/llm.py", "level: int = 1", "depth: int = 1"),
        ("v1/engine/parallel_sampling.py", "seed + index", "seed"),
    ):
        kept = (package / name).read_text()
        assert old in kept
        (package / name).write_text(kept.replace(old, new))
        definitions.cache_clear()
        capsys.readouterr()
        assert main() == 1
        assert len(capsys.readouterr().err.splitlines()) == 2  # what is missing, and the count
        (package / name).write_text(kept)
        definitions.cache_clear()
    (package / "logprobs.py").unlink()
    assert main() == 1
