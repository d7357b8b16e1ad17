"""From a run, checkpoint or model folder to a policy with its weights."""

from dataclasses import replace
from importlib.util import find_spec
from pathlib import Path

from torch import Tensor

from ceeh.config.settings import Model
from ceeh.errors import ConfigError
from ceeh.modules.policy import Policy
from ceeh.pretrained.adapter import adapted_modules
from ceeh.pretrained.locate import ModelSource
from ceeh.run.checkpoint import policy_weights, read_checkpoint


def load_policy(
    trained: ModelSource, *, temperature: float = 1.0, keep_reference: bool = False
) -> Policy:
    """The policy in evaluation mode with the weights of `trained`; its log-probs are at `temperature`.

    Raises ConfigError for a checkpoint that is damaged or of another model, and for a base model that
    cannot be loaded. No pickle is run.
    """
    settings = trained.config.model if trained.config else Model()
    settings = replace(
        settings,
        gradient_checkpointing=False,
        # FlashAttention, with which a run may have trained, needs a GPU; this policy is on the CPU.
        attention="eager" if settings.attention == "eager" else "sdpa",
        trust_remote_code=trained.trust_remote_code,
        # A finished run's model has its adapter merged.
        lora=settings.lora if trained.checkpoint else replace(settings.lora, rank=0),
    )
    if settings.lora.base == "nf4" and find_spec("bitsandbytes") is None:
        raise ConfigError(
            f"'{trained.name}' was trained over weights of 4 bits, which bitsandbytes reads; install it with "
            'pip install ".[quantized]"'
        )
    weights = trained.checkpoint and policy_weights(read_checkpoint(trained.checkpoint))
    policy = Policy(
        settings,
        trained.model_path,
        temperature=temperature,
        keep_reference=keep_reference,
        adapter=trained.adapter,
    )
    if weights is not None:
        copy_weights(weights, policy, trained)
    if trained.adapter is not None:
        check_complete(policy, trained.adapter)
    return policy.eval()


def copy_weights(weights: dict[str, Tensor], policy: Policy, trained: ModelSource) -> None:
    """Copies `weights` into the policy; with LoRA they are the adapter alone."""
    own = policy.state_dict()
    trainable = {name for name, value in policy.named_parameters() if value.requires_grad}
    shared = weights.keys() & own.keys()
    for words, names in {
        "lacks {} weights": (trainable if policy.lora else own.keys()) - weights.keys(),
        "has {} unknown weights": weights.keys() - own.keys(),
        "has {} weights of another shape": {
            name for name in shared if weights[name].shape != own[name].shape
        },
    }.items():
        if names:
            raise ConfigError(
                f"'{trained.checkpoint}' does not belong to {trained.model_path}: it "
                f"{words.format(len(names))}, e.g. '{min(names)}'; model.path and model.lora in its run's "
                "config.yaml must be those of the training"
            )
    policy.load_state_dict(weights, strict=False)


def check_complete(policy: Policy, adapter: Path) -> None:
    """Raises ConfigError if the adapter's settings name matrices whose deltas its file lacks."""
    parts = (name.partition(".lora_") for name, _ in policy.causal_lm.named_parameters())
    made = {module for module, found, _ in parts if found}
    if missing := made - adapted_modules(adapter):
        raise ConfigError(
            f"'{adapter}' lacks the deltas of {len(missing)} matrices that its adapter_config.json names, "
            f"e.g. '{min(missing)}'; save the adapter again with peft's save_pretrained"
        )
