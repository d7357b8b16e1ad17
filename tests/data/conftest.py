"""A math verifier with its worker processes, one for each file that uses it."""

from collections.abc import Iterator

import pytest

from ceeh.data.verify.math_answer import MathAnswer
from tests.data.verify.scoring import verdict


@pytest.fixture(scope="module")
def mathematics() -> Iterator[MathAnswer]:
    verifier = MathAnswer(timeout_seconds=2, workers=2)
    verdict(verifier, "x^2-1", r"\boxed{(x+1)(x-1)}")
    yield verifier
    verifier.close()
