r"""An answer as tokens. Only layout is lost: space, \left, \displaystyle, dollar signs, fonts.

Every step takes time linear in the text: responses and references may hold anything.
"""

import re
import unicodedata
from typing import NamedTuple

MAX_ANSWER_CHARACTERS = 2000
MAX_NESTING = 40


class Token(NamedTuple):
    """`kind` is number, letter, word (two letters or more), set (a blackboard letter) or sign.

    `font` is "text" for upright text, "math" for other fonts, "" for none, and "name" for letters of a
    word of capitals; `spaced` tells that space
    or layout came before.
    """

    kind: str
    text: str
    font: str = ""
    spaced: bool = False


# What models and data sets write for a LaTeX command or an ASCII character.
_COMMANDS = r"""
    × \times  · \cdot  ⋅ \cdot  ∙ \cdot  ± \pm  ∓ \mp  ° ^\circ  √ \sqrt  ∞ \infty  ≤ \le  ≥ \ge
    ≠ \ne  ≈ \approx  ≡ \equiv  ∪ \cup  ∩ \cap  ∈ \in  ∅ \emptyset  π \pi  α \alpha  β \beta
    γ \gamma  θ \theta  λ \lambda  μ \mu  σ \sigma  φ \phi  ω \omega  ∠ \angle  … \ldots  ∖ \setminus
    ½ \frac12  ⅓ \frac13  ⅔ \frac23  ¼ \frac14  ¾ \frac34
    ℝ \mathbb{R}  ℤ \mathbb{Z}  ℕ \mathbb{N}  ℚ \mathbb{Q}  ℂ \mathbb{C}
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
        **{power: f"^{digit}" for digit, power in enumerate("\u2070\u00b9\u00b2\u00b3\u2074")},
        **dict.fromkeys("\u2018\u2019\u2032", "'"),
    }
)
_SPELLINGS = r"""
    \dfrac \frac  \tfrac \frac  \cfrac \frac  \tbinom \binom  \dbinom \binom  \cdot *  \times *  \ast *
    \div /  \le <=  \leq <=  \leqslant <=  \ge >=  \geq >=  \geqslant >=  \lt <  \gt >  \ne !=  \neq !=
    \lbrace \{  \rbrace \}  \lbrack [  \rbrack ]  \vert |  \lvert \l|  \rvert \r|  \varnothing \emptyset
    \dots ...  \ldots ...  \cdots ...  \dotsc ...  \colon :  \degree ^\circ  \backslash \setminus
    \bmod \mod  \pod \pmod  \varphi \phi  \varepsilon \epsilon  \imath i  \jmath j
    \wedge and  \land and  \vee or  \lor or  \to \rightarrow  \% %  \prime '  \smallsetminus \setminus
    \lgroup (  \rgroup )  \infin \infty  \lnot \neg  \Leftrightarrow \iff
"""
_NAMES: dict[str, str] = dict(zip(_SPELLINGS.split()[::2], _SPELLINGS.split()[1::2], strict=True))
_LAYOUT_NAMES = r"""
    \displaystyle \textstyle \limits \nolimits \big \Big \bigg \Bigg \bigl \bigr \Bigl \Bigr \biggl \biggr
    \quad \qquad \rm \bf \it \enspace \thinspace
"""
_TEXT_NAMES = r"\text \textrm \textnormal \textsf \mathrm \mathsf \mbox \operatorname"
_MATH_NAMES = r"""
    \textbf \textit \texttt \emph \mathbf \mathit \mathcal \mathtt \mathscr \boldsymbol \bm \boxed \fbox
"""
_LAYOUT = frozenset(_LAYOUT_NAMES.split())
_TEXT_FONTS = frozenset(_TEXT_NAMES.split())
_MATH_FONTS = frozenset(_MATH_NAMES.split())
_GROUPED = r"\d{1,3}(?:(?:,?\\[!,;]|\{[ ]?,[ ]?\})+[ ]?\d{3})+(?!\d)"
_TOKEN = re.compile(
    rf"""
      (?P<space>(?:[ ~]|\\[ ,;:!>])+)
    | (?P<number>(?:{_GROUPED}|[1-9]\d{{0,2}}(?:[ ]\d{{3}})+(?![\d/]|[ ]/)|\d+)(?:\.(?!\.)\d*)?
        (?:[eE][+-]?\d{{1,3}}(?![\dA-Za-z]))?|\.\d+)
    | (?P<degree>\^[ ]?(?:\{{[ ]?\\circ[ ]?\}}|\\circ(?![A-Za-z])))
    | (?P<prime>\^[ ]?(?:\{{[ ]?(?:\\prime[ ]?)+\}}|\\prime(?![A-Za-z])))
    | (?P<half>[AaPp]\.[ ]?[Mm]\.?)
    | (?P<blackboard>\\mathbb[ ]?(?:\{{[ ]?[A-Z][ ]?\}}|[A-Z]))
    | (?P<command>\\(?:[A-Za-z]+|.))
    | (?P<word>[A-Za-z]+)
    | (?P<dots>\.\.\.)
    | (?P<relation><=|>=|!=)
    | (?P<sign>.)
    """,
    re.VERBOSE | re.ASCII,
)
_MARKDOWN = re.compile(r"(\*{1,3}|_{1,2}|`)(?!\1)(.*[^*_`])\1\.?", re.DOTALL)
_BRACKET = re.compile(r"[\[\](){}]")
_SHORT = "yes no odd all any one two six ten red mon tue wed thu fri sat sun non dne per am pm cm"
SHORT_WORDS = frozenset(_SHORT.split())
"""Words of up to three letters that are no products of variables."""
_GREEK_NAMES = """
    alpha beta gamma delta epsilon zeta eta theta iota kappa lambda mu nu xi rho sigma tau upsilon phi chi
    psi omega Gamma Delta Theta Lambda Xi Sigma Phi Psi Omega Pi hbar
"""
GREEK = frozenset(rf"\{name}" for name in _GREEK_NAMES.split())


def tokenize(text: str) -> list[Token] | None:
    """The tokens of an answer.

    None when it cannot be an answer: without letter, digit, command or relation, longer than
    MAX_ANSWER_CHARACTERS or nested deeper than MAX_NESTING brackets, or with control, format,
    combining or unassigned characters or lone surrogates, which look different from what they are.
    """
    if len(text) > MAX_ANSWER_CHARACTERS or _nesting(text) > MAX_NESTING:
        return None
    text = text.translate(_SAME)
    if any(unicodedata.category(character)[0] in "CM" for character in text):
        return None
    text = text.strip()
    if r"\begin" not in text:  # where a doubled backslash is no line break, it was escaped twice
        text = re.sub(r"\\\\(?=[A-Za-z])", r"\\", text)
    if marked := _MARKDOWN.fullmatch(text):
        text = marked[2]
    tokens = _joined_thousands(_scan(text))
    while tokens and tokens[-1].text == "." and len(tokens) > 1:
        tokens.pop()
    if tokens and tokens[-1].kind == "number":
        tokens[-1] = tokens[-1]._replace(text=tokens[-1].text.removesuffix("."))
    said = any(t.text[-1].isalnum() or t.text[0] in "\\<>=" for t in tokens)
    return tokens if said else None


def spelling(tokens: list[Token]) -> str:
    """The tokens as text, without the case of words: two answers with one spelling are equal."""
    written = [folded(t.text) if t.font == "text" or len(t.text) > 3 else t.text for t in tokens]
    single = [
        0 < i < len(written) - 1
        and (written[i - 1], written[i + 1]) == ("{", "}")
        and i > 1
        and written[i - 2] in "^_"
        for i in range(len(written))
    ]
    lone = {j for i, yes in enumerate(single) if yes for j in (i - 1, i + 1)}
    return " ".join(text for i, text in enumerate(written) if i not in lone)


def folded(word: str) -> str:
    """A word of text without case, unless it is a name: up to three capitals."""
    lower = word.casefold()
    name = not word.isalpha() or (word.isupper() and len(word) < 4 and lower not in SHORT_WORDS)
    return word if name else lower


def _nesting(text: str) -> int:
    depth = deepest = 0
    for bracket in _BRACKET.findall(text):
        depth += 1 if bracket in "([{" else -1
        deepest = max(deepest, depth)
    return deepest


def _scan(text: str) -> list[Token]:
    tokens: list[Token] = []
    fonts: list[str] = [""]
    font, spaced = "", False
    side = ""
    for match in _TOKEN.finditer(text):
        kind, written = match.lastgroup, match[0]
        if kind == "space" or written == "$" or written in _LAYOUT:
            spaced = True
            continue
        if written in _TEXT_FONTS or written in _MATH_FONTS:
            font = "text" if written in _TEXT_FONTS else "math"
            continue
        if written in (r"\left", r"\right"):
            side = written
            continue
        if side and written == ".":
            side = ""
            continue
        if side and written == "|":
            written = r"\l|" if side == r"\left" else r"\r|"
        side = ""
        if kind == "command":
            written = _NAMES.get(written, written)
        if written == "{":
            fonts.append(font or fonts[-1])
            if font:
                tokens.append(Token("font", "{", font, spaced))
            else:
                tokens.append(Token("sign", "{", "", spaced))
            font, spaced = "", False
            continue
        if written == "}" and len(fonts) > 1:
            fonts.pop()
            tokens.append(Token("sign", "}", "", spaced))
            spaced = False
            continue
        tokens.append(_token(kind or "", written, font or fonts[-1], spaced))
        font, spaced = "", False
    return _without_font_braces(tokens)


def _token(kind: str, written: str, font: str, spaced: bool) -> Token:
    if kind == "number":
        digits = re.sub(r"[^\d.eE+-]", "", written)
        return Token("number", digits, font, spaced)
    if kind == "degree":
        return Token("sign", r"^\circ", font, spaced)
    if kind == "prime":
        return Token("sign", "'", font, spaced)
    if kind == "half":
        return Token("word", "am" if written[0] in "aA" else "pm", "text", spaced)
    if kind == "blackboard":
        return Token("set", f"\\mathbb {re.sub('[^A-Z]', '', written[7:])}", "", spaced)
    if written.isascii() and written.isalpha():
        return Token("letter" if len(written) == 1 else "word", written, font, spaced)
    return Token("letter" if written in GREEK else "sign", written, font, spaced)


def _without_font_braces(tokens: list[Token]) -> list[Token]:
    """Without the braces of fonts, except around several tokens that are one argument."""
    kept: list[Token] = []
    opened: list[bool] = []
    spaced = False
    for i, token in enumerate(tokens):
        if token.text == "{":
            argument = kept and kept[-1].text in ("^", "_") and tokens[i + 2 : i + 3] != [_CLOSE]
            opened.append(token.kind == "font" and not argument)
        if (token.text == "{" and opened[-1]) or (token.text == "}" and opened and opened.pop()):
            spaced = True
            continue
        kept.append(token._replace(spaced=token.spaced or spaced))
        spaced = False
    return kept


def _joined_thousands(tokens: list[Token]) -> list[Token]:
    """1,234 as one number, outside brackets or where another comma is followed by space.

    Within brackets it is two numbers, unless the second would begin with a zero.
    """
    groups, loose, stack = [], set(), [0]
    for i, token in enumerate(tokens):
        if token.text in _OPENING:
            stack.append(i + 1 if token.text != "{" else -i - 1)
        groups.append(stack[-1])
        if token.text in (")", "]", "}", r"\}") and len(stack) > 1:
            stack.pop()
        if token.text in (",", ";") and i + 1 < len(tokens) and tokens[i + 1].spaced:
            loose.add(groups[-1])
    joined: list[Token] = []
    i = 0
    while i < len(tokens):
        run = [tokens[i]]
        while _continues(tokens, i + 2 * len(run) - 1):
            run.append(tokens[i + 2 * len(run)])
        i, group = i + 2 * len(run) - 1, groups[i]
        parts = [token.text for token in run]
        if (
            len(run) > 1
            and re.fullmatch(r"[1-9]\d{0,2}(?:,\d{3})+(?:\.\d*)?", ",".join(parts), re.ASCII)
            and (group <= 0 or group in loose or any(part[0] == "0" for part in parts[1:]))
        ):
            joined.append(run[0]._replace(text="".join(parts)))
        else:
            for part in run[:-1]:
                joined += [part, Token("sign", ",")]
            joined.append(run[-1])
    return joined


def _continues(tokens: list[Token], at: int) -> bool:
    """Whether a comma at `at` joins two numbers without space."""
    return (
        at + 1 < len(tokens)
        and tokens[at].text == ","
        and tokens[at - 1].kind == tokens[at + 1].kind == "number"
        and not tokens[at].spaced
        and not tokens[at + 1].spaced
    )


_CLOSE = Token("sign", "}")
_OPENING = ("(", "[", r"\{", "{")
