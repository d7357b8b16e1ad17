"""No process listens on the network; tests/test_fit_engine.py checks this with a real engine."""

import os
import socket
import sys
from ipaddress import ip_address
from types import ModuleType

import pytest
import torch.distributed as dist

from ceeh.data.engine.vllm_process import LOOPBACK, import_vllm, process_kept
from tests.listeners import listeners


@pytest.mark.parametrize(
    ("family", "address"),
    [(socket.AF_INET, "127.0.0.1"), (socket.AF_INET, "0.0.0.0"), (socket.AF_INET6, "::")],
)
def test_the_search_finds_a_listening_socket(family: socket.AddressFamily, address: str) -> None:
    with socket.socket(family) as listening:
        listening.bind((address, 0))
        assert (ip_address(address), listening.getsockname()[1]) not in listeners()
        listening.listen()
        assert (ip_address(address), listening.getsockname()[1]) in listeners()
    assert listeners() == set()


@pytest.fixture
def pretended(monkeypatch: pytest.MonkeyPatch) -> None:
    fake = ModuleType("vllm")
    fake.__version__ = "0.32.0"  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "vllm", fake)
    for name in ("GLOO_SOCKET_IFNAME", "WORLD_SIZE"):
        monkeypatch.setenv(name, "x")
        monkeypatch.delenv(name)


@pytest.mark.usefixtures("pretended")
def test_the_process_groups_of_a_single_engine_listen_only_on_loopback() -> None:
    with process_kept():
        import_vllm()
        assert os.environ["GLOO_SOCKET_IFNAME"] == LOOPBACK
        dist.init_process_group("gloo", store=dist.HashStore(), rank=0, world_size=1)
        try:
            found = listeners()
        finally:
            dist.destroy_process_group()
    assert found, "gloo no longer listens: remove this file and the setting"
    assert all(address.is_loopback for address, _ in found)
    assert "GLOO_SOCKET_IFNAME" not in os.environ


@pytest.mark.usefixtures("pretended")
def test_engines_of_several_processes_keep_the_network_that_the_trainer_uses(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("WORLD_SIZE", "2")
    with process_kept():
        import_vllm()
        assert "GLOO_SOCKET_IFNAME" not in os.environ
