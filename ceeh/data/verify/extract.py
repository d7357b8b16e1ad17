"""The answer in a response, as text: the last box, what of it can be read, one spelling for each thing.

Every step takes time linear in the text: responses and references may hold anything.
"""

import re
import unicodedata

MAX_ANSWER_CHARACTERS = 2000
MAX_NESTING = 40

_BOX = re.compile(r"\\boxed\s*\{")
_BRACE = re.compile(r"\\.|[{}]", re.DOTALL)


def boxed_answer(response: str) -> str | None:
    r"""The inside of the last \boxed{}, after a closed thinking block; None without one."""
    return last_box(response.rpartition("</think>")[2])


def last_box(text: str) -> str | None:
    r"""The inside of the last \boxed{...}, up to its own closing brace; None if open or empty."""
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
_SAME = str.maketrans(
    {
        **dict.fromkeys("\u2212\u2013\ufe63\uff0d", "-"),
        **dict.fromkeys("\u00a0\u2002\u2003\u3000\t\n\r", " "),
        **dict.fromkeys("\u2009\u202f", r"\,"),
        "\u00d7": r"\times ",
        "\u00b7": r"\cdot ",
        "\u22c5": r"\cdot ",
        "\u00f7": "/",
        "\u2044": "/",
        "\u00b1": r"\pm ",
        "\u00b0": r"^\circ ",
        "\u00b2": "^2",
        "\u00b3": "^3",
        "\u221e": r"\infty ",
        "\u221a": r"\sqrt ",
        "\u2264": r"\le ",
        "\u2265": r"\ge ",
        "\u2260": r"\ne ",
        "\u222a": r"\cup ",
        "\u2229": r"\cap ",
        "\u2208": r"\in ",
        "\u2205": r"\emptyset ",
        "\u03c0": r"\pi ",
        "\u03b1": r"\alpha ",
        "\u03b2": r"\beta ",
        "\u03b8": r"\theta ",
        "\u03bb": r"\lambda ",
        "\u20ac": r"\$",  # which currency is no part of the value
        "\u00a3": r"\$",
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
    r"""`text` in one spelling for each thing: no dollar signs, no layout, ASCII where there is any.

    None when it cannot be an answer: empty, above MAX_ANSWER_CHARACTERS or MAX_NESTING brackets in
    each other, which parsers choke on, or with control, format, combining or unassigned characters
    and lone surrogates, which show one thing and hold another.
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
    r"""LaTeX without the spaces that mean nothing: `\pi r` and `1 2` keep theirs, `x + 1` has none."""
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
