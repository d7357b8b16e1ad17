"""The responses themselves, for reports: those of a run's held-out questions, and those of an evaluation.

Axes: R rows of a batch, T tokens of a row.
"""

import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
from jaxtyping import Float
from tokenizers.decoders import DecodeStream
from torch import Tensor
from transformers import PreTrainedTokenizerBase, PreTrainedTokenizerFast

from ceeh.data.batch import RolloutBatch
from ceeh.errors import first_line
from ceeh.runtime.text import storable
from ceeh.types import ScoredGroup

QUESTIONS = 100
"""Questions whose responses are kept in full: what a page can show."""

RESPONSE = {
    "index": pa.int64(),  # of the question within its benchmark, or of the held-out question
    "uid": pa.string(),
    "level": pa.string(),
    "question": pa.string(),
    "reference": pa.string(),
    "sample": pa.int64(),
    "response": pa.string(),
    "tokens": pa.int64(),
    "finish": pa.string(),
}
"""Columns of every file of responses."""

HELD_OUT = pa.schema(
    RESPONSE
    | {
        "correct": pa.bool_(),
        "entropy": pa.float64(),  # nats per token, mean over the response
        "pieces": pa.list_(pa.string()),  # the response cut into tokens; null where it cannot be
        "piece_entropy": pa.list_(pa.float32()),  # nats
    }
)
"""Columns of held_out/base.parquet and tuned.parquet: those of an evaluation, and the tokens' entropy."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Response:
    """One response with its question. `pieces` are (text, entropy in nats) where they were measured."""

    index: int
    uid: str
    level: str | None
    question: str
    reference: str
    sample: int
    text: str
    tokens: int
    truncated: bool
    correct: bool
    entropy: float
    pieces: Sequence[tuple[str, float]] | None


def response_table(
    batch: RolloutBatch, entropy: Float[Tensor, "R T"], tokenizer: PreTrainedTokenizerBase
) -> pa.Table:
    """Rows of `HELD_OUT` for the first `QUESTIONS` held-out questions; `entropy` in nats per token."""
    tables, number = [HELD_OUT.empty_table()], 0
    entropy, mask = entropy.cpu(), batch.response_mask.cpu()
    for index, scored in zip(batch.question_indices, batch.groups, strict=True):
        rows = range(number, number + len(scored.verdicts))
        number = rows.stop
        if index < QUESTIONS:
            of_tokens = [entropy[row][mask[row]].tolist() for row in rows]
            # A table per question: as Python objects, the tokens of all would take ten times the memory.
            found = _question_rows(index, scored, of_tokens, tokenizer)
            tables.append(pa.Table.from_pylist(found, HELD_OUT))
    return pa.concat_tables(tables)


def response_rows(index: int, scored: ScoredGroup, level: str | None) -> list[dict[str, Any]]:
    """The columns `RESPONSE` and `correct` of each response to a question."""
    prompt = scored.group.prompt
    shared = {
        "index": index,
        "uid": storable(prompt.uid),
        "level": level and storable(level),
        "question": storable(prompt.text),
        "reference": storable(prompt.answer),
    }
    return [
        shared
        | {
            "sample": sample,
            "response": storable(completion.text),
            "tokens": len(completion.token_ids),
            "finish": completion.finish.value,
            "correct": verdict.score == 1.0,
        }
        for sample, (completion, verdict) in enumerate(
            zip(scored.group.completions, scored.verdicts, strict=True)
        )
    ]


def _question_rows(
    index: int,
    scored: ScoredGroup,
    of_tokens: Sequence[Sequence[float]],
    tokenizer: PreTrainedTokenizerBase,
) -> list[dict[str, Any]]:
    level = scored.group.prompt.metadata.get("level")
    rows = response_rows(index, scored, None if level is None else str(level))
    for row, completion, nats in zip(rows, scored.group.completions, of_tokens, strict=True):
        pieces = cut_into_pieces(completion.text, completion.token_ids, nats, tokenizer)
        row |= {
            "entropy": sum(nats) / max(len(nats), 1),
            "pieces": pieces and [storable(text) for text, _ in pieces],
            "piece_entropy": pieces and [each for _, each in pieces],
        }
    return rows


def cut_into_pieces(
    text: str,
    token_ids: Sequence[int],
    entropy: Sequence[float],
    tokenizer: PreTrainedTokenizerBase,
) -> list[tuple[str, float]] | None:
    """`text` token by token with each one's entropy; None where the tokens do not spell it.

    Tokens that show nothing on their own, such as half of a character, are joined to the next one, with the
    mean of their entropies. The end token shows nothing: its entropy is in the last piece.
    """
    if not isinstance(tokenizer, PreTrainedTokenizerFast):
        return None
    stream, pieces, held = DecodeStream(skip_special_tokens=True), [], []
    for token_id, nats in zip(token_ids, entropy, strict=True):
        held.append(nats)
        shown = stream.step(tokenizer.backend_tokenizer, token_id)
        if shown:
            pieces.append((shown, sum(held) / len(held)))
            held = []
    rest = text[sum(len(piece) for piece, _ in pieces) :]
    if held:
        pieces.append((rest, sum(held) / len(held)))
    return pieces if "".join(piece for piece, _ in pieces) == text else None


def read_questions(file: Path) -> dict[str, tuple[str, str]]:
    """Text and reference by uid of the questions in a parquet of `HeldOutLog`.

    Empty, with a warning, for a file that cannot be read.
    """
    if not file.is_file():
        return {}
    try:
        columns = pq.read_table(file, columns=["uid", "question", "reference"]).to_pydict()
    except (OSError, ValueError, KeyError) as error:
        warnings.warn(
            f"{_unreadable(file, error)}; questions are compared by uid alone", stacklevel=2
        )
        return {}
    texts = zip(columns["question"], columns["reference"], strict=True)
    return dict(zip(columns["uid"], texts, strict=True))


def read_responses(file: Path, benchmark: str | None = None) -> list[Response]:
    """The responses to the first `QUESTIONS` questions in `file`, in its order.

    `file` is a parquet of `HeldOutLog`, or samples.parquet of an evaluation, from which `benchmark` is
    taken. Empty, with a warning, for a file that cannot be read: no report fails for want of examples.
    """
    wanted: list[tuple[str, str, Any]] = [("index", "<", QUESTIONS)]
    if benchmark is not None:
        wanted.append(("benchmark", "==", benchmark))
    columns = [name for name in HELD_OUT.names if benchmark is None or not name.startswith("piece")]
    try:
        rows = pq.read_table(file, columns=columns, filters=wanted).to_pylist()
        return [
            Response(
                **{name: row[name] for name in ("index", "uid", "level", "question", "reference")},
                **{name: row[name] for name in ("sample", "tokens", "correct", "entropy")},
                text=row["response"],
                truncated=row["finish"] == "length",
                pieces=list(zip(row["pieces"], row["piece_entropy"], strict=True))
                if row.get("pieces") is not None
                else None,
            )
            for row in rows
        ]
    except (OSError, ValueError, KeyError, TypeError) as error:
        warnings.warn(f"{_unreadable(file, error)}; the report goes without them", stacklevel=2)
        return []


def _unreadable(file: Path, error: Exception) -> str:
    return f"'{file}' cannot be read as responses ({first_line(error)})"
