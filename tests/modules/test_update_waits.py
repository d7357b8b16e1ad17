"""A micro-batch reads no number from the device: on a GPU each such read makes the host wait."""

from collections import Counter
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from ceeh.config.settings import Entropy, Objective
from ceeh.modules import update
from ceeh.modules.batching import located, microbatches
from ceeh.modules.policy import Policy
from ceeh.modules.timing import StepClock
from tests.modules.test_update import denominator, inputs, make, ragged

DATA_DEPENDENT = {"_local_scalar_dense", "nonzero", "masked_select", "item", "equal", "_unique2"}
MASK_CHECKS = 1
"""Of transformers in each forward pass: whether several sequences are packed into one row."""


class Waits(TorchDispatchMode):
    """Counts operations whose result or shape the host must know, and indexing by a mask."""

    def __init__(self) -> None:
        super().__init__()
        self.counts: Counter[str] = Counter()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        name = func.overloadpacket.__name__
        if name in DATA_DEPENDENT:
            self.counts[name] += 1
        if name in ("index", "index_put", "index_put_", "_index_put_impl_"):
            masks = [each for each in args[1] if each is not None and each.dtype == torch.bool]
            self.counts["index by a mask"] += len(masks)
        return func(*args, **(kwargs or {}))


def counted(policy: Policy, settings: Objective, monkeypatch: pytest.MonkeyPatch) -> Counter[str]:
    batch = ragged()
    micro = microbatches(batch.totals, torch.arange(5), 12)
    places = located(micro, batch)  # once for the optimizer step, by the host
    monkeypatch.setattr(update, "located", lambda *_: places)
    with Waits() as waits:
        update.accumulate_gradients(
            policy,
            batch,
            micro,
            inputs(batch, settings),
            denominator=denominator(batch, settings),
            backward=lambda loss, last: loss.backward(),
            clock=StepClock(),
        )
    assert len(micro) == 4
    passes = len(micro) * (1 + (settings.kl_coefficient > 0) + (settings.ratio == "sequence"))
    waits.counts["_local_scalar_dense"] -= MASK_CHECKS * passes
    return +waits.counts


SETTINGS = {
    "me with KL": Objective(entropy=Entropy(method="me", coefficient=0.05), kl_coefficient=0.1),
    "ea": Objective(entropy=Entropy(method="ea"), kl_coefficient=0.0),
    "sequence mean, trainer's": Objective(
        aggregation="sequence_mean", old_logprobs="trainer", kl_coefficient=0.0
    ),
    "sequence ratio, top tokens": Objective(
        ratio="sequence", entropy=Entropy(method="me", top_fraction=0.5), kl_coefficient=0.0
    ),
}


@pytest.mark.parametrize("rank", [0, 2], ids=["full", "lora"])
@pytest.mark.parametrize("name", SETTINGS)
def test_a_micro_batch_reads_nothing_back(
    tiny_model_dir: Path, name: str, rank: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert not counted(make(tiny_model_dir, rank, 5), SETTINGS[name], monkeypatch)


def test_what_would_wait_is_counted(tiny_model_dir: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The same micro-batches, each found by its mask on the device."""
    whole = Policy.loss
    monkeypatch.setattr(
        Policy,
        "loss",
        lambda self, ids, mask, objective, places: whole(self, ids, mask, objective),
    )
    assert counted(make(tiny_model_dir, 0, 5), SETTINGS["ea"], monkeypatch) == {"nonzero": 4}
    with Waits() as waits:
        values: Tensor = torch.arange(6.0)
        assert values[values > 2].sum().item() == 12
    assert waits.counts == {"index by a mask": 1, "_local_scalar_dense": 1}


def test_places_are_those_of_the_mask() -> None:
    batch = ragged()
    for cut in located(microbatches(batch.totals, torch.tensor([3, 0, 4]), 24), batch):
        mask = batch.response_mask[cut.rows, : cut.width]
        assert cut.places.tolist() == mask.flatten().nonzero()[:, 0].tolist()
        values = torch.arange(batch.token_ids.numel())
        expected = values.view(batch.token_ids.shape)[cut.rows, : cut.width][mask]
        torch.testing.assert_close(values[cut.batch_places], expected)
