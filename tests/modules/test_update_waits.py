"""A micro-batch reads no number from the device: on a GPU each such read makes the host wait."""

from collections import Counter
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from ceeh.config.objective import Entropy, Objective
from ceeh.config.settings import Model
from ceeh.modules import update
from ceeh.modules.batching import index_microbatches, microbatches, model_inputs
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
    micro = microbatches(batch.totals, torch.arange(5), 12, packed=policy.packs)
    indices = index_microbatches(micro, batch)  # once for the optimizer step, by the host
    monkeypatch.setattr(update, "index_microbatches", lambda *_: indices)
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
    assert len(micro) >= 3
    passes = len(micro) * (1 + (settings.kl_coefficient > 0) + (settings.ratio == "sequence"))
    waits.counts["_local_scalar_dense"] -= 0 if policy.packs else MASK_CHECKS * passes
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


def test_a_packed_micro_batch_reads_nothing_back_and_has_no_mask(
    tiny_model_dir: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    policy = Policy(
        Model(attention="varlen"), str(tiny_model_dir), temperature=0.7, keep_reference=True
    )
    assert not counted(policy, SETTINGS["me with KL"], monkeypatch)


def test_what_would_wait_is_counted(tiny_model_dir: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The same micro-batches, each found by its mask on the device."""
    whole = Policy.loss
    monkeypatch.setattr(
        Policy,
        "loss",
        lambda self, token_ids, response_mask, objective, **_: whole(
            self, token_ids, response_mask, objective
        ),
    )
    assert counted(make(tiny_model_dir, 0, 5), SETTINGS["ea"], monkeypatch) == {"nonzero": 4}
    with Waits() as waits:
        values: Tensor = torch.arange(6.0)
        assert values[values > 2].sum().item() == 12
    assert waits.counts == {"index by a mask": 1, "_local_scalar_dense": 1}


@pytest.mark.parametrize("packed", [False, True])
def test_the_response_index_is_where_the_mask_is_true(packed: bool) -> None:
    batch = ragged()
    values = torch.arange(batch.token_ids.numel())
    micro = microbatches(batch.totals, torch.tensor([3, 0, 4]), 24, packed=packed)
    found = []
    for index in index_microbatches(micro, batch):
        given = model_inputs(batch, index)
        ids, mask = given["token_ids"], given["response_mask"]
        assert index.response_index.tolist() == mask.flatten().nonzero()[:, 0].tolist()
        torch.testing.assert_close(index.batch_index, index.token_index[index.response_index])
        torch.testing.assert_close(ids.flatten(), batch.token_ids.flatten()[index.token_index])
        found += index.batch_index.tolist()
    rows = torch.tensor([0, 3, 4])
    expected = values.view(batch.token_ids.shape)[rows][batch.response_mask[rows]]
    assert sorted(found) == expected.tolist()
