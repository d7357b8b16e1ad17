"""The classes and arguments of the user's that a configuration names: built, and checked for their kind."""

import io
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, TypeVar

import torch
from lightning import Callback, Trainer
from lightning.fabric.utilities.exceptions import MisconfigurationException

from ceeh.callbacks.signal import SignalCallback, check_signals
from ceeh.config.component import Component
from ceeh.config.objective import READ_HARD
from ceeh.config.settings import Config
from ceeh.config.trainer import check_trainer_arguments
from ceeh.errors import ConfigError, first_line, user_code
from ceeh.modules.shaping.checked import build_shaping
from ceeh.runtime.text import show
from ceeh.types import Question

T = TypeVar("T")


MAKING_STATE = ("setup", "on_fit_start", "on_train_start")
"""Hooks that Lightning calls before the first checkpoint."""


def build_source(component: Component, place: str) -> Iterable[Question]:
    source = component.build(place)
    if not isinstance(source, Iterable):
        raise ConfigError(
            f"{place}: {component.class_path} is not a source of questions (ceeh.data.sources): its "
            "__iter__ must yield ceeh.types.Question"
        )
    return source


def build_callbacks(config: Config) -> list[Callback]:
    """The callbacks of the configuration.

    Raises ConfigError unless each needed signal has one writer and checkpoints can keep every state.
    """
    callbacks = built_as(config.callbacks, "callbacks", Callback)
    check_states(config, callbacks)
    objective, needed = config.objective, {}
    observed = any(isinstance(each, SignalCallback) and each.observes_hard for each in callbacks)
    if objective.entropy.method in READ_HARD or observed:
        needed["objective.hard_signal"] = objective.hard_signal
    if objective.entropy.coefficient_signal is not None:
        needed["objective.entropy.coefficient_signal"] = objective.entropy.coefficient_signal
    for signal in build_shaping(config).reads:
        needed[f"objective.shaping ({signal})"] = signal
    check_signals(callbacks, needed)
    return callbacks


def check_states(config: Config, callbacks: Sequence[Callback]) -> None:
    """Raises ConfigError for a state that checkpoints cannot keep, and for two states of one key.

    Lightning refuses the latter only when the engine has started.
    """
    keys: dict[str, str] = {}
    for (name, component), callback in zip(config.callbacks.items(), callbacks, strict=True):
        place = f"callbacks.{name} ({component.class_path})"
        check_state(callback, place)
        if type(callback).state_dict is Callback.state_dict:
            continue
        if other := keys.get(callback.state_key):
            raise ConfigError(
                f"{place} has the state_key of {other}, '{callback.state_key}', and a checkpoint keeps one "
                "state of each; give the class a property state_key that names its arguments"
            )
        keys[callback.state_key] = place


def check_state(callback: Callback, place: str) -> None:
    """Raises ConfigError where the state, as it is before training, does not survive a checkpoint.

    A hook may make the state: a callback that has one of them and fails is not refused.
    """
    file, kind = io.BytesIO(), type(callback)
    own = SignalCallback if isinstance(callback, SignalCallback) else Callback
    with user_code(kind, f"{place} fails in state_dict, which every checkpoint calls"):
        try:
            state = callback.state_dict()
        except Exception:
            if any(getattr(kind, hook) is not getattr(own, hook) for hook in MAKING_STATE):
                return
            raise
    try:
        torch.save(state, file)
        file.seek(0)
        torch.load(file, map_location="cpu", weights_only=True)
    except Exception as error:  # pickle calls the methods of what is in it
        raise ConfigError(
            f"{place}: a checkpoint cannot keep its state, {show(state)} ({type(error).__name__}); what "
            "state_dict returns may hold numbers, text, true, false, null, lists, tuples, dicts and tensors"
        ) from error


def check_trainer(arguments: Mapping[str, Any]) -> None:
    """Raises ConfigError for arguments that the run sets itself, or that Lightning refuses."""
    check_trainer_arguments(arguments)
    if arguments:
        try:  # Lightning checks them when it builds a Trainer; the run's own comes after the engine
            Trainer(
                accelerator="cpu", devices=1, logger=False, enable_checkpointing=False, **arguments
            )
        except (MisconfigurationException, ValueError, TypeError) as error:
            raise ConfigError(f"trainer: {first_line(error)}, got {dict(arguments)}") from error


def built_as(components: Mapping[str, Component], place: str, kind: type[T]) -> list[T]:
    """Instances of the named classes. Raises ConfigError for one that is not a `kind`."""
    built = []
    for name, component in components.items():
        instance = component.build(f"{place}.{name}")
        if not isinstance(instance, kind):
            raise ConfigError(
                f"{place}.{name}: {component.class_path} is not a {kind.__name__} of Lightning, as "
                f"every entry of {place} must be"
            )
        built.append(instance)
    return built
