"""A process of its own for tests whose engine sleeps."""

import os
import subprocess
import sys

import pytest
import torch

OWN_PROCESS = "CEEH_GPU_SUITE_OWN_PROCESS"
"""Set in the environment of a test's own process."""


@pytest.fixture
def own_process(request: pytest.FixtureRequest) -> None:
    """The test runs in a process of its own: vLLM's allocator for sleep serves one engine in each."""
    if not torch.cuda.is_available() or OWN_PROCESS in os.environ:
        return
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", request.node.nodeid]
    ended = subprocess.run(
        command,
        cwd=request.config.rootpath,
        env=os.environ | {OWN_PROCESS: "1"},
        capture_output=True,
        text=True,
    )
    assert ended.returncode == 0, ended.stdout[-4000:] + ended.stderr[-2000:]
    pytest.skip("passed in a process of its own")
