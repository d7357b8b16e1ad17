"""vLLM inside the trainer's process: importing it, and undoing its side effects on the process.

Only this file and `ceeh.data.engine.vllm_engine` import vllm.
"""

import gc
import logging
import os
import sys
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from socket import if_nameindex
from types import ModuleType
from typing import Any

import torch
from packaging.version import Version
from torch import nn

from ceeh.errors import ConfigError

OLDEST, NEWEST = Version("0.26"), Version("0.34")
INSTALL = 'install it with: pip install ".[cpu]" (no GPU) or pip install ".[cuda]" -c requirements/cuda.txt'
ENVIRONMENT = {
    "VLLM_NO_USAGE_STATS": "1",
    "DO_NOT_TRACK": "1",
    "VLLM_LOGGING_LEVEL": "ERROR",
    "VLLM_HOST_IP": "127.0.0.1",
    "VLLM_CPU_OMP_THREADS_BIND": "nobind",
    "VLLM_USE_FLASHINFER_SAMPLER": "0",
}
"""Defaults. Binding threads would pin the trainer's to the engine's cores. FlashInfer's sampler is for top-k
and top-p, which training refuses, and compiles its kernels at the start."""
LOOPBACK = "lo"
OWN_VARIABLES = ("VLLM_", "TORCHINDUCTOR_", "_TORCHINDUCTOR_", "TRITON_", "DO_NOT_TRACK")
"""Variables that stay as vLLM set them: it reads them while it runs."""


def import_vllm() -> ModuleType:
    """vLLM, configured to run in this process. Raises ConfigError if it is missing, broken or too old."""
    for name, value in ENVIRONMENT.items():
        os.environ.setdefault(name, value)
    os.environ["VLLM_ENABLE_V1_MULTIPROCESSING"] = "0"
    alone = os.environ.get("WORLD_SIZE", "1") == "1"
    if alone and any(name == LOOPBACK for _, name in if_nameindex()):
        # Its process groups of one listen, by default at the address of the machine's name: on the network.
        # `process_kept` resets this for the trainer's groups.
        os.environ.setdefault("GLOO_SOCKET_IFNAME", LOOPBACK)
    try:
        import vllm
    except ImportError as error:
        state = "is not installed" if error.name == "vllm" else "is installed but does not import"
        raise ConfigError(f"vLLM {state} ({error}); {INSTALL}") from error
    for handler in logging.getLogger("vllm").handlers:
        handler.addFilter(_named)
    version = Version(vllm.__version__)
    if version < OLDEST:
        raise ConfigError(f"vLLM must be {OLDEST} or newer, found {version}; {INSTALL}")
    if version >= NEWEST:
        warnings.warn(
            f"vLLM {version} is newer than the tested versions (below {NEWEST})",
            stacklevel=2,
        )
    return vllm


def _named(record: logging.LogRecord) -> bool:
    """Adds the field of vLLM's log format that only its own record factory, undone here, would add."""
    vars(record).setdefault("vllm_process_name", record.processName)
    return True


@contextmanager
def process_kept() -> Iterator[None]:
    """Undoes what vLLM changes in the process while it is imported, built or closed.

    That is: environment variables except its own (LD_PRELOAD would reach the verifier's workers),
    `torch.set_num_threads` (a no-op on the CPU), the default dtype, the precision of fp32 matrix products
    (its GPU worker forbids TF32), the exception hook, logging, warning filters. vLLM's deprecation warnings
    are hidden.
    """
    environment = dict(os.environ)
    set_num_threads, num_threads = torch.set_num_threads, torch.get_num_threads()
    dtype, excepthook = torch.get_default_dtype(), sys.excepthook
    matmul_precision = torch.get_float32_matmul_precision()
    record_factory, disabled = logging.getLogRecordFactory(), logging.root.manager.disable
    level, handlers = logging.root.level, list(logging.root.handlers)
    if environment.get("VLLM_LOGGING_LEVEL", "ERROR") == "ERROR":
        logging.disable(logging.WARNING)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", DeprecationWarning)
            warnings.simplefilter("ignore", FutureWarning)
            yield
    finally:
        for name in set(os.environ) | set(environment):
            if not name.startswith(OWN_VARIABLES):
                if name in environment:
                    os.environ[name] = environment[name]
                else:
                    del os.environ[name]
        torch.set_num_threads = set_num_threads
        if torch.get_num_threads() != num_threads:
            torch.set_num_threads(num_threads)
        torch.set_default_dtype(dtype)
        torch.set_float32_matmul_precision(matmul_precision)
        sys.excepthook = excepthook
        logging.setLogRecordFactory(record_factory)
        logging.disable(disabled)
        logging.root.setLevel(level)
        logging.root.handlers[:] = handlers


ClassStates = dict[type, tuple[dict[str, Any], tuple[type, ...]]]


def class_states(model: nn.Module) -> ClassStates:
    """Attributes and bases of each class that `model` consists of, for the two functions below."""
    return {cls: (dict(vars(cls)), cls.__bases__) for cls in map(type, model.modules())}


def changes_of(cls: type, states: ClassStates) -> dict[str, Any]:
    before = states[cls][0]
    return {
        name: value
        for name, value in vars(cls).items()
        if name not in before or before[name] is not value
    }


def keep_changed_classes(states: ClassStates, model: nn.Module) -> None:
    """Gives modules of vLLM's `model` a subclass that holds what vLLM changed in their class.

    For a family without code in vLLM it runs that of transformers, and for its compiler replaces `__init__`,
    `__call__` and bases of the class, which is also the class of the trainer's model.
    """
    subclasses: dict[type, type] = {}
    for module in model.modules():
        cls = type(module)
        if cls in states and cls.__bases__ != states[cls][1]:
            if cls not in subclasses:
                added = (base for base in cls.__bases__ if base not in states[cls][1])
                own = {"__module__": cls.__module__, **changes_of(cls, states)}
                subclasses[cls] = type(cls.__name__, (cls, *added), own)
            module.__class__ = subclasses[cls]


def restore_classes(states: ClassStates) -> None:
    """Makes the classes what they were when `states` was taken."""
    for cls, (attributes, bases) in states.items():
        for name in changes_of(cls, states):
            if name in attributes:
                setattr(cls, name, attributes[name])
            else:
                delattr(cls, name)
        if cls.__bases__ != bases:
            cls.__bases__ = bases


@contextmanager
def shared_memory_named(name: str) -> Iterator[None]:
    """Inside, vLLM's CPU build names the shared memory of a tensor-parallel group after `name`.

    By itself it takes one name for all runs of a machine: what a killed run has left would stop the next. At
    the end of the block every rank has opened the memory, and the name is removed.
    """
    from vllm.distributed.device_communicators.cpu_communicator import _CPUSHMDistributed

    given = _CPUSHMDistributed.make_group_name
    _CPUSHMDistributed.make_group_name = staticmethod(  # type: ignore[method-assign]
        lambda communicator: f"ceeh-{name}-{communicator.unique_name}"
    )
    try:
        yield
    finally:
        _CPUSHMDistributed.make_group_name = given  # type: ignore[method-assign]
        for file in Path("/dev/shm").glob(f"ceeh-{name}-*"):
            file.unlink(missing_ok=True)


def release_process_groups(*, keep_default: bool) -> None:
    """Destroys vLLM's process groups, and the default one, which it made, unless `keep_default`."""
    from vllm.distributed import cleanup_dist_env_and_memory

    with default_group_kept(keep_default), collected_once():
        cleanup_dist_env_and_memory()


@contextmanager
def collected_once() -> Iterator[None]:
    """Collects garbage once, at the end of the block, where vLLM would do it three times.

    With torch, transformers and vLLM loaded a collection takes most of a second. On CUDA vLLM's own
    collections stay: its sleep mode needs its tensors freed before it unmaps their memory.
    """
    collect = gc.collect
    on_cuda = torch.cuda.is_available()
    if not on_cuda:
        gc.collect = lambda generation=2: 0
    try:
        yield
    finally:
        gc.collect = collect
        gc.collect()
        if on_cuda:
            torch.cuda.empty_cache()


@contextmanager
def default_group_kept(keep: bool) -> Iterator[None]:
    """Inside, vLLM's cleanup does not destroy the default process group if `keep`: it is the trainer's."""
    destroy = torch.distributed.destroy_process_group

    def destroy_others(group=None) -> None:
        if group is not None or not keep:
            destroy(group)

    torch.distributed.destroy_process_group = destroy_others
    try:
        yield
    finally:
        torch.distributed.destroy_process_group = destroy
