"""The shipped recipes: the paper's settings, the same on every hardware."""

import re
from dataclasses import asdict, replace
from itertools import product
from pathlib import Path

import pytest

from ceeh.assembly.components import build_callbacks
from ceeh.config.consistency import check_pairs
from ceeh.config.settings import Config, load
from ceeh.runtime.text import flatten

CONFIGS = Path(__file__).parent.parent / "configs"
BASE = [CONFIGS / "ceeh.yaml", CONFIGS / "math.yaml"]
RECIPES = sorted((CONFIGS / "paper").glob("[0-9]*.yaml"))
RELEASED = sorted((CONFIGS / "paper").glob("released_*.yaml"))
HARDWARE = sorted((CONFIGS / "hardware").glob("*.yaml"))
OF_MEMORY_AND_SPEED = {
    "model": {"gradient_checkpointing", "head_chunk_tokens"},
    "rollouts": {"seeds"},
    "optimizer": {"tokens_per_microbatch"},
}


def stem(path: Path) -> str:
    return path.stem


@pytest.mark.parametrize("recipe", RECIPES, ids=stem)
def test_a_recipe_has_the_papers_settings(recipe: Path) -> None:
    config = load([*BASE, recipe])
    size, method = re.fullmatch(r"(1\.5b|7b)_(me|ea)", recipe.stem).groups()  # type: ignore[union-attr]
    assert config.name == recipe.stem
    assert config.model.path == f"deepseek-ai/DeepSeek-R1-Distill-Qwen-{size.upper()}"
    lora, rollouts, objective = config.model.lora, config.rollouts, config.objective
    assert (lora.rank, lora.alpha, lora.target_modules) == (32, 32, ["all-linear"])
    assert (config.optimizer.lr, config.optimizer.prompts_per_minibatch) == (3e-5, 32)
    assert (rollouts.prompts_per_step, rollouts.completions_per_prompt) == (512, 12)
    assert (rollouts.temperature, rollouts.top_p, rollouts.steps) == (0.6, 1.0, 100)
    assert (config.prompts.max_prompt_tokens, rollouts.max_response_tokens) == (2048, 20480)
    assert config.prompts.system_prompt is not None
    assert "step by step" in config.prompts.system_prompt
    assert r"\boxed{}" in config.prompts.system_prompt
    assert (objective.clip_low, objective.clip_high, objective.dual_clip) == (0.2, 0.28, 3.0)
    assert (objective.kl_coefficient, objective.advantage) == (0.001, "group_mean")
    assert objective.shaping.class_path.endswith(".OptimalLengthPenalty")
    assert objective.shaping.init_args == {"beta": 0.1, "gate": True, "floor": 0.9}
    entropy = objective.entropy
    assert entropy.method == method
    if method == "me":
        assert (entropy.coefficient, entropy.hard_factor, entropy.anneal) == (0.001, 5.0, "cosine")
    else:
        assert (entropy.advantage_alpha, entropy.advantage_kappa) == (0.4, 2.0)
    assert config.callbacks["difficulty"].init_args == {"rise": 0.2, "fall": 0.05}
    assert config.callbacks["optimal_length"].init_args == {"rule": "minimum"}


@pytest.mark.parametrize("released", RELEASED, ids=stem)
def test_the_released_overlays_change_what_the_released_code_does_otherwise(released: Path) -> None:
    method = released.stem.removeprefix("released_")
    paper = load([*BASE, CONFIGS / "paper" / f"7b_{method}.yaml"])
    config = load([*BASE, CONFIGS / "paper" / f"7b_{method}.yaml", released])
    before = flatten(asdict(paper))
    changed = {
        (key, value)
        for key, value in flatten(asdict(config)).items()
        if key not in before or before[key] != value
    }
    difficulty, anchor = "callbacks.difficulty", "callbacks.optimal_length.init_args"
    # The factor 5 cancels in ME; EA is as in the paper.
    bonus = {("objective.entropy.method", "uniform")} if method == "me" else set()
    assert changed == bonus | {
        ("name", released.stem),
        ("objective.aggregation", "sequence_mean"),
        ("objective.old_logprobs", "trainer"),
        ("objective.importance", "none"),
        ("optimizer.weight_decay", 0.01),
        ("optimizer.warmup_steps", 0),
        (f"{difficulty}.class_path", "ceeh.callbacks.released_difficulty.ReleasedDifficulty"),
        (f"{difficulty}.init_args.questions", 5000),
        (f"{anchor}.rule", "ema"),
        (f"{anchor}.fall", 0.2),
        (f"{anchor}.rise", 0.05),
        (f"{anchor}.from_own_group", False),
    }
    # As the paper's recipes already have it: gate >=, floor 0.9 on the scaled term.
    shaping = config.objective.shaping.init_args
    assert shaping == {"beta": 0.1, "gate": True, "floor": 0.9}
    check_pairs(config, 8)
    build_callbacks(config)


@pytest.mark.parametrize(("recipe", "hardware"), list(product(RECIPES, HARDWARE)), ids=stem)
def test_hardware_changes_memory_and_speed_alone(recipe: Path, hardware: Path) -> None:
    plain, on_hardware = load([*BASE, recipe]), load([*BASE, recipe, hardware])
    assert on_hardware != plain
    assert without_memory(on_hardware) == without_memory(plain)
    check_pairs(on_hardware, int(hardware.stem.partition("x")[0]))
    build_callbacks(on_hardware)


def without_memory(config: Config) -> Config:
    """`config` with the settings that affect memory and speed alone at fixed values."""
    fixed = Config()
    parts = {
        part: replace(
            getattr(config, part), **{key: getattr(getattr(fixed, part), key) for key in keys}
        )
        for part, keys in OF_MEMORY_AND_SPEED.items()
    }
    return replace(config, engine=replace(config.engine, init_args={}), **parts)


@pytest.mark.parametrize("overlay", [*RECIPES, *RELEASED, *HARDWARE], ids=stem)
def test_the_command_of_a_header_names_files_that_are_there(overlay: Path) -> None:
    comment = " ".join(
        line.lstrip("# ").rstrip("\\ ")
        for line in overlay.read_text().splitlines()
        if line.startswith("#")
    )
    files = re.findall(r"--config (\S+)", comment)
    assert f"configs/{overlay.parent.name}/{overlay.name}" in files
    overrides = re.findall(r"\b(?:model|prompts)\.\S+=\S+", comment)
    config = load([CONFIGS.parent / file for file in files], overrides)
    assert config.rollouts.prompts_per_step == 512
    assert config.prompts.train.class_path.endswith(".Mixture")
