"""Questions of any reasoning-gym generator (https://github.com/open-thought/reasoning-gym).

Only its generators are used. Answers are graded by ceeh's own verifiers, as those of every source.
"""

from collections.abc import Iterator, Mapping
from typing import Any

from ceeh.data.sources.splits import parse_split, split_of
from ceeh.errors import ConfigError
from ceeh.runtime.rng import stable_hash
from ceeh.types import Question

TRIES = 20
"""Questions generated for each one wanted: repeated ones and those of the other split are left out."""


class ReasoningGym:
    """`questions` distinct questions of the `generator`, such as leg_counting or gsm_symbolic.

    `options` go to the generator. A hash of a question's text puts one in five into the held-out split,
    whatever the seed. Generators whose answer is not one text, or that have fewer questions, are refused.
    """

    def __init__(
        self,
        generator: str,
        questions: int,
        seed: int = 0,
        split: str = "train",
        options: Mapping[str, Any] | None = None,
    ) -> None:
        try:
            import reasoning_gym
        except ImportError as error:
            raise ConfigError(
                f'reasoning-gym cannot be imported ({error}); pip install "ceeh[reasoning-gym]"'
            ) from error
        if questions < 1:
            raise ConfigError(f"questions must be at least 1, got {questions}")
        self.generator, self.num_questions, self.split = generator, questions, parse_split(split)
        try:
            self.rows = reasoning_gym.create_dataset(  # type: ignore[attr-defined]
                generator, size=TRIES * questions, seed=seed, **(options or {})
            )
        except (ValueError, TypeError, AssertionError) as error:
            raise ConfigError(f"the generator '{generator}' of reasoning-gym: {error}") from error

    def __len__(self) -> int:
        return self.num_questions

    def __iter__(self) -> Iterator[Question]:
        seen: set[str] = set()
        for row in self.rows:
            text, answer = row["question"].strip(), row["answer"]
            if text in seen or split_of(text) != self.split:
                continue
            if not isinstance(answer, str):
                raise ConfigError(
                    f"the generator '{self.generator}' has no reference answer as text, got {answer!r}; "
                    "take another one"
                )
            seen.add(text)
            yield Question(uid=stable_hash(text).hex(), text=text, answer=answer)
            if len(seen) == self.num_questions:
                return
        raise ConfigError(
            f"the generator '{self.generator}' gave {len(seen)} of {self.num_questions} distinct questions "
            f"of the split '{self.split}' in {TRIES * self.num_questions} tries; lower questions"
        )
