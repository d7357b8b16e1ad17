"""Devices as --devices names them, and those of this machine."""

import pytest

from ceeh.errors import ConfigError
from ceeh.memory.devices import GIB, Devices, machine_memory, parse_devices, present_devices


@pytest.mark.parametrize(
    ("text", "kind", "count", "gib"),
    [
        ("8x80GB", "cuda", 8, 80),
        ("1x24gib", "cuda", 1, 24),
        ("2x47.5GB", "cuda", 2, 47.5),
        ("cpu:24GB", "cpu", 1, 24),
    ],
)
def test_devices_are_read(text: str, kind: str, count: int, gib: float) -> None:
    assert parse_devices(text) == Devices(kind, count, int(gib * GIB))


@pytest.mark.parametrize(
    "text", ["8x", "0x80GB", "8x0GB", "8x80", "banana", "80GB", "-1x80GB", "cpu:"]
)
def test_invalid_devices_are_refused(text: str) -> None:
    message = f"with its unit, such as 8x80GB, or cpu:24GB, got '{text}'"
    with pytest.raises(ConfigError, match=message):
        parse_devices(text)


def test_processes_on_a_machine_share_its_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WORLD_SIZE", "4")
    monkeypatch.setenv("LOCAL_WORLD_SIZE", "2")
    devices = present_devices("cpu")
    assert (devices.count, devices.size) == (4, machine_memory() // 2)
    assert devices.usable < devices.size
