"""Every ablation of configs/ablations changes what its name says of configs/ceeh.yaml, and nothing else."""

import re
from dataclasses import asdict
from pathlib import Path
from typing import Any

import pytest

from ceeh.assembly.components import build_callbacks
from ceeh.config.consistency import check_pairs
from ceeh.config.settings import Config, load
from ceeh.modules.shaping.checked import build_shaping
from ceeh.runtime.text import flatten

CONFIGS = Path(__file__).parents[1] / "configs"
OVERLAYS = sorted((CONFIGS / "ablations").glob("*.yaml"))
ENTROPY, SHAPING = "objective.entropy.", "objective.shaping.init_args."
DIFFICULTY, ANCHOR = "callbacks.difficulty.init_args.", "callbacks.optimal_length.init_args."
TRAINER = {"objective.old_logprobs": "trainer"}
CHANGES: dict[str, dict[str, Any]] = {
    "no_entropy": {f"{ENTROPY}method": "none"},
    "hard_only": {f"{ENTROPY}method": "hard_only"},
    "uniform_mean": {f"{ENTROPY}method": "uniform_mean"},
    "easy_only": {f"{ENTROPY}hard_factor": 0.0},
    "half_on_hard": {f"{ENTROPY}hard_factor": 0.5},
    "ea_all": {f"{ENTROPY}method": "ea_all"},
    "top_tokens": {f"{ENTROPY}top_fraction": 0.2},
    "anneal_linear": {f"{ENTROPY}anneal": "linear"},
    "anneal_none": {f"{ENTROPY}anneal": "none"},
    "anneal_end_80": {f"{ENTROPY}anneal_end": 0.8},
    "difficulty_last_visit": {f"{DIFFICULTY}judged": "last_visit"},
    "difficulty_own_group": {f"{DIFFICULTY}judged": "own_group"},
    "threshold_median": {f"{DIFFICULTY}threshold": "median"},
    "threshold_quantile": {f"{DIFFICULTY}threshold": "quantile", f"{DIFFICULTY}level": 0.25},
    "threshold_fixed": {f"{DIFFICULTY}threshold": "fixed", f"{DIFFICULTY}level": 0.5},
    "no_gate": {f"{SHAPING}gate": False},
    "strong_length": {f"{SHAPING}beta": 0.4},
    "strict_gate": {f"{SHAPING}strict_gate": True},
    "shuffled_gate": {
        "callbacks.difficulty.class_path": "ceeh.callbacks.shuffled_gate.ShuffledGate",
        f"{SHAPING}history_signal": "shuffled_history",
    },
    "floor_unscaled": {f"{SHAPING}floor_on": "unscaled"},
    "anchor_own_group": {f"{ANCHOR}rule": "own_group"},
    "anchor_ema": {f"{ANCHOR}rule": "ema", f"{ANCHOR}fall": 0.2, f"{ANCHOR}rise": 0.05},
    "anchor_median": {f"{ANCHOR}rule": "median", f"{ANCHOR}window": 8},
    "first_visit_unshaped": {f"{ANCHOR}from_own_group": False},
    "importance_sequence": TRAINER | {"objective.importance": "sequence"},
    "importance_masked": TRAINER | {"objective.importance": "token_mask"},
    "importance_sequence_masked": TRAINER | {"objective.importance": "sequence_mask"},
}


def settings(config: Config) -> dict[str, Any]:
    return flatten(asdict(config))


@pytest.mark.parametrize("overlay", OVERLAYS, ids=lambda path: path.stem)
def test_an_ablation_changes_one_thing_and_builds(overlay: Path) -> None:
    plain, config = load([CONFIGS / "ceeh.yaml"]), load([CONFIGS / "ceeh.yaml", overlay])
    expected = settings(plain) | CHANGES[overlay.stem] | {"name": overlay.stem}
    assert settings(config) == expected
    assert settings(config) != settings(plain) | {"name": overlay.stem}
    check_pairs(config, 1)
    build_shaping(config)
    build_callbacks(config)


def test_every_ablation_has_its_file_and_its_command() -> None:
    assert {path.stem for path in OVERLAYS} == CHANGES.keys()
    for path in OVERLAYS:
        assert re.findall(r"--config (\S+)", path.read_text()) == [
            "configs/ceeh.yaml",
            f"configs/ablations/{path.name}",
        ]
