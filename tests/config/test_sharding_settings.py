"""Settings that sharded weights exclude, and those that need them."""

import pytest

from ceeh.config.consistency import check_pairs
from ceeh.config.settings import load
from ceeh.errors import ConfigError


@pytest.mark.parametrize(
    ("given", "words"),
    [
        (
            ["hardware.strategy=fsdp", "model.lora.rank=4", "model.lora.base=nf4"],
            "blocks of model.lora.base=nf4 do not allow; set model.lora.base=model or hardware.strategy=ddp",
        ),
        (
            ["hardware.strategy=fsdp", "optimizer.moments=8bit"],
            "blocks of optimizer.moments=8bit do not allow; set optimizer.moments=fp32",
        ),
        (
            ["checkpoints.format=distributed"],
            "needs hardware.strategy=fsdp, got auto; set checkpoints.format=full",
        ),
    ],
)
def test_contradictions_of_sharding_are_refused(given: list[str], words: str) -> None:
    with pytest.raises(ConfigError, match=words):
        check_pairs(load([], given), 2)
    check_pairs(load([], ["hardware.strategy=fsdp", "checkpoints.format=distributed"]), 2)
