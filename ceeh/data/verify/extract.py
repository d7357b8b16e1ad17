"""The answer in a response as text: the last box, cleaned to one spelling.

Every step takes time linear in the text: responses and references may hold anything.
"""

import re
import unicodedata

MAX_ANSWER_CHARACTERS = 2000
MAX_NESTING = 40

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


# What models and data sets write for a LaTeX command or an ASCII character.
_COMMANDS = r"""
    × \times  · \cdot  ⋅ \cdot  ± \pm  ° ^\circ  √ \sqrt  ∞ \infty  ≤ \le  ≥ \ge  ≠ \ne
    ∪ \cup  ∩ \cap  ∈ \in  ∅ \emptyset  π \pi  α \alpha  β \beta  θ \theta  λ \lambda
"""  # noqa: RUF001
_PAIRS = _COMMANDS.split()
_SAME = str.maketrans(
    {
        **{sign: f"{name} " for sign, name in zip(_PAIRS[::2], _PAIRS[1::2], strict=True)},
        **dict.fromkeys("\u2212\u2013\ufe63\uff0d", "-"),
        **dict.fromkeys("\u00a0\u2002\u2003\u3000\t\n\r", " "),
        **dict.fromkeys("\u2009\u202f", r"\,"),
        **dict.fromkeys("\u20ac\u00a3", r"\$"),  # the currency is not compared
        **dict.fromkeys("\u00f7\u2044", "/"),
        "\u00b2": "^2",
        "\u00b3": "^3",
    }
)
_REWRITE = [
    (re.compile(pattern, re.ASCII), replacement)
    for pattern, replacement in (
        (r"(?<!\\)\$", ""),
        (r"(?<=\d)(?:\\[,;!]|\{,\})+ ?(?=\d{3}(?!\d))", ""),  # 10\,000
        (r"(?<!\\)\\(?:!|(?:displaystyle|left|right)(?![A-Za-z])\.?)", ""),
        (r"\{,\}", ","),
        (r"(?<!\\)\\[,;: ]|~|\\q?quad(?![A-Za-z])", " "),
        (r"\\[dtc]frac(?![A-Za-z])", r"\\frac"),
        (r"\\varnothing(?![A-Za-z])", r"\\emptyset"),
        (r"\\lbrace(?![A-Za-z])", r"\\{"),
        (r"\\rbrace(?![A-Za-z])", r"\\}"),
        (r"\\(?:text[a-z]{2,6}|math(?:rm|bf|it|sf)|mbox)(?![A-Za-z])", r"\\text"),
        (r"(?:, ?)?\\text ?\{ ?(?:and|or) ?\}", ","),
        (r" {2,}", " "),
    )
]


def clean(text: str) -> str | None:
    r"""`text` in one spelling: without dollar signs and layout, in ASCII where possible.

    None when it cannot be an answer: empty, longer than MAX_ANSWER_CHARACTERS or nested deeper than
    MAX_NESTING brackets, which parsers cannot take, or with control, format, combining or unassigned
    characters or lone surrogates, which look different from what they are.
    """
    if len(text) > MAX_ANSWER_CHARACTERS or _nesting(text) > MAX_NESTING:
        return None
    text = text.translate(_SAME)
    if any(unicodedata.category(character)[0] in "CM" for character in text):
        return None
    for pattern, replacement in _REWRITE:
        text = pattern.sub(replacement, text)
    text = text.strip().removesuffix(".").strip()
    return text or None


def _nesting(text: str) -> int:
    depth = deepest = 0
    for bracket in _BRACKET.findall(text):
        depth += 1 if bracket in "([{" else -1
        deepest = max(deepest, depth)
    return deepest


_BRACKET = re.compile(r"[\[\](){}]")
_TOKEN = re.compile(r"\\[A-Za-z]+|\\.|.", re.DOTALL)


def squeezed(text: str) -> str:
    r"""LaTeX without meaningless spaces: `\pi r` and `1 2` keep theirs, `x + 1` loses them."""
    written, last, spaced = [], "", False
    for token in _TOKEN.findall(text):
        if token == " ":
            spaced = True
            continue
        after_command = last[:1] == "\\" and last[-1].isalpha() and token[0].isalpha()
        if after_command or (spaced and last[-1:].isdigit() and token.isdigit()):
            written.append(" ")
        written.append(token)
        last, spaced = token, False
    return "".join(written)
