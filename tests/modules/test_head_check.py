"""The chunked head gives the logits of each family's own head, and a model where it does not is refused."""

from pathlib import Path

import pytest
import torch
import transformers as T
from transformers import AutoModelForCausalLM

from ceeh.config.settings import Model
from ceeh.errors import ConfigError
from tests.modules.small_policies import IDS, MASK, make, reference, tiny

FAMILIES = {
    "Gemma 2": (
        T.Gemma2Config,
        {
            "final_logit_softcapping": 2.0,
            "attn_logit_softcapping": 0.1,  # left out by sdpa
            "query_pre_attn_scalar": 16,
        },
    ),
    "Cohere": (T.CohereConfig, {"logit_scale": 0.5}),
    "Granite": (T.GraniteConfig, {"logits_scaling": 8.0}),
    "Phi": (T.PhiConfig, {}),
}


@pytest.mark.parametrize("family", FAMILIES)
def test_caps_scales_and_head_biases_equal_the_models_own_logits(
    family: str, tmp_path: Path
) -> None:
    config, settings = FAMILIES[family]
    folder = tiny(config, tmp_path, **settings)
    policy = make(folder, Model())
    torch.testing.assert_close(policy(IDS, MASK), reference(folder, 0.7), rtol=1e-4, atol=1e-5)
    model = AutoModelForCausalLM.from_pretrained(
        folder, dtype=torch.float32, attn_implementation="eager"
    )
    logprobs = (model(input_ids=IDS).logits[:, :-1] / 0.7).log_softmax(-1)
    (logprobs.gather(-1, IDS[:, 1:, None])[..., 0] * MASK[:, 1:]).sum().backward()
    policy.loss(IDS, MASK, lambda found, entropy, _: found.sum()).backward()
    for (name, value), plain in zip(
        policy.causal_lm.named_parameters(), model.parameters(), strict=True
    ):
        torch.testing.assert_close(value.grad, plain.grad, rtol=1e-3, atol=1e-4, msg=name)


def test_a_model_whose_logits_the_head_does_not_reproduce_is_refused(
    tiny_model_dir: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    forward = T.Qwen3ForCausalLM.forward

    def sharper(*arguments: object, **named: object):
        output = forward(*arguments, **named)
        output.logits = output.logits * 1.01
        return output

    monkeypatch.setattr(T.Qwen3ForCausalLM, "forward", sharper)
    with pytest.raises(
        ConfigError, match=r"logits of Qwen3ForCausalLM are not cap tanh.*differ by"
    ):
        make(tiny_model_dir, Model())
