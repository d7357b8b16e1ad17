"""Weights in several files: within the limit, complete, and one file in memory at a time."""

import json
import weakref
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor

from ceeh.errors import ConfigError
from ceeh.modules.policy import Policy
from ceeh.modules.restore import load_policy
from ceeh.pretrained.loading import load_tokenizer
from ceeh.pretrained.locate import open_trained
from ceeh.pretrained.shards import write_shards
from tests.conftest import FinishedRun
from tests.pretrained.test_locate import difference


def weights(sizes: list[int]) -> dict[str, Tensor]:
    return {f"w{index}": torch.full((size,), float(index)) for index, size in enumerate(sizes)}


def test_files_hold_at_most_the_limit_in_order_and_one_file_has_no_index(tmp_path: Path) -> None:
    # Four bytes a number, 40 bytes a file: 16 + 24 | 32 | 48, too large, gets its own | 8.
    given = weights([4, 6, 8, 12, 2])
    assert write_shards(tmp_path, given.items(), max_shard_bytes=40) == 128
    files = sorted(path.name for path in tmp_path.glob("*.safetensors"))
    assert files == [f"model-0000{number}-of-00004.safetensors" for number in (1, 2, 3, 4)]
    assert [sorted(load_file(tmp_path / file)) for file in files] == [
        ["w0", "w1"],
        ["w2"],
        ["w3"],
        ["w4"],
    ]
    index = json.loads((tmp_path / "model.safetensors.index.json").read_text())
    assert index["metadata"] == {"total_size": 128}
    assert index["weight_map"].keys() == given.keys()
    for name, file in index["weight_map"].items():
        assert torch.equal(load_file(tmp_path / file)[name], given[name])
    assert len(list(tmp_path.iterdir())) == 5
    (tmp_path / "one").mkdir()
    write_shards(tmp_path / "one", given.items())
    assert [path.name for path in (tmp_path / "one").iterdir()] == ["model.safetensors"]


def test_weights_of_a_written_file_are_released(tmp_path: Path) -> None:
    alive: list[weakref.ref] = []
    most = 0

    def stream() -> Iterator[tuple[str, Tensor]]:
        nonlocal most
        for index in range(12):
            value = torch.zeros(8)
            alive.append(weakref.ref(value))
            yield f"w{index}", value
            del value
            most = max(most, sum(ref() is not None for ref in alive))

    write_shards(tmp_path, stream(), max_shard_bytes=64)  # two weights a file
    assert len(list(tmp_path.glob("*.safetensors"))) == 6
    assert most <= 3


def test_a_weight_that_its_dtype_cannot_hold_is_refused(tmp_path: Path) -> None:
    given = {"w": torch.tensor([7e4]).to(torch.float16)}  # float16 ends at 65,504
    with pytest.raises(ConfigError, match="'w' is not finite as float16; write --dtype bfloat16"):
        write_shards(tmp_path, given.items())


def test_a_model_in_several_files_gives_the_same_logprobs(
    full_run: FinishedRun, tmp_path: Path
) -> None:
    policy: Policy = load_policy(open_trained(str(full_run.path)))
    tokenizer = load_tokenizer(str(full_run.path / "model"), False)
    size = policy.save(tmp_path / "model", tokenizer, max_shard_bytes=40_000)
    files = list((tmp_path / "model").glob("*.safetensors"))
    assert len(files) >= size / 40_000 > 3
    assert difference(open_trained(str(tmp_path / "model")), full_run) <= 1e-6
