"""The answer in a response: the last box after a closed thinking block, found in linear time."""

import re

_BOX = re.compile(r"\\boxed\s*\{")
_BRACE = re.compile(r"\\.|[{}]", re.DOTALL)


def boxed_answer(response: str) -> str | None:
    r"""The content of the last \boxed{} after a closed thinking block; None without one."""
    return last_box(response.rpartition("</think>")[2])


def last_box(text: str) -> str | None:
    r"""The content of the last \boxed{...} up to its closing brace; None if open or empty."""
    start = None
    for match in _BOX.finditer(text):
        start = match.end()
    if start is None:
        return None
    depth = 1
    for match in _BRACE.finditer(text, start):
        depth += {"{": 1, "}": -1}.get(match[0], 0)
        if depth == 0:
            return text[start : match.start()].strip() or None
    return None
