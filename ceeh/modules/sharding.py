"""Sharding a policy with FSDP2: each process holds its rows of every weight.

https://docs.pytorch.org/docs/stable/distributed.fsdp.fully_shard.html
"""

from torch.distributed.device_mesh import DeviceMesh
from torch.distributed.fsdp import FSDPModule, fully_shard, register_fsdp_forward_method
from transformers.modeling_layers import GradientCheckpointingLayer

from ceeh.errors import ConfigError
from ceeh.modules.policy import Policy


def shard(policy: Policy, mesh: DeviceMesh) -> None:
    """Splits each weight by rows over `mesh`, that of a kept reference too.

    A decoder layer's weights are gathered while it computes, those outside of layers during the whole pass.
    Raises ConfigError for a model whose layers are unknown: gathered as a whole it would save nothing.
    """
    for each in (policy, *policy.reference):
        layers = [
            layer for layer in each.modules() if isinstance(layer, GradientCheckpointingLayer)
        ]
        if not layers:
            raise ConfigError(
                f"hardware.strategy=fsdp splits a model by its decoder layers, and "
                f"{type(each.causal_lm).__name__} has none that transformers marks as such "
                "(GradientCheckpointingLayer); set hardware.strategy=ddp"
            )
        for layer in reversed(layers):  # inner ones first
            fully_shard(layer, mesh=mesh)
        fully_shard(each, mesh=mesh, reshard_after_forward=True)
    register_fsdp_forward_method(policy, "loss")
    if policy.lora:  # a kept copy is a sharded module of its own, with its own `forward`
        register_fsdp_forward_method(policy, "reference_logprobs")


def sharded(policy: Policy) -> bool:
    """Whether every forward pass of `policy` is collective."""
    return isinstance(policy, FSDPModule)


def gather_weights(policy: Policy) -> None:
    """Takes part in the gather of sharded weights that another process writes or pushes."""
    if sharded(policy):
        for _ in policy.engine_weights():
            pass
