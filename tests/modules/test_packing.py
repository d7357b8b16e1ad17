"""Rows packed into one: the numbers of padded rows, for each family and kernel; what cannot be packed."""

from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers as T
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor
from transformers import modeling_flash_attention_utils as flash

from ceeh.config.hardware import check_attention
from ceeh.config.settings import Config, Hardware, LoRA, Model
from ceeh.data.batch import RolloutBatch
from ceeh.errors import ConfigError
from ceeh.modules.batching import (
    Microbatch,
    first_fit,
    index_microbatches,
    microbatches,
    model_inputs,
    padding_fraction,
)
from ceeh.modules.packing import (
    packing_fault,
    packs_rows,
    row_by_row,
    torchs_kernel,
    varlen_attention,
)
from ceeh.modules.policy import Policy
from tests.families import save_model
from tests.modules.test_update import OBJECTIVES, ragged, updated

PACKABLE = ("qwen2", "qwen3, tied", "llama", "gemma3", "gpt2", "qwen3_moe")
WINDOW = 4
"""Of Gemma 3 here: below the longest row."""


@pytest.fixture(scope="module", params=PACKABLE)
def family(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("model")
    save_model(request.param, folder)
    if request.param == "gemma3":
        config = T.AutoConfig.from_pretrained(folder)
        config.sliding_window = WINDOW
        config.save_pretrained(folder)
    return folder


def policy_of(folder: Path, settings: Model) -> Policy:
    torch.manual_seed(0)
    policy = Policy(settings, str(folder), temperature=0.7, keep_reference=True)
    with torch.no_grad():
        for weight in policy.trainable:
            weight.add_(0.02 * torch.randn(weight.shape))
    return policy


def flash_varlen(q: Tensor, k: Tensor, v: Tensor, **given: Any) -> Tensor:
    """flash-attn's function of this name, row by row."""
    ends, window = given["cu_seqlens_q"], given.get("window_size")
    assert given["causal"]
    assert torch.equal(ends, given["cu_seqlens_k"])
    lengths = ends.diff().tolist()
    assert given["max_seqlen_q"] == given["max_seqlen_k"] == max(lengths)
    return row_by_row(q, k, v, lengths, given["softmax_scale"], window and window[0] + 1)


@pytest.fixture
def transformers_flash(monkeypatch: pytest.MonkeyPatch) -> Callable[[Policy], None]:
    """Sets a policy to transformers' path to flash-attn, with the kernel above at its end."""

    def padded(*_: Any, **__: Any) -> Tensor:
        raise AssertionError("the kernel for rows of equal length")

    names = (
        "dropout_p window_size deterministic softcap s_aux learnable_sink block_table page_table"
    )
    names += " cache_seqlens max_seqlen_q max_seqlen_k"
    supported: Any = dict.fromkeys(names.split(), True)
    process = partial(flash._process_flash_attention_kwargs, supports_mapping=supported)
    functions = (padded, flash_varlen, None, None, None), (process, None)
    # Without autocast transformers asks a Linear of the module for its dtype; GPT-2 has none.
    monkeypatch.setattr(
        "transformers.integrations.flash_attention.get_target_dtype", lambda *_: None
    )
    monkeypatch.setattr(flash, "lazy_import_flash_attention", lambda *_: functions)

    def use(policy: Policy) -> None:
        for model in (policy.causal_lm, *(each.causal_lm for each in policy.reference)):
            model.config._attn_implementation = "flash_attention_2"

    return use


def forward_packed(policy: Policy, batch: RolloutBatch, budget: int) -> list[Tensor]:
    """Log-probs and entropies [R T] of micro-batches."""
    filled = [torch.zeros_like(batch.engine_logprobs) for _ in range(2)]
    micro = microbatches(batch.totals, torch.arange(5), budget, packed=policy.packs)
    assert padding_fraction(batch.totals, micro) == 0
    for index in index_microbatches(micro, batch):
        assert index.shape == (1, len(index.token_index))
        found = policy(**model_inputs(batch, index))
        for values, of_rows in zip(filled, found, strict=True):
            values.view(-1)[index.batch_index] = of_rows.flatten()[index.response_index]
    return filled


BUDGETS = (1000, 20, 12)
"""All rows at once, some together, and the longest alone."""


@pytest.mark.parametrize("kernel", ["varlen", "sdpa", "flash"])
def test_packed_rows_have_the_numbers_of_padded_ones(
    family: Path, kernel: str, transformers_flash: Callable[[Policy], None]
) -> None:
    """Log-probs, entropies, the loss's parts and the gradient, however the rows are cut and ordered."""
    batch, settings = ragged(), OBJECTIVES["me"]
    padded = policy_of(family, Model())
    expected = list(padded(batch.token_ids, batch.response_mask))
    whole, gradients = updated(padded, batch, settings, 1000)
    for budget in BUDGETS:
        policy = policy_of(family, Model(attention="varlen" if kernel == "varlen" else "sdpa"))
        if kernel == "flash":
            transformers_flash(policy)
        policy.packs = True
        found = forward_packed(policy, batch, budget)
        torch.testing.assert_close(found, expected, rtol=0, atol=1e-5)
        result, got = updated(policy, batch, settings, budget)
        torch.testing.assert_close(got, gradients, rtol=1e-5, atol=1e-5)
        assert result.sums == pytest.approx(whole.sums, rel=1e-5, abs=1e-5)
        assert result.loss == pytest.approx(whole.loss, rel=1e-5)


@pytest.mark.parametrize(
    "settings",
    [LoRA(rank=2), LoRA(rank=2, dropout=0.0, target_modules=["q_proj"])],
    ids=["lora", "one matrix"],
)
@pytest.mark.parametrize("checkpointing", [False, True], ids=["kept", "checkpointing"])
def test_packed_rows_train_an_adapter(
    tiny_model_dir: Path, settings: LoRA, checkpointing: bool
) -> None:
    given = Model(lora=settings, gradient_checkpointing=checkpointing, head_chunk_tokens=5)
    found = {}
    for attention in ("sdpa", "varlen"):
        policy = policy_of(tiny_model_dir, replace(given, attention=attention))
        found[attention] = updated(policy, ragged(), OBJECTIVES["me"], 20)[1]
    torch.testing.assert_close(found["varlen"], found["sdpa"], rtol=1e-5, atol=1e-5)


def test_rows_without_response_and_empty_micro_batches_are_packed(tiny_model_dir: Path) -> None:
    """An aborted response has no token, and then neither has its row."""
    batch, policy = ragged(), policy_of(tiny_model_dir, Model(attention="varlen"))
    mask = batch.response_mask.clone()
    mask[1] = False
    aborted = replace(batch, response_mask=mask, lengths=mask.sum(1))
    expected = policy(aborted.token_ids, aborted.response_mask)[0]
    for rows in ([0, 1, 2], [1], []):
        cut = Microbatch(rows=torch.tensor(rows, dtype=torch.long), width=12, packed=True)
        (index,) = index_microbatches([cut], aborted)
        found = policy(**model_inputs(aborted, index))[0]
        of_batch = expected.flatten()[index.batch_index]
        torch.testing.assert_close(
            found.flatten()[index.response_index], of_batch, rtol=0, atol=1e-5
        )
        assert len(index.response_index) == int(mask[rows].sum())


@given(st.lists(st.integers(0, 30), max_size=40), st.integers(10, 60))
def test_first_fit_loses_no_row_and_opens_a_bin_only_for_what_fits_nowhere(
    totals: list[int], size: int
) -> None:
    lengths = sorted(totals, reverse=True)
    bins = first_fit(lengths, size)
    assert sorted(index for held in bins for index in held) == list(range(len(lengths)))
    for number, held in enumerate(bins):
        first, used = lengths[held[0]], sum(lengths[index] for index in held)
        assert used <= size or len(held) == 1
        for earlier in bins[:number]:
            assert first + sum(lengths[i] for i in earlier if i < held[0]) > size


def test_packed_micro_batches_count_tokens_without_padding() -> None:
    totals = torch.tensor([2, 9, 4, 3, 6])
    cut = microbatches(totals, torch.arange(5), max_tokens=12, packed=True)
    assert [each.rows.tolist() for each in cut] == [[1, 3], [4, 2, 0]]  # 9 + 3 and 6 + 4 + 2
    assert [each.width for each in cut] == [9, 6]


REFUSED = {
    "gemma2": "a soft cap of attention scores",
    "gpt_oss": "attention sinks",
    "deepseek_v3": "values of another size",
    "lfm2": "hidden states change by 0",
    "falcon": "hidden states change by 0",
    "qwen3_next": "carry a state from row to row",
}


@pytest.mark.parametrize("name", REFUSED)
def test_a_model_that_packing_would_change_is_refused_or_keeps_its_padding(
    name: str, tmp_path: Path
) -> None:
    """Caps and sinks the kernel lacks; convolutions and recurrent states reach into the next row."""
    save_model(name, tmp_path)
    model: Any = T.AutoModelForCausalLM.from_pretrained(tmp_path)
    attention = model.config._attn_implementation
    says = rf"model\.attention is varlen, .*{REFUSED[name]}.*model\.attention=sdpa"
    with pytest.raises(ConfigError, match=says):
        packs_rows(model, "varlen")
    with pytest.warns(match=f"keep their padding.*{REFUSED[name]}"):
        assert not packs_rows(model, "flash_attention_2")
    assert not packs_rows(model, "sdpa")
    assert model.config._attn_implementation == attention


def test_a_family_with_biases_of_distance_is_refused() -> None:
    config = T.BloomConfig(vocab_size=64, hidden_size=64, n_layer=1, n_head=2)
    fault = packing_fault(T.BloomForCausalLM(config))
    assert fault == "transformers has no flash attention for this family"


def test_rows_of_a_window_see_their_last_tokens_alone() -> None:
    """Row 0 of length 5 in a window of 2: token t attends to t - 1 and t."""
    torch.manual_seed(0)
    query, key, value = (torch.randn(1, heads, 8, 4) for heads in (2, 1, 1))
    given = {"row_lengths": (5, 3), "scaling": 0.5}
    found, _ = varlen_attention(
        torch.nn.Identity(), query, key, value, None, sliding_window=2, **given
    )
    for head in range(2):
        for place in range(8):
            start = 0 if place < 5 else 5
            seen = slice(max(start, place - 1), place + 1)
            weights = (0.5 * key[0, 0, seen] @ query[0, head, place]).softmax(0)
            torch.testing.assert_close(found[0, place, head], weights @ value[0, 0, seen])


@pytest.mark.parametrize("window", [None, 4])
def test_torchs_kernel_takes_the_call(window: int | None) -> None:
    """On tensors without data: names, dtypes and shapes, with fewer heads of keys."""
    boundaries = torch.tensor([0, 5, 8], dtype=torch.int32, device="meta")
    shape: Any = {"device": "meta", "dtype": torch.bfloat16, "requires_grad": True}
    query, key, value = (torch.empty(8, heads, 16, **shape) for heads in (4, 2, 2))
    found = torchs_kernel(query, key, value, boundaries, 5, 0.25, window)
    assert found.shape == query.shape
    found.sum().backward()
    assert query.grad is not None
    assert key.grad is not None
    assert key.grad.shape == key.shape


def test_flash_attention_without_its_package_is_told_before_a_run(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    config = Config(model=Model(attention="flash_attention_2"))
    with pytest.raises(ConfigError, match=r"needs CUDA, .*model\.attention=varlen or sdpa"):
        check_attention(config, "cpu")
    check_attention(config, "cuda")  # a plan for other devices
    fp32 = replace(config, hardware=Hardware(precision="32-true"))
    with pytest.raises(ConfigError, match=r"hardware\.precision=bf16-mixed"):
        check_attention(fp32, "cuda")
    monkeypatch.setattr("torch.cuda.is_available", lambda: True)
    monkeypatch.setattr("torch.cuda.is_bf16_supported", lambda **_: True)
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(ConfigError, match=r"needs the package flash-attn, or kernels; install one"):
        check_attention(config, "cuda")
    monkeypatch.setattr("importlib.util.find_spec", lambda name: name == "kernels" or None)
    check_attention(config, "cuda")
