"""Weights in the format of a family's files, which transformers changes while it reads them."""

import re
from collections.abc import Iterable, Iterator
from itertools import groupby

from torch import Tensor
from transformers import PreTrainedModel
from transformers.conversion_mapping import get_model_conversion_mapping
from transformers.core_model_loading import revert_weight_conversion

LAYER = re.compile(r".*?\.\d+\.")


def layer_of(name: str) -> str:
    """The weight's layer, such as `model.layers.3.`, or its whole name."""
    found = LAYER.match(name)
    return found[0] if found else name


def as_in_files(
    model: PreTrainedModel, weights: Iterable[tuple[str, Tensor]]
) -> Iterator[tuple[str, Tensor]]:
    """`weights` of `model`, named and shaped as `save_pretrained` writes them.

    In memory the experts of a layer are one tensor, in files most often a matrix each, and other weights
    change their names. Engines read the files' format only. A model without such changes streams one weight
    at a time, others one layer.
    """
    if not get_model_conversion_mapping(model, add_legacy=False):
        yield from weights
        return
    for _, layer in groupby(weights, lambda pair: layer_of(pair[0])):
        yield from revert_weight_conversion(model, dict(layer)).items()
