"""The shipped starter model and how it is made."""

import json
import random
import shlex
from pathlib import Path

import pytest
import torch
from safetensors import safe_open
from transformers import AutoModelForCausalLM, AutoTokenizer

from ceeh.config.settings import load
from ceeh.config.sft import load_sft
from ceeh.fit import fit
from ceeh.sft import sft
from ceeh.starter.__main__ import main
from ceeh.starter.model import EOS, MODEL_DIR, build_tokenizer
from ceeh.starter.table import sample
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


def test_the_untrained_model_depends_on_its_seed_alone(tmp_path: Path) -> None:
    small = shlex.split("--width 32 --layers 1 --heads 1")
    for name, seed in (("a", "0"), ("b", "0"), ("c", "1")):
        main(["untrained", str(tmp_path / name), "--seed", seed, *small])
    a, b, c = (AutoModelForCausalLM.from_pretrained(tmp_path / name) for name in "abc")
    same = [
        torch.equal(one, other) for one, other in zip(a.parameters(), b.parameters(), strict=True)
    ]
    assert all(same)
    assert not torch.equal(a.model.embed_tokens.weight, c.model.embed_tokens.weight)
    assert AutoTokenizer.from_pretrained(tmp_path / "a").eos_token == EOS


def test_wrong_folders_and_numbers_are_refused(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["table", str(tmp_path)]) == 2
    assert "has no config.json; name a folder of the starter model" in capsys.readouterr().err
    (tmp_path / "tokenizer.json").write_text("{}")
    assert main(["untrained", str(tmp_path)]) == 2
    assert "has a model; remove it" in capsys.readouterr().err
    with pytest.raises(SystemExit):
        main(["table", "--questions", "0"])


def test_the_table_has_a_row_per_style_and_the_shares_of_the_free_choice(
    capsys: pytest.CaptureFixture[str],
) -> None:
    main(["table", "--questions", "2"])
    table = [line.split() for line in capsys.readouterr().out.splitlines()]
    assert [row[0] for row in table] == ["style", "free", *STYLES, *(f"%{s}" for s in STYLES)]
    assert table[0][1:] == ["all", *(f"L{level}" for level in LEVELS)]
    shares = torch.tensor([[float(cell) for cell in row[1:]] for row in table[-len(STYLES) :]])
    assert shares.sum(0).max() <= 100.5


@pytest.mark.slow
def test_the_stages_of_the_starter_follow_one_another(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A step each of what `make starter` runs, on a smaller model."""
    configs = Path("configs").resolve()
    monkeypatch.chdir(tmp_path)
    main(["untrained", "runs/starter-untrained", *shlex.split("--width 32 --layers 1 --heads 1")])
    few = [
        "prompts.train.init_args.questions=96",
        "prompts.held_out.init_args.questions=12",
    ]
    for stage in ("arithmetic", "styles"):
        sft(
            load_sft(
                [configs / "starter" / f"{stage}.yaml"],
                ["steps=2", "max_response_tokens=448", *few],
            )
        )
    files = ["ceeh.yaml", "methods/grpo.yaml", "starter/correctness.yaml"]
    overrides = [
        *few,
        "rollouts.steps=1",
        "rollouts.max_response_tokens=16",
        "evaluation.questions=12",
        "evaluation.samples=2",
        "evaluation.split_samples=1",
    ]
    run = fit(load([configs / file for file in files], overrides))
    assert (run / "model" / "model.safetensors").is_file()
