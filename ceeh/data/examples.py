"""Demonstrations as training batches for supervised training.

Axes: R rows, one example each, T tokens.
"""

import time
import warnings
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, fields, replace
from typing import Any

import torch
from jaxtyping import Bool, Int
from torch import Tensor

from ceeh.data.batch import equal_batches
from ceeh.data.prompts import PromptBuilder, load_prompts
from ceeh.data.stream import PromptStream
from ceeh.errors import ConfigError
from ceeh.types import Demonstration, Example, Question


@dataclass(frozen=True, slots=True, kw_only=True)
class ExampleBatch:
    """Prompt tokens, then response tokens, then padding.

    response_mask: True on the response tokens, which carry loss. totals: prompt plus response tokens of each
    row. timings: seconds per phase of its making. ready_at: the time after them, by `time.perf_counter`.
    """

    token_ids: Int[Tensor, "R T"]
    response_mask: Bool[Tensor, "R T"]
    totals: Int[Tensor, " R"]
    timings: Mapping[str, float]
    ready_at: float

    def to(self, device: torch.device | str, **kwargs: Any) -> "ExampleBatch":
        return replace(
            self,
            token_ids=self.token_ids.to(device, **kwargs),
            response_mask=self.response_mask.to(device, **kwargs),
            totals=self.totals.to(device, **kwargs),
        )


class ExampleBuilder(PromptBuilder):
    """Encodes a demonstration: the prompt as `PromptBuilder` does, and the response with its end token."""

    def __call__(self, question: Question) -> Example:
        if not isinstance(question, Demonstration):
            raise ConfigError(
                f"the question '{question.uid}' has no response to learn from; name the column of the "
                "responses, init_args.response=COLUMN, or the styles of a procedural source"
            )
        response_ids = self.tokenizer(question.response, add_special_tokens=False).input_ids
        prompt = super().__call__(question)
        return Example(
            **{each.name: getattr(prompt, each.name) for each in fields(prompt)},
            response_ids=(*response_ids, int(self.tokenizer.eos_token_id)),  # type: ignore[arg-type]
        )


def load_examples(
    source: Iterable[Question], builder: ExampleBuilder, place: str, *, max_response_tokens: int
) -> list[Example]:
    """The examples of `source`, in its order; `place` is its config path, for messages.

    Examples whose response is longer than `max_response_tokens` are dropped with one warning that counts
    them: cut short, they would teach not to end. Raises ConfigError as `load_prompts` does, and when none
    is left.
    """
    examples: list[Any] = load_prompts(source, builder, place)
    kept = [each for each in examples if len(each.response_ids) <= max_response_tokens]
    if dropped := len(examples) - len(kept):
        longest = max(len(each.response_ids) for each in examples)
        words = (
            f"{place}: {dropped} of {len(examples)} demonstrations are longer than max_response_tokens "
            f"({max_response_tokens}); the longest has {longest} tokens"
        )
        if not kept:
            raise ConfigError(f"{words}; raise it")
        warnings.warn(f"{words}; they are dropped", stacklevel=2)
    return kept


def collate_examples(examples: Sequence[Example], *, pad_token_id: int) -> ExampleBatch:
    """One row per example, right-padded to the longest."""
    begin = time.perf_counter()
    totals = [len(each.token_ids) + len(each.response_ids) for each in examples]
    token_ids = torch.full((len(examples), max(totals)), pad_token_id)
    response_mask = torch.zeros(len(examples), max(totals), dtype=torch.bool)
    for row, (each, total) in enumerate(zip(examples, totals, strict=True)):
        token_ids[row, :total] = torch.tensor(each.token_ids + each.response_ids)
        response_mask[row, len(each.token_ids) : total] = True
    now = time.perf_counter()
    return ExampleBatch(
        token_ids=token_ids,
        response_mask=response_mask,
        totals=torch.tensor(totals),
        timings={"collate": now - begin},
        ready_at=now,
    )


class ExampleLoader:
    """`steps` batches, each of the next examples of the stream; its position is saved in checkpoints."""

    def __init__(self, stream: PromptStream, *, steps: int, pad_token_id: int) -> None:
        self.stream = stream
        self.steps = steps
        self.pad_token_id = pad_token_id
        self.step = 0

    def __len__(self) -> int:
        return self.steps

    def __iter__(self) -> Iterator[ExampleBatch]:
        while self.step < self.steps:
            examples: list[Any] = self.stream.next_step()
            self.step += 1
            yield collate_examples(examples, pad_token_id=self.pad_token_id)

    def state_dict(self) -> dict[str, Any]:
        return {"step": self.step, "stream": self.stream.state_dict()}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.step = state["step"]
        self.stream.load_state_dict(state["stream"])


class HeldOutExamples:
    """This rank's share of the held-out examples, at most `size` at a time, similar lengths together.

    All ranks have the same number of batches, because forward passes of sharded weights are collective.
    """

    def __init__(
        self,
        examples: Sequence[Example],
        *,
        size: int,
        pad_token_id: int,
        rank: int = 0,
        world_size: int = 1,
    ) -> None:
        own = sorted(examples[rank::world_size], key=lambda each: len(each.response_ids))
        self.batches = equal_batches(own, len(examples), size=size, world_size=world_size)
        self.pad_token_id = pad_token_id

    def __len__(self) -> int:
        return len(self.batches)

    def __iter__(self) -> Iterator[ExampleBatch]:
        for rows in self.batches:
            yield collate_examples(rows, pad_token_id=self.pad_token_id)
