"""Closing the real engine by a stop, an error or `close`, and starting another."""

import logging
import os
import subprocess
import sys
import threading
from pathlib import Path

import pytest
import torch
from transformers import AutoModelForCausalLM

from ceeh.data.engine.base import Sampling
from ceeh.data.engine.vllm_engine import VLLMEngine
from ceeh.data.engine.vllm_process import import_vllm, process_kept
from ceeh.errors import ConfigError
from ceeh.runtime.shutdown import Stopped, signals_honored
from ceeh.types import Prompt
from tests.endings import interrupt

pytestmark = pytest.mark.engine

PROMPT = Prompt(uid="p", text="", answer="", token_ids=(3, 4, 5))
SAMPLING = Sampling(completions=2, temperature=1.0, max_tokens=8)


def build(folder: Path) -> VLLMEngine:
    return VLLMEngine(str(folder), 64, kv_cache_gib=0.1, options={"max_num_seqs": 8})


def test_a_stop_closes_the_engine_after_the_step_and_another_can_follow(
    tiny_model_dir, monkeypatch
):
    engine = build(tiny_model_dir)
    step, steps = engine._llm.llm_engine.step, []

    def interrupted_step():
        steps.append(None)
        if len(steps) == 3:
            interrupt()
        return step()

    monkeypatch.setattr(engine._llm.llm_engine, "step", interrupted_step)
    with signals_honored(), pytest.raises(Stopped, match="SIGINT"):
        engine.generate([PROMPT], SAMPLING)
    assert len(steps) == 3
    engine.close()
    with pytest.raises(RuntimeError, match="engine is closed"):
        engine.generate([PROMPT], SAMPLING)
    assert not torch.distributed.is_initialized()

    with build(tiny_model_dir) as second:
        weights = dict(AutoModelForCausalLM.from_pretrained(tiny_model_dir).named_parameters())
        weights.pop("model.norm.weight")
        with pytest.raises(ValueError, match=r"lacks 1 of .* 'model.norm.weight'"):
            second.load_weights(weights.items(), policy_version=1)
        with pytest.raises(RuntimeError, match="engine is closed"):
            second.canary(temperature=1.0)
        assert second.policy_version == -1
    assert build(tiny_model_dir).policy_version == -1  # and is collected
    assert not torch.distributed.is_initialized()


def test_the_trainers_process_group_and_threads_outlive_the_engine(tiny_model_dir, tmp_path):
    torch.distributed.init_process_group(
        "gloo", init_method=f"file://{tmp_path}/store", rank=0, world_size=1
    )
    try:
        num_threads, environment = torch.get_num_threads(), dict(os.environ)
        others = set(threading.enumerate())
        with build(tiny_model_dir) as engine:
            engine.generate([PROMPT], SAMPLING)
            assert torch.get_num_threads() == num_threads
            assert "LD_PRELOAD" not in os.environ
        engine.close()
        total = torch.ones(1)
        torch.distributed.all_reduce(total)
        assert total == 1
        changed = {name for name in os.environ if os.environ[name] != environment.get(name)}
        assert all(name.startswith(("VLLM_", "TORCH", "_TORCH", "DO_NOT")) for name in changed)
        left = [thread for thread in threading.enumerate() if thread not in others]
        assert [thread.name for thread in left if not thread.daemon] == []
    finally:
        torch.distributed.destroy_process_group()


def test_sleep_is_refused_without_cuda(tiny_model_dir):
    with pytest.raises(ConfigError, match=r"engine\.init_args\.sleep needs CUDA.*false"):
        VLLMEngine(str(tiny_model_dir), 64, sleep=True)


def test_an_accelerator_that_vllm_was_not_built_for_is_refused(tiny_model_dir):
    message = (
        r"hardware\.accelerator is cuda, but the installed vLLM is the build for the CPU; install"
    )
    with pytest.raises(ConfigError, match=message):
        VLLMEngine(str(tiny_model_dir), 64, accelerator="cuda")


def test_vllms_log_of_a_failure_is_readable() -> None:
    with process_kept():
        import_vllm()
    log = logging.getLogger("vllm")
    record = log.makeRecord(log.name, logging.ERROR, "core.py", 1, "the device is gone", (), None)
    log.handle(record)
    assert log.handlers
    for handler in log.handlers:
        assert "the device is gone" in handler.format(record)


def test_an_engine_left_open_says_nothing_when_the_interpreter_exits(tiny_model_dir, tmp_path):
    script = tmp_path / "leaves.py"
    script.write_text(
        "from ceeh.data.engine.vllm_engine import VLLMEngine\n"
        f"engine = VLLMEngine({str(tiny_model_dir)!r}, 64, kv_cache_gib=0.1)\n"
        "owner = [engine]\n"
        "owner.append(owner)\n"
    )
    done = subprocess.run([sys.executable, script], capture_output=True, text=True, check=True)
    assert (done.stdout, done.stderr) == ("", "")  # no note on NUMA or oneDNN either
