"""The shipped starter model and the program that trained it."""

import json
import random
import shlex
from pathlib import Path

import pytest
import torch
from safetensors import safe_open
from transformers import AutoModelForCausalLM, AutoTokenizer

from ceeh.starter.__main__ import batches, main, sample, token_loss
from ceeh.starter.model import EOS, EOS_ID, MODEL_DIR, build_model, build_tokenizer
from ceeh.starter.task import LEVELS, STYLES, sample_chain


def test_the_shipped_model_is_small_and_has_its_tokenizer() -> None:
    file = MODEL_DIR / "model.safetensors"
    assert file.stat().st_size < 2e6
    with safe_open(file, "pt") as weights:
        assert "model.embed_tokens.weight" in weights.keys()  # noqa: SIM118  # no mapping
    config = json.loads((MODEL_DIR / "config.json").read_text())
    assert config["architectures"] == ["Qwen3ForCausalLM"]
    shipped, built = AutoTokenizer.from_pretrained(MODEL_DIR), build_tokenizer()
    assert shipped.get_vocab() == built.get_vocab()


def test_the_shipped_model_solves_easy_chains_step_by_step() -> None:
    model = AutoModelForCausalLM.from_pretrained(MODEL_DIR, dtype=torch.float32).eval()
    rng, generator = random.Random(3), torch.Generator().manual_seed(3)
    chains = [sample_chain(rng, 2) for _ in range(40)]
    texts, lengths = sample(
        model, build_tokenizer(), [f"{c.text}?step " for c in chains], generator
    )
    right = [t.endswith(f"so {c.answer:02d}{EOS}") for c, t in zip(chains, texts, strict=True)]
    assert sum(right) >= 36
    assert all(0 < length < 60 for length in lengths)


def test_mistakes_and_questions_are_seen_and_not_learned() -> None:
    tokenizer = build_tokenizer()
    for ids, labels in batches(tokenizer, random.Random(0), rows_per_batch=8, steps=16):
        learned = labels != -100
        assert torch.equal(labels[learned], ids[learned])
        question = tokenizer.convert_tokens_to_ids("?")
        first = (ids == question).int().argmax(1)
        for row, end in enumerate(first.tolist()):
            assert not learned[row, : end + 1].any()
        assert (labels == EOS_ID).sum() == len(ids)


def test_a_tokens_weight_does_not_depend_on_its_batch() -> None:
    tokenizer = build_tokenizer()
    model = build_model(tokenizer, width=32, layers=1, heads=1)
    ids, labels = next(iter(batches(tokenizer, random.Random(0), rows_per_batch=6, steps=1)))
    whole, tokens = token_loss(model, ids, labels)
    parts = [token_loss(model, ids[rows], labels[rows]) for rows in (slice(0, 2), slice(2, 6))]
    torch.testing.assert_close(whole, parts[0][0] + parts[1][0])
    assert tokens == parts[0][1] + parts[1][1] == int((labels != -100).sum())


def test_training_is_seeded_and_writes_a_model_folder(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    small = shlex.split(
        "--steps 3 --width 32 --layers 1 --heads 1 --rows 4 --every 0 --questions 2"
    )
    for name in ("a", "b"):
        main(["--out", str(tmp_path / name), *small])
    capsys.readouterr()
    main(["--out", str(tmp_path / "a"), "--table", "--questions", "2"])
    table = [line.split() for line in capsys.readouterr().out.splitlines()]
    assert [row[0] for row in table] == ["style", "free", *STYLES]
    assert table[0][1:] == ["all", *(f"L{level}" for level in LEVELS)]
    a, b = (AutoModelForCausalLM.from_pretrained(tmp_path / name) for name in ("a", "b"))
    for (name, one), other in zip(a.named_parameters(), b.parameters(), strict=True):
        assert torch.equal(one, other), name
    assert AutoTokenizer.from_pretrained(tmp_path / "a").eos_token == EOS
