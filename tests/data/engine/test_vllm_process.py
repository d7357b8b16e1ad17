"""vLLM in this process: its version, and that nothing of the process is left changed."""

import contextlib
import gc
import logging
import os
import sys
import warnings
from types import ModuleType

import pytest
import torch

from ceeh.data.engine.vllm_process import (
    class_states,
    collected_once,
    default_group_kept,
    import_vllm,
    keep_changed_classes,
    process_kept,
    restore_classes,
)
from ceeh.errors import ConfigError


@pytest.fixture
def installed(monkeypatch: pytest.MonkeyPatch):
    """Pretends that vLLM of some version is installed, or (None) that it is not."""
    monkeypatch.setattr(os, "environ", dict(os.environ))

    def install(version: str | None) -> None:
        fake = None
        if version is not None:
            fake = ModuleType("vllm")
            fake.__version__ = version
        monkeypatch.setitem(sys.modules, "vllm", fake)

    return install


def test_a_missing_vllm_is_reported_with_the_install_line(installed):
    installed(None)
    with pytest.raises(ConfigError, match=r'not installed.*pip install "\.\[cpu\]".*"\.\[cuda\]"'):
        import_vllm()


def test_a_vllm_that_does_not_import_is_distinguished_from_a_missing_one(
    installed, monkeypatch, tmp_path
):
    (tmp_path / "vllm").mkdir()
    (tmp_path / "vllm" / "__init__.py").write_text("import a_library_that_is_not_there")
    monkeypatch.delitem(sys.modules, "vllm", raising=False)
    monkeypatch.syspath_prepend(tmp_path)
    with pytest.raises(ConfigError, match=r"installed but does not import.*a_library_that"):
        import_vllm()


@pytest.mark.parametrize("version", ["0.25.9", "0.11.0+cpu"])
def test_a_vllm_before_0_26_is_refused(installed, version):
    installed(version)
    with pytest.raises(ConfigError, match=r"must be 0\.26 or newer, found 0\.\d+.*pip install"):
        import_vllm()


def test_tested_versions_pass_silently_and_a_newer_one_with_a_warning(installed):
    for version in ("0.26.0", "0.32.0+cpu", "0.33.4"):
        installed(version)
        assert import_vllm().__version__ == version
    installed("0.34.0")
    with pytest.warns(UserWarning, match="newer than the tested versions"):
        import_vllm()


def test_vllm_stays_in_process_and_reports_nothing(installed, monkeypatch):
    installed("0.32.0")
    for name in ("VLLM_ENABLE_V1_MULTIPROCESSING", "VLLM_NO_USAGE_STATS", "DO_NOT_TRACK"):
        monkeypatch.delitem(os.environ, name, raising=False)
    monkeypatch.setitem(os.environ, "VLLM_LOGGING_LEVEL", "INFO")
    import_vllm()
    assert os.environ["VLLM_ENABLE_V1_MULTIPROCESSING"] == "0"
    assert os.environ["VLLM_NO_USAGE_STATS"] == os.environ["DO_NOT_TRACK"] == "1"
    assert os.environ["VLLM_LOGGING_LEVEL"] == "INFO"


def test_changes_to_the_process_are_undone(monkeypatch):
    monkeypatch.setenv("CEEH_GONE", "before")
    monkeypatch.setenv("CEEH_CHANGED", "before")
    monkeypatch.setenv("VLLM_LOGGING_LEVEL", "ERROR")
    set_num_threads, excepthook = torch.set_num_threads, sys.excepthook
    factory, filters = logging.getLogRecordFactory(), list(warnings.filters)
    handlers, level = list(logging.root.handlers), logging.root.level
    with contextlib.suppress(KeyError), process_kept():
        del os.environ["CEEH_GONE"]
        os.environ.update(CEEH_CHANGED="after", LD_PRELOAD="lib.so", VLLM_CEEH="stays")
        torch.set_num_threads = lambda count: None
        torch.set_default_dtype(torch.bfloat16)
        torch.set_float32_matmul_precision("high")
        sys.excepthook = print
        logging.setLogRecordFactory(lambda *args, **kwargs: None)
        logging.root.addHandler(logging.NullHandler())
        logging.root.setLevel(5)
        warnings.simplefilter("ignore")
        raise KeyError
    assert os.environ["CEEH_GONE"] == os.environ["CEEH_CHANGED"] == "before"
    assert "LD_PRELOAD" not in os.environ
    assert os.environ.pop("VLLM_CEEH") == "stays"
    assert torch.set_num_threads is set_num_threads
    assert torch.get_default_dtype() is torch.float32
    assert torch.get_float32_matmul_precision() == "highest"
    assert sys.excepthook is excepthook
    assert logging.getLogRecordFactory() is factory
    assert (logging.root.handlers, logging.root.level) == (handlers, level)
    assert logging.root.manager.disable == logging.NOTSET
    assert list(warnings.filters) == filters


def test_a_class_that_vllm_changes_is_restored_and_the_engines_model_keeps_the_changes():
    class Model(torch.nn.Linear):
        def __init__(self) -> None:
            super().__init__(2, 3)

    class Compiled:
        compiled = True

    def replaced(self, *_: object) -> str:
        return "by vLLM"

    trainers = torch.nn.Sequential(Model(), torch.nn.ReLU())
    original = Model.__init__
    states = class_states(trainers)
    Model.__bases__ += (Compiled,)
    Model.__init__ = replaced  # type: ignore[assignment]
    Model.__call__ = replaced  # type: ignore[method-assign]
    engines = torch.nn.Sequential(torch.nn.ReLU(), torch.nn.ReLU())
    engines[0] = Model.__new__(Model)
    torch.nn.Linear.__init__(engines[0], 2, 3)
    keep_changed_classes(states, engines)
    restore_classes(states)

    assert trainers(torch.ones(1, 2)).shape == (1, 3)
    assert (Model.__bases__, Model.__init__) == ((torch.nn.Linear,), original)
    assert "__call__" not in vars(Model)
    assert Model().weight.shape == (3, 2)
    assert engines[0]() == "by vLLM"
    assert engines[0].compiled
    assert isinstance(engines[0], Model)
    assert type(engines[1]) is torch.nn.ReLU


@pytest.mark.parametrize("keep", [True, False])
def test_the_trainers_process_group_outlives_the_engines_clean_up(keep, tmp_path):
    torch.distributed.init_process_group(
        "gloo", init_method=f"file://{tmp_path}/store", rank=0, world_size=1
    )
    try:
        other = torch.distributed.new_group([0])
        with default_group_kept(keep):
            torch.distributed.destroy_process_group(other)
            torch.distributed.destroy_process_group()
        assert torch.distributed.is_initialized() == keep
    finally:
        if torch.distributed.is_initialized():
            torch.distributed.destroy_process_group()


@pytest.mark.parametrize("cuda", [True, False])
def test_vllm_collects_garbage_itself_on_cuda_alone(cuda, monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: cuda)
    monkeypatch.setattr(torch.cuda, "empty_cache", lambda: None)
    collect = gc.collect
    with collected_once():
        assert (gc.collect is collect) == cuda
    assert gc.collect is collect
