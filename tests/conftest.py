"""Fixtures of several folders: tiny random models with the starter's tokenizer, and runs of them."""

import shutil
import signal
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
import torch
from torch import Tensor
from transformers import AutoModelForCausalLM, AutoTokenizer, Qwen3ForCausalLM
from transformers.utils import logging as transformers_logging

from ceeh.runtime import shutdown
from ceeh.starter.model import build_model, build_tokenizer


def save_tiny_model(folder: Path, *, tied: bool) -> None:
    """A Qwen3 of about 40 thousand parameters whose random logits are far from uniform."""
    tokenizer = build_tokenizer()
    config = build_model(tokenizer, width=32, layers=2, heads=2).config
    config.tie_word_embeddings = tied
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model = Qwen3ForCausalLM(config)
        for weight in model.parameters():
            if weight.dim() == 2:
                torch.nn.init.normal_(weight, std=0.15)
    transformers_logging.disable_progress_bar()
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)


@pytest.fixture(autouse=True)
def _signals_kept() -> Iterator[None]:
    """As a terminal starts a command, whoever started the tests; and as they were afterwards."""
    signal.signal(signal.SIGINT, signal.default_int_handler)
    before = {number: signal.getsignal(number) for number in shutdown.SIGNALS}
    yield
    for number, handler in before.items():
        signal.signal(number, handler)


@pytest.fixture(scope="module")
def without_figures() -> Iterator[None]:
    """Drawing is half the time of a short run, and no part of what most of them test."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(
            "ceeh.fit.held_out.write_report", lambda folder, *_, **__: folder / "report.html"
        )
        yield


@pytest.fixture(scope="session")
def tiny_model_dir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder as `save_pretrained` writes it; embeddings tied, as in the starter."""
    folder = tmp_path_factory.mktemp("tied")
    save_tiny_model(folder, tied=True)
    return folder


@pytest.fixture(scope="session")
def untied_model_dir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The same with a head of its own."""
    folder = tmp_path_factory.mktemp("untied")
    save_tiny_model(folder, tied=False)
    return folder


@dataclass(frozen=True, slots=True, kw_only=True)
class FinishedRun:
    """A run of two steps, and what its trainer's policy said at the end, at temperature 0.7."""

    path: Path
    token_ids: Tensor
    response_mask: Tensor
    logprobs: Tensor

    def copy(self, place: Path) -> Path:
        return Path(shutil.copytree(self.path, place / self.path.name))


def finish_run(model: Path, output: Path, *overrides: str) -> FinishedRun:
    from ceeh.fit import fit
    from ceeh.modules.policy import Policy
    from tests.test_fit import small

    token_ids = torch.tensor([[5, 6, 7, 8, 9, 0], [4, 3, 2, 1, 5, 6]])
    mask = torch.tensor([[0, 0, 1, 1, 1, 0], [0, 1, 1, 1, 1, 1]]).bool()
    said, save = [], Policy.save

    def noting(policy: Policy, *arguments: object) -> int:
        said.append(policy(token_ids, mask)[0].detach())
        return save(policy, *arguments)  # type: ignore[arg-type]

    config = small(model, output, "rollouts.steps=2", "rollouts.temperature=0.7", *overrides)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Policy, "save", noting)
        path = fit(config)
    return FinishedRun(path=path, token_ids=token_ids, response_mask=mask, logprobs=said[0])


@pytest.fixture(scope="session")
def full_run(tiny_model_dir: Path, tmp_path_factory: pytest.TempPathFactory) -> FinishedRun:
    """All weights of a float32 base."""
    return finish_run(tiny_model_dir, tmp_path_factory.mktemp("full"))


@pytest.fixture(scope="session")
def lora_run(tiny_model_dir: Path, tmp_path_factory: pytest.TempPathFactory) -> FinishedRun:
    """A LoRA on a bfloat16 base, so that the run's own model/ is rounded."""
    base = tmp_path_factory.mktemp("half")
    AutoModelForCausalLM.from_pretrained(tiny_model_dir, dtype=torch.bfloat16).save_pretrained(base)
    AutoTokenizer.from_pretrained(tiny_model_dir).save_pretrained(base)
    return finish_run(base, tmp_path_factory.mktemp("lora"), "model.lora.rank=2")
