"""Names of devices, and what is said of those that name none."""

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
    assert parse_devices(text) == Devices(kind=kind, count=count, size=int(gib * GIB))


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("8x", "such as 8x80GB, or cpu:24GB, got '8x'"),
        ("0x80GB", "at least one device with memory, got '0x80GB'"),
        ("8x0GB", "at least one device with memory, got '8x0GB'"),
        ("8x80", "needs a unit, write 8x80GB"),
        ("banana", "got 'banana'"),
        ("80GB", "got '80GB'"),
        ("-1x80GB", "got '-1x80GB'"),
        ("cpu:", "got 'cpu:'"),
    ],
)
def test_what_names_no_devices_is_refused(text: str, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        parse_devices(text)


def test_the_machine_is_shared_by_the_processes_on_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WORLD_SIZE", "4")
    monkeypatch.setenv("LOCAL_WORLD_SIZE", "2")
    devices = present_devices("cpu")
    assert (devices.count, devices.size) == (4, machine_memory() // 2)
    assert devices.usable < devices.size
