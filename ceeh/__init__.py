"""ceeh: reinforcement learning that compresses the easy and explores the hard (arXiv 2602.22642).

From Python: `from ceeh import Config, evaluate, fit, load`. Nothing of it is imported before it is used.
"""

import os
from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from ceeh.config.settings import Config, load
    from ceeh.errors import ConfigError, RunError
    from ceeh.evaluate import evaluate
    from ceeh.fit import fit
    from ceeh.runtime.shutdown import Stopped

__all__ = ["Config", "ConfigError", "RunError", "Stopped", "evaluate", "fit", "load"]

# Before the first import of torch. Its C++ warnings, and those of vLLM's CPU kernels on NUMA and oneDNN, go
# to the terminal past Python's filters; errors still do.
os.environ.setdefault("TORCH_CPP_LOG_LEVEL", "ERROR")

_MODULES = {
    "Config": "ceeh.config.settings",
    "load": "ceeh.config.settings",
    "ConfigError": "ceeh.errors",
    "RunError": "ceeh.errors",
    "Stopped": "ceeh.runtime.shutdown",
}


def __getattr__(name: str) -> Any:
    if name in ("evaluate", "fit"):  # modules that can be called: see `CallableModule`
        return import_module(f"ceeh.{name}")
    if name in _MODULES:
        return getattr(import_module(_MODULES[name]), name)
    raise AttributeError(f"module 'ceeh' has no attribute '{name}'")


def __dir__() -> list[str]:
    return sorted(__all__)
