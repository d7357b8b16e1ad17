"""python -m ceeh.starter: the starter model before its training, and its table of styles and levels."""

import argparse
import random
import sys
from collections.abc import Sequence
from pathlib import Path

import torch
from transformers import AutoTokenizer, PreTrainedTokenizerBase, Qwen3ForCausalLM

from ceeh.errors import ConfigError
from ceeh.runtime.cli import run_command
from ceeh.starter.model import EOS, EOS_ID, MODEL_DIR, PAD, PAD_ID, build_model, build_tokenizer
from ceeh.starter.task import LEVELS, STYLES, sample_chain

MAX_RESPONSE_TOKENS = 288


def write_untrained(folder: Path, *, seed: int, width: int, layers: int, heads: int) -> None:
    """A model folder with random weights; `heads` of size 32.

    Raises ConfigError where there is a model already.
    """
    if (folder / "tokenizer.json").exists():  # written last
        raise ConfigError(f"{folder} has a model; remove it, or name another folder")
    tokenizer = build_tokenizer()
    torch.manual_seed(seed)
    model = build_model(tokenizer, width=width, layers=layers, heads=heads)
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    print(f"{folder}: {sum(p.numel() for p in model.parameters()):,} parameters")


@torch.no_grad()
def print_table(
    model: Qwen3ForCausalLM, tokenizer: PreTrainedTokenizerBase, *, questions: int, seed: int
) -> None:
    """Prints accuracy (%) / mean tokens at temperature 1 per style and level.

    The prompt ends with the first word of the style; `free` leaves the choice to the model, and the rows
    below say how often (%) it makes which.
    """
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


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m ceeh.starter", description=__doc__)
    commands = parser.add_subparsers(dest="command", required=True)
    untrained = commands.add_parser("untrained", help="write a model folder with random weights")
    untrained.add_argument("folder", type=Path)
    untrained.add_argument("--seed", type=int, default=0)
    untrained.add_argument("--width", type=int, default=64)
    untrained.add_argument("--layers", type=int, default=3)
    untrained.add_argument("--heads", type=int, default=2)
    table = commands.add_parser("table", help="accuracy and tokens by style and level")
    table.add_argument("folder", type=Path, nargs="?", default=MODEL_DIR)
    table.add_argument("--questions", type=int, default=200, help="per style and level")
    args = parser.parse_args(arguments)
    if args.command == "table" and args.questions < 1:
        parser.error(f"--questions must be at least 1, got {args.questions}")

    def command() -> int:
        if args.command == "untrained":
            sizes = {"width": args.width, "layers": args.layers, "heads": args.heads}
            write_untrained(args.folder, seed=args.seed, **sizes)
        else:
            if not (args.folder / "config.json").is_file():
                raise ConfigError(
                    f"{args.folder} has no config.json; name a folder of the starter model"
                )
            model = Qwen3ForCausalLM.from_pretrained(args.folder, dtype=torch.float32).eval()
            tokenizer = AutoTokenizer.from_pretrained(args.folder)
            print_table(model, tokenizer, questions=args.questions, seed=11)
        return 0

    return run_command(
        command, if_stopped="nothing was saved", last=arguments is None, at_once=True
    )


if __name__ == "__main__":
    sys.exit(main())
