"""From the verifier of the configuration to a checked one, and the prompts that it can grade."""

import warnings
from collections.abc import Sequence

from ceeh.config.component import Component
from ceeh.data.verify.base import Verifier
from ceeh.data.verify.checked import CheckedVerifier
from ceeh.errors import ConfigError, user_code
from ceeh.runtime.distributed import from_rank_zero
from ceeh.runtime.text import show
from ceeh.types import Prompt


def build_verifier(component: Component) -> Verifier:
    verifier = component.build("verifier")
    if not isinstance(verifier, Verifier):
        raise ConfigError(
            f"verifier: {component.class_path} is no Verifier (ceeh.data.verify), which can be"
            " called and has answer, unreadable and close; a function of prompt and response goes"
            " through ceeh.data.verify.RewardFunction"
        )
    if type(verifier).__module__.startswith("ceeh."):
        return verifier
    return CheckedVerifier(verifier, component.class_path)


def drop_unverifiable(prompts: Sequence[Prompt], verifier: Verifier, place: str) -> list[Prompt]:
    """The prompts whose reference `verifier` can read; rank 0 decides, and warns of the others.

    Raises ConfigError, on all ranks, when none is left.
    """

    def decide() -> set[str]:
        with user_code(
            verifier, f"verifier: {type(verifier).__name__} fails while it reads references"
        ):
            dropped = verifier.unreadable(prompts)
        if not dropped:
            return set()
        first = f"'{dropped[0].uid}' the first, with the reference {show(dropped[0].answer)}"
        if len(dropped) == len(prompts):
            raise ConfigError(
                f"{place}: the verifier can read the reference of none of its {len(prompts)}"
                f" prompts, {first}; map the column that holds the final answer alone, or choose"
                " another verifier"
            )
        warnings.warn(
            f"{place}: dropped {len(dropped)} of {len(prompts)} prompts whose reference the verifier"
            f" cannot read, {first}",
            stacklevel=4,
        )
        return {prompt.uid for prompt in dropped}

    uids = from_rank_zero(decide)
    return [prompt for prompt in prompts if prompt.uid not in uids]
