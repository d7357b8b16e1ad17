r"""An answer as tokens. Only layout is lost: space, \left, \displaystyle, dollar signs, fonts.

Every step takes time linear in the text: responses and references may hold anything.
"""

import re
import unicodedata
from itertools import accumulate
from typing import NamedTuple

from ceeh.data.verify.words import GREEK, SHORT_WORDS

MAX_ANSWER_CHARACTERS = 2000
MAX_NESTING = 40


class Token(NamedTuple):
    """`kind` is number, letter, word (two letters or more), set (a blackboard letter) or sign.

    `font` is "text" for upright text, "math" for other fonts, "" for none, and "name" for letters of a
    word of capitals; `spaced` tells that space or layout came before.
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
    $ \displaystyle \textstyle \limits \nolimits \big \Big \bigg \Bigg \bigl \bigr \Bigl \Bigr \biggl
    \biggr \quad \qquad \rm \bf \it \enspace \thinspace
"""
_LAYOUT = frozenset(_LAYOUT_NAMES.split())
_TEXT_NAMES = r"\text \textrm \textnormal \textsf \mathrm \mathsf \mbox \operatorname"
_MATH_NAMES = r"""
    \textbf \textit \texttt \emph \mathbf \mathit \mathcal \mathtt \mathscr \boldsymbol \bm \boxed \fbox
"""
_FONTS = dict.fromkeys(_TEXT_NAMES.split(), "text") | dict.fromkeys(_MATH_NAMES.split(), "math")
_SPACE = r"(?:[ ~]|\\[ ,;:!>])"
_GROUPED = r"\d{1,3}(?:(?:,?\\[!,;]|\{[ ]?,[ ]?\})+[ ]?\d{3})+(?!\d)"
_TOKEN = re.compile(
    rf"""
      (?P<space>{_SPACE}+)
    | (?P<number>(?:{_GROUPED}|[1-9]\d{{0,2}}(?:[ ]\d{{3}})+(?![\d/]|[ ]/)|\d+)(?:\.(?!\.)\d*)?
        (?:[eE][+-]?\d{{1,3}}(?![\dA-Za-z]))?|\.\d+)
    | (?P<side>\\(?:left|right)(?![A-Za-z])(?:{_SPACE}*(?:\||\.(?![\d.])))?)
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
_THOUSANDS = re.compile(r"[1-9]\d{0,2}(?:,\d{3})+(?:\.\d*)?", re.ASCII)
_MARKDOWN = re.compile(r"(\*{1,3}|_{1,2}|`)(?!\1)(.*[^*_`])\1\.?", re.DOTALL)
_LONE_SCRIPT = re.compile(r"(?<![^ ])([\^_]) \{ (\\mathbb .|[^ ]+) \}(?![^ ])")


def tokenize(text: str) -> list[Token] | None:
    """The tokens of an answer.

    None when it cannot be an answer: without letter, digit, command or relation, longer than
    MAX_ANSWER_CHARACTERS or nested deeper than MAX_NESTING brackets, or with control, format,
    combining or unassigned characters or lone surrogates, which look different from what they are.
    """
    depths = accumulate(1 if bracket in "([{" else -1 for bracket in re.findall(r"[][(){}]", text))
    if len(text) > MAX_ANSWER_CHARACTERS or max(depths, default=0) > MAX_NESTING:
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
    while len(tokens) > 1 and tokens[-1].text == ".":
        tokens.pop()
    if tokens and tokens[-1].kind == "number":
        tokens[-1] = tokens[-1]._replace(text=tokens[-1].text.removesuffix("."))
    said = any(t.text[-1].isalnum() or t.text[0] in "\\<>=" for t in tokens)
    return tokens if said else None


def spelling(tokens: list[Token]) -> str:
    """The tokens as text, without the case of words: two answers with one spelling are equal."""
    words = (folded(t.text) if t.font == "text" or len(t.text) > 3 else t.text for t in tokens)
    return _LONE_SCRIPT.sub(r"\1 \2", " ".join(words))


def folded(word: str) -> str:
    """A word of text without case, unless it is a name: up to three capitals."""
    lower = word.casefold()
    name = not word.isalpha() or (word.isupper() and len(word) < 4 and lower not in SHORT_WORDS)
    return word if name else lower


def _scan(text: str) -> list[Token]:
    tokens: list[Token] = []
    groups = [("", -1)]  # of each open brace: the font inside, and where it is if a font has set it
    font, spaced = "", False
    for match in _TOKEN.finditer(text):
        kind, written = match.lastgroup or "", match[0]
        if kind == "side" and written[-1] != "|":
            continue
        if kind == "space" or written in _LAYOUT:
            spaced = True
        elif written in _FONTS:
            font = _FONTS[written]
        elif written == "}" and len(groups) > 1:
            start = groups.pop()[1]
            argument = start > 0 and tokens[start - 1].text in ("^", "_")
            if start < 0 or (
                argument and len(tokens) > start + 2
            ):  # several tokens are one argument
                tokens.append(Token("sign", "}", "", spaced))
                spaced = False
            else:
                spaced = _remove(tokens, start)
        else:
            if written == "{":
                groups.append((font or groups[-1][0], len(tokens) if font else -1))
            tokens.append(_token(kind, _NAMES.get(written, written), font or groups[-1][0], spaced))
            font, spaced = "", False
    for _, start in reversed(groups):
        if start >= 0:
            _remove(tokens, start)
    return tokens


def _remove(tokens: list[Token], start: int) -> bool:
    """Removes the brace of a font; what follows it counts as spaced."""
    del tokens[start]
    if start < len(tokens):
        tokens[start] = tokens[start]._replace(spaced=True)
    return True


def _token(kind: str, written: str, font: str, spaced: bool) -> Token:
    match kind:
        case "number":
            return Token(kind, re.sub(r"[^\d.eE+-]", "", written), font, spaced)
        case "degree":
            return Token("sign", r"^\circ", font, spaced)
        case "prime":
            return Token("sign", "'", font, spaced)
        case "side":
            return Token("sign", rf"\{written[1]}|", font, spaced)
        case "half":
            return Token("word", f"{written[0].lower()}m", "text", spaced)
        case "blackboard":
            return Token("set", rf"\mathbb {written.strip('{ }')[-1]}", "", spaced)
    if written.isascii() and written.isalpha():
        return Token("letter" if len(written) == 1 else "word", written, font, spaced)
    return Token("letter" if written in GREEK else "sign", written, font, spaced)


def _joined_thousands(tokens: list[Token]) -> list[Token]:
    """1,234 as one number, outside brackets or where another comma is followed by space.

    Within brackets it is two numbers, unless the second would begin with a zero.
    """
    # The innermost bracket around each token, by its place: 0 for none, negative for a brace.
    brackets, loose, open_brackets = [], set(), [0]
    for i, token in enumerate(tokens):
        if token.text in ("(", "[", r"\{", "{"):
            open_brackets.append(i + 1 if token.text != "{" else -i - 1)
        brackets.append(open_brackets[-1])
        if token.text in (")", "]", "}", r"\}") and len(open_brackets) > 1:
            open_brackets.pop()
        if token.text in (",", ";") and i + 1 < len(tokens) and tokens[i + 1].spaced:
            loose.add(brackets[-1])
    joined: list[Token] = []
    start = 0
    while start < len(tokens):
        end = start + 1
        while _continues(tokens[end - 1 : end + 2]):
            end += 2
        parts = [token.text for token in tokens[start:end:2]]
        within = brackets[start] > 0 and brackets[start] not in loose
        if (
            len(parts) > 1
            and _THOUSANDS.fullmatch(",".join(parts))
            and (not within or any(part[0] == "0" for part in parts[1:]))
        ):
            joined.append(tokens[start]._replace(text="".join(parts)))
        else:
            joined += tokens[start:end]
        start = end
    return joined


def _continues(tokens: list[Token]) -> bool:
    """Whether these are two numbers with a comma between them and no space."""
    kinds = [token.kind for token in tokens]
    return (
        kinds == ["number", "sign", "number"]
        and tokens[1].text == ","
        and not (tokens[1].spaced or tokens[2].spaced)
    )
