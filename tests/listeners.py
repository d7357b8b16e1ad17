"""Addresses at which this process listens, as the kernel lists them."""

import os
import socket
import struct
from ipaddress import IPv4Address, IPv6Address, ip_address
from pathlib import Path


def listeners() -> set[tuple[IPv4Address | IPv6Address, int]]:
    """(address, port) of every listening TCP socket of this process."""
    own = set()
    for descriptor in os.listdir("/proc/self/fd"):
        try:
            own.add(os.readlink(f"/proc/self/fd/{descriptor}"))
        except FileNotFoundError:  # the descriptor of this listing
            continue
    found = set()
    for table in ("tcp", "tcp6"):
        for line in Path(f"/proc/self/net/{table}").read_text().splitlines()[1:]:
            columns = line.split()
            if columns[3] == "0A" and f"socket:[{columns[9]}]" in own:  # 0A is LISTEN
                address, port = columns[1].split(":")
                found.add((_address(bytes.fromhex(address)), int(port, 16)))
    return found


def _address(words: bytes) -> IPv4Address | IPv6Address:
    """The kernel prints every four bytes as a number in the machine's byte order."""
    packed = b"".join(
        struct.pack("!I", *struct.unpack("=I", words[at : at + 4]))
        for at in range(0, len(words), 4)
    )
    return ip_address(
        socket.inet_ntop(socket.AF_INET if len(packed) == 4 else socket.AF_INET6, packed)
    )
