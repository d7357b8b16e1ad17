"""The starter model's accuracy and tokens by style and level, at temperature 1."""

import random
from collections.abc import Sequence
from pathlib import Path

import torch
from transformers import AutoTokenizer, PreTrainedTokenizerBase, Qwen3ForCausalLM

from ceeh.errors import ConfigError
from ceeh.starter.model import EOS, EOS_ID, PAD, PAD_ID
from ceeh.starter.task import LEVELS, STYLES, sample_chain

MAX_RESPONSE_TOKENS = 288


@torch.no_grad()
def print_table(folder: Path, *, questions: int, seed: int) -> None:
    """Prints accuracy (%) / mean tokens at temperature 1 per style and level, `questions` per cell.

    The prompt ends with the first word of the style; `free` leaves the choice to the model, and the rows
    below say how often (%) it makes which. Raises ConfigError for a folder without a model.
    """
    if not (folder / "config.json").is_file():
        raise ConfigError(f"{folder} has no config.json; name a folder of the starter model")
    model = Qwen3ForCausalLM.from_pretrained(folder, dtype=torch.float32).eval()
    tokenizer = AutoTokenizer.from_pretrained(folder)
    rng = random.Random(seed)
    generator = torch.Generator().manual_seed(seed)
    print("style " + "".join(f"{heading:>10s}" for heading in ("all", *(f"L{n}" for n in LEVELS))))
    chosen: list[list[str]] = []
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
            if style == "free":
                chosen.append([text.split(" ")[0] for text in texts])
        means = tuple(sum(column) / len(cells) for column in zip(*cells, strict=True))
        print_row(style, [f"{accuracy:.0f} / {tokens:.0f}" for accuracy, tokens in (means, *cells)])
    for style in STYLES:
        shares = [100 * words.count(style) / questions for words in chosen]
        print_row(f"%{style}", [f"{share:.1f}" for share in (sum(shares) / len(shares), *shares)])


def print_row(name: str, cells: Sequence[str]) -> None:
    print(f"{name:6s}" + "".join(f"{cell:>10s}" for cell in cells), flush=True)


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
    for _ in range(MAX_RESPONSE_TOKENS):
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
