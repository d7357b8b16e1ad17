"""Shapes of a model, from its config.json alone."""

from pathlib import Path

import pytest

from ceeh.config.settings import load
from ceeh.errors import ConfigError
from ceeh.memory.shapes import read_shapes
from tests.memory.recipes import BASE, recipe


def test_shapes_are_those_of_the_model(distilled: Path) -> None:
    config = recipe(distilled.name, "me", "1x80gb")
    shapes = read_shapes(config.model, str(distilled))
    # 28 layers; 1.5B: 2 x 151,936 x 1,536 and 46.8M a layer; 7B: 2 x 152,064 x 3,584 and 233.1M.
    base, trained = {"1.5b": (1_777_088_000, 36_929_536), "7b": (7_615_616_512, 80_740_352)}[
        distilled.name
    ]
    assert (shapes.parameters - shapes.trained, shapes.trained) == (base, trained)
    assert not shapes.tied


def test_a_model_with_other_layers_has_no_plan(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text(
        '{"model_type": "gpt2", "n_layer": 2, "n_embd": 8, "n_head": 2}'
    )
    with pytest.raises(ConfigError, match="no memory plan for GPT2LMHeadModel: "):
        read_shapes(load(BASE).model, str(tmp_path))
