"""Mixtures of sources, as YAML names them: `class_path: ceeh.data.mixture.Mixture`."""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from ceeh.data.mixture.mixture import Mixture

__all__ = ["Mixture"]


def __getattr__(name: str) -> Any:
    """The class when it is named, not when its command parses arguments: its imports take seconds."""
    if name == "Mixture":
        from ceeh.data.mixture.mixture import Mixture

        return Mixture
    raise AttributeError(f"module '{__name__}' has no attribute '{name}'")
