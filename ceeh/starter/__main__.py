"""python -m ceeh.starter: trains the starter model on worked traces and prints style x level."""

import argparse
import math
import random
import sys
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

import torch
from torch import Tensor
from transformers import PreTrainedTokenizerBase, Qwen3ForCausalLM

from ceeh.runtime.cli import run_command
from ceeh.starter.model import EOS, EOS_ID, MODEL_DIR, PAD, PAD_ID, build_model, build_tokenizer
from ceeh.starter.task import LEVELS, STYLES, Style, sample_chain, trace

EARLY = 0.6
"""Fraction of the run with few `read` traces: most of their tokens are copies, which teach nothing."""
BATCHES_PER_POOL = 16
PRACTICED = range(11, 100)
"""Multipliers in the traces. With those of the questions alone the model would memorize the products,
and the hardest levels would be as easy as the others."""


def style_weights(level: int, *, early: bool) -> dict[Style, float]:
    """Relative frequency of the styles: the short styles are more common on short chains."""
    return {
        "so": {1: 0.5, 2: 0.35, 3: 0.06}.get(level, 0.03),
        "leap": {1: 0.2, 2: 0.5, 3: 0.5}.get(level, 0.2),
        "step": 0.35 if early else 0.2,
        "test": 0.3,
        "read": 0.05 if early else 0.6,
    }


def encode(
    tokenizer: PreTrainedTokenizerBase, rng: random.Random, level: int, style: Style
) -> tuple[list[int], list[bool]]:
    """One question and a trace of it as token ids, and whether each token is learned."""
    chain = sample_chain(rng, level, PRACTICED)
    ids = tokenizer.encode(f"{chain.text}?")
    learned = [False] * len(ids)
    for piece in trace(chain, style, rng):
        tokens = tokenizer.encode(piece.text)
        ids += tokens
        learned += [piece.learn] * len(tokens)
    return [*ids, EOS_ID], [*learned, True]


def batches(
    tokenizer: PreTrainedTokenizerBase, rng: random.Random, rows_per_batch: int, steps: int
) -> Iterator[tuple[Tensor, Tensor]]:
    """`steps` batches of rows of similar length, as (ids, labels) [R T]; the order of lengths is random."""
    for index in range(-(-steps // BATCHES_PER_POOL)):
        early = index * BATCHES_PER_POOL < EARLY * steps
        levels = rng.choices(LEVELS, k=rows_per_batch * BATCHES_PER_POOL)
        mixtures = {level: style_weights(level, early=early) for level in LEVELS}
        styles: list[Style] = [
            rng.choices(STYLES, [mixtures[n][style] for style in STYLES])[0] for n in levels
        ]
        pool = [encode(tokenizer, rng, *each) for each in zip(levels, styles, strict=True)]
        pool.sort(key=lambda row: len(row[0]))
        starts = list(range(0, len(pool), rows_per_batch))
        rng.shuffle(starts)
        for start in starts:
            rows = pool[start : start + rows_per_batch]
            longest = max(len(ids) for ids, _ in rows)
            ids = torch.zeros(len(rows), longest, dtype=torch.long)
            labels = torch.full((len(rows), longest), -100)
            for row, (tokens, learned) in enumerate(rows):
                ids[row, : len(tokens)] = torch.tensor(tokens)
                labels[row, : len(tokens)] = torch.tensor(
                    [t if keep else -100 for t, keep in zip(tokens, learned, strict=True)]
                )
            yield ids, labels


def token_loss(model: Qwen3ForCausalLM, ids: Tensor, labels: Tensor) -> tuple[Tensor, int]:
    """Summed cross entropy of the learned tokens (nats) and their number."""
    logits = model(input_ids=ids).logits[:, :-1]
    targets = labels[:, 1:]
    loss = torch.nn.functional.cross_entropy(
        logits.flatten(0, 1), targets.flatten(), reduction="sum", ignore_index=-100
    )
    return loss, int((targets != -100).sum())


def train(
    model: Qwen3ForCausalLM, tokenizer: PreTrainedTokenizerBase, args: argparse.Namespace
) -> None:
    """AdamW, linear warm-up and cosine decay to a tenth; every token has the same weight in any batch."""
    optimizer = torch.optim.AdamW(
        model.parameters(), lr=args.lr, betas=(0.9, 0.98), weight_decay=0.01
    )
    stream = batches(tokenizer, random.Random(args.seed), args.rows, args.steps)
    mean_tokens, running, begin = 0.0, 0.0, time.monotonic()
    for step in range(args.steps):
        progress = step / args.steps
        scale = min(1.0, (step + 1) / 100) * (0.1 + 0.45 * (1 + math.cos(math.pi * progress)))
        for group in optimizer.param_groups:
            group["lr"] = args.lr * scale
        loss, tokens = token_loss(model, *next(stream))
        mean_tokens = (
            tokens if step == 0 else mean_tokens + (tokens - mean_tokens) / min(step + 1, 500)
        )
        optimizer.zero_grad(set_to_none=True)
        (loss / mean_tokens).backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        running += (loss.item() / tokens - running) * (1.0 if step == 0 else 0.02)
        if step % 200 == 0:
            print(
                f"step {step:6d}  nats/token {running:.4f}  {time.monotonic() - begin:6.0f} s",
                flush=True,
            )
        if args.every and step and step % args.every == 0:
            style_table(model, tokenizer, questions=40, seed=7)
            model.save_pretrained(args.out)


@torch.no_grad()
def style_table(
    model: Qwen3ForCausalLM, tokenizer: PreTrainedTokenizerBase, *, questions: int, seed: int
) -> None:
    """Prints accuracy (%) / mean tokens at temperature 1 per style and level.

    The prompt ends with the first word of the style; `free` leaves the choice to the model.
    """
    model.eval()
    rng = random.Random(seed)
    generator = torch.Generator().manual_seed(seed)
    print("style " + "".join(f"{heading:>10s}" for heading in ("all", *(f"L{n}" for n in LEVELS))))
    for style in ("free", *STYLES):
        cells = []
        for level in LEVELS:
            chains = [sample_chain(rng, level) for _ in range(questions)]
            opening = "" if style == "free" else f"{style} "
            texts, lengths = sample(
                model, tokenizer, [f"{chain.text}?{opening}" for chain in chains], generator
            )
            right = [
                f"{opening}{text}".endswith(f"so {chain.answer:02d}{EOS}")
                for chain, text in zip(chains, texts, strict=True)
            ]
            cells.append(
                (100 * sum(right) / questions, sum(lengths) / questions + (style != "free"))
            )
        means = tuple(sum(column) / len(cells) for column in zip(*cells, strict=True))
        shown = [f"{accuracy:.0f} / {tokens:.0f}" for accuracy, tokens in (means, *cells)]
        print(f"{style:6s}" + "".join(f"{cell:>10s}" for cell in shown), flush=True)
    model.train()


def sample(
    model: Qwen3ForCausalLM,
    tokenizer: PreTrainedTokenizerBase,
    prompts: list[str],
    generator: torch.Generator,
) -> tuple[list[str], list[int]]:
    """Completions at temperature 1 of prompts of equal length, as text, and their lengths in tokens."""
    ids = torch.tensor([tokenizer.encode(p) for p in prompts])
    prompt_length, done, cache = ids.shape[1], torch.zeros(len(prompts), dtype=torch.bool), None
    current = ids
    for _ in range(280):
        out = model(input_ids=current, past_key_values=cache, use_cache=True)
        cache = out.past_key_values
        current = torch.multinomial(out.logits[:, -1].softmax(-1), 1, generator=generator)
        current[done] = PAD_ID
        ids = torch.cat([ids, current], 1)
        done |= current[:, 0] == EOS_ID
        if done.all():
            break
    lengths = (ids[:, prompt_length:] != PAD_ID).int().sum(1).tolist()
    return [t.replace(PAD, "") for t in tokenizer.batch_decode(ids[:, prompt_length:])], lengths


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m ceeh.starter", description=__doc__)
    parser.add_argument("--out", type=Path, default=MODEL_DIR)
    parser.add_argument("--steps", type=int, default=20_000)
    parser.add_argument("--lr", type=float, default=2.5e-3)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--width", type=int, default=64)
    parser.add_argument("--layers", type=int, default=3)
    parser.add_argument("--heads", type=int, default=2)
    parser.add_argument("--rows", type=int, default=24, help="rows per batch")
    parser.add_argument(
        "--every", type=int, default=4000, help="steps between style tables; 0 for none"
    )
    parser.add_argument(
        "--questions", type=int, default=200, help="questions per style and level of the last table"
    )
    parser.add_argument(
        "--table", action="store_true", help="only print the table of the model in --out"
    )
    args = parser.parse_args(arguments)

    def command() -> int:
        torch.manual_seed(args.seed)
        tokenizer = build_tokenizer()
        if args.table:
            model = Qwen3ForCausalLM.from_pretrained(args.out)
        else:
            model = build_model(tokenizer, width=args.width, layers=args.layers, heads=args.heads)
            print(f"{sum(p.numel() for p in model.parameters()):,} parameters")
            train(model, tokenizer, args)
            model.save_pretrained(args.out)
            tokenizer.save_pretrained(args.out)
        style_table(model, tokenizer, questions=args.questions, seed=11)
        return 0

    return run_command(
        command, if_stopped="nothing was saved", last=arguments is None, at_once=True
    )


if __name__ == "__main__":
    sys.exit(main())
