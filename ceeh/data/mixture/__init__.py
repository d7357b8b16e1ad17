"""Mixtures of sources, as YAML names them: `class_path: ceeh.data.mixture.Mixture`."""

from ceeh.data.mixture.mixture import Mixture

__all__ = ["Mixture"]
