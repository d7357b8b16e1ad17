"""`from ceeh import Config, evaluate, fit, load`: whatever was imported before, and without torch."""

import inspect
import pickle
import subprocess
import sys
from pathlib import Path

import pytest

import ceeh
from ceeh.fit import fit

ROOT = Path(__file__).parents[1]
NAMES = "from ceeh import Config, ConfigError, RunError, Stopped, evaluate, fit, load"
CHECK = f"""
{NAMES}
import ceeh.evaluate, ceeh.fit, ceeh.fit as module, sys
assert fit is ceeh.fit is module is sys.modules["ceeh.fit"]
assert evaluate is ceeh.evaluate is sys.modules["ceeh.evaluate"]
assert callable(fit.main) and callable(fit.fit) and callable(fit) and callable(evaluate)
assert isinstance(load(["ceeh.yaml"]), Config) and issubclass(ConfigError, ValueError)
assert {{"torch", "vllm", "lightning"}}.isdisjoint(sys.modules)
"""


@pytest.mark.parametrize(
    "before",
    [
        "import ceeh",
        "import ceeh.fit, ceeh.evaluate",
        "from ceeh.fit import fit",
        "from ceeh.fit.__main__ import main; from ceeh.evaluate.__main__ import main",
        "import ceeh; ceeh.fit; ceeh.evaluate",
    ],
)
def test_function_and_module_are_one_object_in_every_order_of_imports(before: str) -> None:
    done = subprocess.run(
        [sys.executable, "-c", f"{before}\n{CHECK}"], cwd=ROOT, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr


def test_a_called_module_is_its_function(monkeypatch: pytest.MonkeyPatch) -> None:
    assert inspect.signature(ceeh.fit) == inspect.signature(fit)
    assert pickle.loads(pickle.dumps(ceeh.fit)) is ceeh.fit
    monkeypatch.setattr("ceeh.fit.fit", lambda config, *, seed: (config, seed))
    assert ceeh.fit("config", seed=3) == ("config", 3)


def test_other_names_are_refused_as_of_any_module() -> None:
    assert dir(ceeh) == sorted(ceeh.__all__)
    with pytest.raises(AttributeError, match="module 'ceeh' has no attribute 'train'"):
        ceeh.train  # noqa: B018
