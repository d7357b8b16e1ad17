"""`distilled`, for all tests of this folder."""

from tests.memory.recipes import distilled

__all__ = ["distilled"]
