"""Which training questions repeat a benchmark's question: shared word n-grams, by the share they cover.

The rule is that of Tulu 3 (Lambert et al., arXiv 2411.15124): a training question is contaminated when the
8-grams that it shares with one benchmark question cover more than half of that question's words. A single
shared n-gram, GPT-3's rule (Brown et al., arXiv 2005.14165, appendix C, 13-grams), is `coverage: 0`; it
takes every question that ends as many do, "where m and n are relatively prime positive integers".
"""

import re
import unicodedata
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

from ceeh.types import Question

Words = tuple[str, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Overlap:
    """`coverage` is the share of the benchmark question's words; `shared` its longest common run of words."""

    benchmark: str
    benchmark_uid: str
    coverage: float
    shared: str


class Decontaminator:
    """Finds the benchmark question that a text repeats most.

    Words are compared without case, punctuation and the marks of LaTeX. A benchmark question of
    fewer than `ngram` words must be equal but for case, white space and punctuation. Paraphrases
    and translations pass.
    """

    def __init__(
        self, benchmarks: Mapping[str, Sequence[Question]], *, ngram: int, coverage: float
    ) -> None:
        self.ngram, self.coverage = ngram, coverage
        self._known = [(name, q) for name, questions in benchmarks.items() for q in questions]
        self._words = [words(question.text) for _, question in self._known]
        self._short: dict[str, int] = {}
        self._places: dict[Words, list[tuple[int, int]]] = defaultdict(list)
        for index, ((_, question), known) in enumerate(zip(self._known, self._words, strict=True)):
            if len(known) < ngram:
                self._short.setdefault(bare(question.text), index)
            for position, gram in enumerate(ngrams(known, ngram)):
                self._places[gram].append((index, position))

    def find(self, text: str) -> Overlap | None:
        """The overlap of largest coverage, the first of equal ones; None where `text` is clean."""
        if (index := self._short.get(bare(text))) is not None:
            return self._overlap(index, 1.0, " ".join(self._words[index]))
        starts: dict[int, list[int]] = defaultdict(list)
        for gram in self._places.keys() & set(ngrams(words(text), self.ngram)):
            for index, position in self._places[gram]:
                starts[index].append(position)
        shares = {index: self._share(index, found) for index, found in starts.items()}
        index = max(sorted(shares), key=shares.__getitem__, default=None)
        if index is None or shares[index] <= self.coverage:
            return None
        return self._overlap(index, shares[index], self._longest(index, starts[index]))

    def _share(self, index: int, starts: Sequence[int]) -> float:
        covered = {start + offset for start in starts for offset in range(self.ngram)}
        return len(covered) / len(self._words[index])

    def _longest(self, index: int, starts: Sequence[int]) -> str:
        best = run = (0, 0)
        for start in sorted(starts):
            run = (run[0] if start <= run[1] else start, start + self.ngram)
            best = max(best, run, key=lambda ends: ends[1] - ends[0])
        return " ".join(self._words[index][slice(*best)])

    def _overlap(self, index: int, coverage: float, shared: str) -> Overlap:
        name, question = self._known[index]
        return Overlap(benchmark=name, benchmark_uid=question.uid, coverage=coverage, shared=shared)


def words(text: str) -> Words:
    r"""Letters and digits in runs, without case: `\frac{1}{2}`, `a_1` are frac 1 2, a 1."""
    return tuple(re.findall(r"[^\W_]+", unicodedata.normalize("NFKC", text).casefold()))


def ngrams(known: Words, length: int) -> Iterator[Words]:
    return zip(*(known[offset:] for offset in range(length)), strict=False)


def bare(text: str) -> str:
    r"""Without case, white space, sentence punctuation and the marks of mathematics, `$ \( \[`."""
    folded = unicodedata.normalize("NFKC", text).casefold()
    return re.sub(r"\\[()\[\]]|[\s.,;:!?$'\"]", "", folded)
