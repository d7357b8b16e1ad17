"""Which training questions repeat a benchmark's question, measured by shared word n-grams.

The rule is that of Tulu 3 (Lambert et al., arXiv 2411.15124): a training question is contaminated when
the 8-grams that it shares with one benchmark question cover more than half of that question's words.
`coverage: 0` is GPT-3's rule of a single shared n-gram (Brown et al., arXiv 2005.14165, appendix C,
13-grams); it also drops every question with a common ending such as "where m and n are relatively
prime positive integers".
"""

import re
import unicodedata
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from difflib import SequenceMatcher

from ceeh.types import Question

Words = tuple[str, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Overlap:
    """`coverage`: fraction of the benchmark question's words; `shared`: the longest common run of words."""

    benchmark: str
    benchmark_uid: str
    coverage: float
    shared: str


class Decontaminator:
    """Finds the benchmark question that a text repeats most.

    Words are compared without case, punctuation and LaTeX markup. A benchmark question of fewer than
    `ngram` words must be equal apart from case, white space and punctuation. Paraphrases and
    translations are not found.
    """

    def __init__(
        self, benchmarks: Mapping[str, Sequence[Question]], *, ngram: int, coverage: float
    ) -> None:
        self.ngram, self.coverage = ngram, coverage
        self._known = [
            (name, question.uid, words(question.text), question.text)
            for name, questions in benchmarks.items()
            for question in questions
        ]
        self._short: dict[str, int] = {}
        self._places: dict[Words, list[tuple[int, int]]] = defaultdict(list)
        for index, (_, _, known, text) in enumerate(self._known):
            if len(known) < ngram:
                self._short.setdefault(bare(text), index)
            for position, gram in enumerate(ngrams(known, ngram)):
                self._places[gram].append((index, position))

    def find(self, text: str) -> Overlap | None:
        """The overlap of largest coverage, the first of equal ones; None where `text` is clean."""
        if (index := self._short.get(bare(text))) is not None:
            name, uid, known, _ = self._known[index]
            return Overlap(benchmark=name, benchmark_uid=uid, coverage=1.0, shared=" ".join(known))
        covered: dict[int, set[int]] = defaultdict(set)
        for gram in self._places.keys() & set(ngrams(words(text), self.ngram)):
            for index, start in self._places[gram]:
                covered[index].update(range(start, start + self.ngram))
        shares = {index: len(covered[index]) / len(self._known[index][2]) for index in covered}
        index = max(sorted(shares), key=shares.__getitem__, default=None)
        if index is None or shares[index] <= self.coverage:
            return None
        name, uid, known, _ = self._known[index]
        run = SequenceMatcher(None, known, words(text), autojunk=False).find_longest_match()
        shared = " ".join(known[run.a : run.a + run.size])
        return Overlap(benchmark=name, benchmark_uid=uid, coverage=shares[index], shared=shared)


def words(text: str) -> Words:
    r"""Runs of letters and digits, casefolded: `\frac{1}{2}`, `a_1` are frac 1 2, a 1."""
    return tuple(re.findall(r"[^\W_]+", unicodedata.normalize("NFKC", text).casefold()))


def ngrams(known: Words, length: int) -> list[Words]:
    return [known[start : start + length] for start in range(len(known) - length + 1)]


def bare(text: str) -> str:
    r"""`text` without case, white space, sentence punctuation and math delimiters (`$`, `\(`, `\[`)."""
    folded = unicodedata.normalize("NFKC", text).casefold()
    return re.sub(r"\\[()\[\]]|[\s.,;:!?$'\"]", "", folded)
