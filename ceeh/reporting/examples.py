"""Responses side by side on the same question: of two policies, the shortest and longest, right and wrong."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import groupby

from ceeh.evaluation.responses import Response
from ceeh.runtime.text import escape

SHADES = (0.05, 0.2, 0.5, 1.0)
"""Entropies in nats at which a token gets its next color."""
SHOWN_PIECES = 1200
SHOWN_CHARACTERS = 4 * SHOWN_PIECES
"""A longer response loses its middle."""
PAGE_PIECES = 120_000
"""Tokens of all responses side by side in one page; further questions are left out."""
PAIRS = 10
"""Pairs of one policy's responses."""

OUTCOMES = {
    (False, True): "gained",
    (True, False): "lost",
    (True, True): "both right",
    (False, False): "both wrong",
}
"""By whether the first and the last policy are right."""

ByLabel = Mapping[str, Sequence[Response]]


@dataclass(frozen=True, slots=True, kw_only=True)
class Span:
    """Text in one color: `shade` 0 (none) to 4, by the entropy in nats that `title` gives."""

    text: str
    shade: int = 0
    title: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Side:
    """One response as shown."""

    label: str
    verdict: str
    correct: bool
    tokens: int
    entropy: float
    spans: Sequence[Span]


@dataclass(frozen=True, slots=True, kw_only=True)
class Example:
    """Responses to one question.

    `subsets` are the question's level and easy or hard, where known; `outcome` is what became of it from
    the first to the last policy, empty for responses of one. The page filters by both.
    """

    question: str
    reference: str
    subsets: Sequence[str]
    outcome: str
    sides: Sequence[Side]

    @property
    def kinds(self) -> list[str]:
        return [*self.subsets, *([self.outcome] if self.outcome else ())]


@dataclass(frozen=True, slots=True, kw_only=True)
class Section:
    """Examples under a heading; `note` says how they were chosen."""

    title: str
    note: str
    examples: Sequence[Example]

    @property
    def colored(self) -> bool:
        return any(
            span.title for each in self.examples for side in each.sides for span in side.spans
        )


def sections(responses: ByLabel, hard: Mapping[str, bool]) -> list[Section]:
    """Each policy of `responses` on the same questions; then the last policy against itself.

    `hard` says by uid whether a question is hard, where that is known. Sections without examples are left
    out.
    """
    if not responses or not all(responses.values()):
        return []
    *_, (label, own) = responses.items()
    found = [
        across(responses, hard),
        shortest_and_longest(label, own, hard),
        right_and_wrong(label, own, hard),
    ]
    return [section for section in found if section.examples]


def across(responses: ByLabel, hard: Mapping[str, bool]) -> Section:
    """The last sample of each policy to every question that all have."""
    last = {
        label: {response.uid: response for response in of_label}  # the last of each uid stays
        for label, of_label in responses.items()
    }
    base, *others = last.values()
    shared = [uid for uid in base if all(uid in other for other in others)]
    examples, room = [], PAGE_PIECES
    for uid in shared:
        sides = {label: of_uid[uid] for label, of_uid in last.items()}
        room -= sum(min(each.tokens, SHOWN_PIECES) for each in sides.values())
        if room < 0 and examples:
            break
        right = [each.correct for each in sides.values()]
        one = "right" if right[0] else "wrong"
        outcome = OUTCOMES[right[0], right[-1]] if len(right) > 1 else one
        examples.append(example(sides, hard, outcome))
    return Section(
        title=f"{joined(last)} on the same questions" if others else f"Responses of {joined(last)}",
        note=f"The first {len(examples)} questions, each policy's last sample. Nothing was selected.",
        examples=examples,
    )


def shortest_and_longest(
    label: str, responses: Iterable[Response], hard: Mapping[str, bool]
) -> Section:
    """The `PAIRS` questions where the correct responses of one policy differ most in length."""
    pairs = []
    for group in by_question(responses):
        correct = sorted((each for each in group if each.correct), key=lambda each: each.tokens)
        if correct and correct[0].tokens < correct[-1].tokens:
            pairs.append({"shortest": correct[0], "longest": correct[-1]})
    pairs.sort(key=lambda pair: pair["longest"].tokens / pair["shortest"].tokens, reverse=True)
    return Section(
        title=f"Shortest and longest correct response of {label}",
        note=f"The {len(pairs[:PAIRS])} questions with the largest ratio of the two.",
        examples=[example(pair, hard) for pair in pairs[:PAIRS]],
    )


def right_and_wrong(label: str, responses: Iterable[Response], hard: Mapping[str, bool]) -> Section:
    """The first `PAIRS` questions to which one policy gave a right and a wrong response."""
    pairs = []
    for group in by_question(responses):
        first = {each.correct: each for each in reversed(group)}
        if len(first) == 2:
            pairs.append({"right": first[True], "wrong": first[False]})
    return Section(
        title=f"Right and wrong responses of {label}",
        note=f"The first {len(pairs[:PAIRS])} questions with both; the first response of each kind.",
        examples=[example(pair, hard) for pair in pairs[:PAIRS]],
    )


def by_question(responses: Iterable[Response]) -> list[list[Response]]:
    return [list(group) for _, group in groupby(responses, key=lambda response: response.uid)]


def joined(labels: Iterable[str]) -> str:
    *others, last = labels
    return f"{', '.join(others)} and {last}" if others else last


def example(sides: Mapping[str, Response], hard: Mapping[str, bool], outcome: str = "") -> Example:
    first, *_ = sides.values()
    subsets = [] if first.level is None else [f"level {escape(first.level)}"]
    if first.uid in hard:
        subsets.append("hard" if hard[first.uid] else "easy")
    return Example(
        question=escape(first.question),
        reference=escape(first.reference),
        subsets=subsets,
        outcome=outcome,
        sides=[
            Side(
                label=label,
                verdict="truncated" if one.truncated else "right" if one.correct else "wrong",
                correct=one.correct,
                tokens=one.tokens,
                entropy=one.entropy,
                spans=spans(one),
            )
            for label, one in sides.items()
        ],
    )


def spans(response: Response) -> list[Span]:
    """The response in colors; neighbors without color are one span."""
    if response.pieces is None:
        return [Span(text=escape(shortened(response.text)))]
    pieces = list(response.pieces)
    if (left_out := len(pieces) - SHOWN_PIECES) > 0:
        half = SHOWN_PIECES // 2
        pieces[half:-half] = [(f" [... {left_out} tokens ...] ", 0.0)]
    found = []
    for is_plain, group in groupby(pieces, key=lambda piece: shade(piece[1]) == 0):
        if is_plain:
            found.append(Span(text=escape("".join(text for text, _ in group))))
        else:
            found += [
                Span(text=escape(text), shade=shade(nats), title=f"{nats:.2f}")
                for text, nats in group
            ]
    return found


def shade(nats: float) -> int:
    return sum(nats >= edge for edge in SHADES)


def shortened(text: str) -> str:
    if (left_out := len(text) - SHOWN_CHARACTERS) <= 0:
        return text
    half = SHOWN_CHARACTERS // 2
    return f"{text[:half]} [... {left_out} characters ...] {text[-half:]}"
