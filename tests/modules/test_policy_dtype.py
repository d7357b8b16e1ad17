"""What a policy holds in which dtype: frozen weights as in their files, trained ones in fp32."""

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor
from transformers import AutoModelForCausalLM, AutoTokenizer

from ceeh.config.consistency import check_pairs
from ceeh.config.hardware import check_quantization
from ceeh.config.settings import Config, LoRA, Model, Optimizer
from ceeh.errors import ConfigError
from ceeh.modules.policy import Policy
from ceeh.modules.schedule import build_optimizer
from ceeh.runtime.text import flatten

IDS = torch.tensor([[5, 6, 7, 8, 9, 10], [4, 3, 2, 1, 5, 6]])
MASK = torch.tensor([[0, 0, 1, 1, 1, 0], [0, 1, 1, 1, 1, 1]]).bool()
BF16, FP32 = torch.bfloat16, torch.float32


@pytest.fixture(scope="module")
def bf16_dir(tiny_model_dir: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("bf16")
    AutoModelForCausalLM.from_pretrained(tiny_model_dir, dtype=BF16).save_pretrained(folder)
    AutoTokenizer.from_pretrained(tiny_model_dir).save_pretrained(folder)
    return folder


def make(folder: Path, *, rank: int, precision: str, base: Any = "model") -> Policy:
    torch.manual_seed(0)
    settings = Model(lora=LoRA(rank=rank, base=base))
    policy = Policy(
        settings, str(folder), temperature=0.7, keep_reference=False, precision=precision
    )
    with torch.no_grad():
        for weight in policy.trainable if rank else []:
            weight.add_(0.05 * torch.randn(weight.shape))
    return policy


@pytest.mark.parametrize(
    ("files", "rank", "precision", "frozen"),
    [
        ("bf16_dir", 2, "bf16-mixed", BF16),
        ("bf16_dir", 2, "32-true", FP32),
        ("tiny_model_dir", 2, "bf16-mixed", FP32),
        ("bf16_dir", 0, "bf16-mixed", None),
    ],
)
def test_only_frozen_weights_are_in_bf16(
    request: pytest.FixtureRequest,
    files: str,
    rank: int,
    precision: str,
    frozen: torch.dtype | None,
) -> None:
    policy = make(request.getfixturevalue(files), rank=rank, precision=precision)
    assert {weight.dtype for weight in policy.trainable} == {FP32}
    held = {weight.dtype for weight in policy.parameters() if not weight.requires_grad}
    assert held == ({frozen} if frozen else set())


@torch.no_grad()
def copy_trained(source: Policy, target: Policy) -> None:
    """peft rounds an adapter's first values to the base's dtype."""
    for one, other in zip(source.trainable, target.trainable, strict=True):
        other.copy_(one)


def loss_of(policy: Policy, *, bf16: bool) -> Tensor:
    with torch.autocast("cpu", BF16, enabled=bf16, cache_enabled=False):
        return policy.loss(IDS, MASK, lambda logprobs, entropy, _: (logprobs + entropy).sum())


def test_a_bf16_base_gives_the_numbers_and_gradients_of_an_fp32_one_up_to_bf16(
    bf16_dir: Path,
) -> None:
    found = []
    for precision in ("32-true", "bf16-mixed"):
        policy = make(bf16_dir, rank=2, precision=precision)
        loss = loss_of(policy, bf16=precision == "bf16-mixed")
        loss.backward()
        gradients = [weight.grad for weight in policy.trainable if weight.grad is not None]
        assert {gradient.dtype for gradient in gradients} == {FP32}
        found.append((loss.detach(), torch.cat([gradient.flatten() for gradient in gradients])))
    (exact, slope), (loss, got) = found
    assert 0 < abs(loss - exact) < 1e-2 * abs(exact)
    assert 0 < (got - slope).norm() < 6e-2 * slope.norm()


def test_an_adapter_is_added_in_fp32_to_a_bf16_base(bf16_dir: Path) -> None:
    """One rounding, by the engine: none before."""
    policies = [make(bf16_dir, rank=2, precision=each) for each in ("32-true", "bf16-mixed")]
    copy_trained(*policies)
    exact, pushed = (dict(policy.engine_weights()) for policy in policies)
    assert exact.keys() == pushed.keys()
    changed = 0
    for name, value in pushed.items():
        torch.testing.assert_close(value.float(), exact[name], rtol=0, atol=0)
        changed += not torch.equal(value.float(), value.bfloat16().float())
    assert changed == 14  # seven matrices of each of two layers


@pytest.mark.parametrize(
    ("config", "says"),
    [
        (
            Config(model=Model(lora=LoRA(rank=2, base="nf4"))),
            r"model\.lora\.base is nf4.*base=model",
        ),
        (Config(optimizer=Optimizer(moments="8bit")), r"optimizer\.moments is 8bit.*moments=fp32"),
    ],
)
def test_quantization_without_cuda_or_bitsandbytes_is_refused(
    config: Config, says: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    check_quantization(Config(), "cpu")
    with pytest.raises(ConfigError, match=says):
        check_quantization(config, "cpu")
    check_quantization(config, "cuda")  # a plan for other devices
    monkeypatch.setattr("torch.cuda.is_available", lambda: True)
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(ConfigError, match=r"needs bitsandbytes.*\[quantized\]"):
        check_quantization(config, "cuda")


def test_a_4_bit_base_without_an_adapter_is_refused() -> None:
    with pytest.raises(ConfigError, match=r"model\.lora\.base=nf4 .* got 0; set model\.lora\.rank"):
        check_pairs(Config(model=Model(lora=LoRA(base="nf4"))), 1)


def test_a_4_bit_base_trains_and_is_pushed_as_whole_matrices(
    tiny_model_dir: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    modules = pytest.importorskip("bitsandbytes.nn.modules", reason="an extra; runs on a CPU too")
    # On a CPU it would repack the matrices for inference, from sizes that these do not have.
    monkeypatch.setattr(modules, "has_avx512bf16", lambda: False)
    policy = make(tiny_model_dir, rank=2, precision="32-true", base="nf4")
    assert sum(weight.dtype == torch.uint8 for weight in policy.parameters()) == 14
    before = loss_of(policy, bf16=False)
    before.backward()
    assert all(weight.grad is not None for weight in policy.trainable)
    pushed = dict(policy.engine_weights())
    unpacked = make(tiny_model_dir, rank=2, precision="32-true")
    copy_trained(policy, unpacked)
    whole = dict(unpacked.engine_weights())
    assert {n: w.shape for n, w in pushed.items()} == {n: w.shape for n, w in whole.items()}
    relative = [(pushed[n].float() - w).norm() / w.norm() for n, w in whole.items()]
    assert 0.05 < max(relative) < 0.5  # 0.09 in large matrices, more in blocks of so few weights
    policy.save(tmp_path / "model", AutoTokenizer.from_pretrained(tiny_model_dir))
    saved = AutoModelForCausalLM.from_pretrained(tmp_path / "model").eval()
    log_p = (saved(input_ids=IDS).logits[:, :-1] / 0.7).log_softmax(-1)
    expected = log_p.gather(2, IDS[:, 1:, None])[..., 0] * MASK[:, 1:]
    torch.testing.assert_close(policy(IDS, MASK)[0][:, 1:], expected, rtol=1e-4, atol=1e-4)


def test_8_bit_moments_are_a_byte_each_and_resume(tmp_path: Path) -> None:
    pytest.importorskip("bitsandbytes", reason="an extra; it also runs on a CPU")

    def stepped(steps: int, weight: torch.nn.Parameter, state: Any = None) -> Any:
        optimizer = build_optimizer(Optimizer(moments="8bit"), [weight], torch.device("cpu"))
        if state:
            optimizer.load_state_dict(state)
        for _ in range(steps):
            weight.grad = weight.detach() ** 2 + 0.1
            optimizer.step()
        return optimizer.state_dict()

    torch.manual_seed(0)
    start = torch.randn(128, 128)
    whole, parts = torch.nn.Parameter(start.clone()), torch.nn.Parameter(start.clone())
    held = flatten(stepped(4, whole)["state"][0])
    bytes_of = [value for value in held.values() if getattr(value, "dtype", None) == torch.uint8]
    assert sum(value.numel() for value in bytes_of) == 2 * start.numel()
    torch.save(stepped(2, parts), tmp_path / "state.pt")
    stepped(2, parts, torch.load(tmp_path / "state.pt", weights_only=True))
    assert torch.equal(whole, parts)
    assert not torch.equal(whole, start)
