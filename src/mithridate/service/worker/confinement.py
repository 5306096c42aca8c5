"""Confines the process of a job: no network, and no folder but those it needs. Linux alone can; see Landlock.

The pipeline runs no code of a customer. Should a library ever be talked into doing so by a file, it can reach neither
another customer's folder nor the service's database, and send nothing out.
"""

import ctypes
import errno
import os
import struct
import sys
from collections.abc import Iterable
from pathlib import Path

from mithridate.errors import ServiceError

# Numbers of linux/landlock.h; the three calls have the same numbers on every architecture.
_CREATE, _ADD, _RESTRICT = 444, 445, 446
_VERSION, _PATH_BENEATH = 1, 1
_NO_NEW_PRIVILEGES = 38  # of prctl
_NEW_NETWORK, _NEW_USER = 0x40000000, 0x10000000  # of unshare

_EXECUTE, _WRITE, _READ, _READ_FOLDER = 1 << 0, 1 << 1, 1 << 2, 1 << 3
_LOOK = _EXECUTE | _READ | _READ_FOLDER
_BY_VERSION = {1: (1 << 13) - 1, 2: (1 << 14) - 1, 3: (1 << 15) - 1, 4: (1 << 15) - 1, 5: (1 << 16) - 1}
"""All rights on files by the version of the kernel's interface; later versions add rights of other kinds."""
_OF_FILES = _EXECUTE | _WRITE | _READ | 1 << 14 | 1 << 15  # with truncate and ioctl

SYSTEM = ("/usr", "/lib", "/lib64", "/bin", "/etc", "/opt", "/sys", "/nix", "/run/systemd/resolve")
"""Folders that any program reads."""
# Of /proc only what tells of this process and of the machine: the environment of a neighbor may hold keys.
PROCESS = (
    "/proc/self",
    "/proc/cpuinfo",
    "/proc/meminfo",
    "/proc/stat",
    "/proc/sys",
    "/proc/filesystems",
    "/proc/driver",
)
DEVICES = "/dev"


def available() -> bool:
    """Return whether the kernel can confine a process."""
    return sys.platform == "linux" and _version() >= 1


def code_places() -> list[str]:
    """Return the folders from which this process takes its code."""
    return [sys.prefix, sys.base_prefix, *(entry for entry in sys.path if entry)]


def exposed(private: Iterable[Path], readable: Iterable[str]) -> list[str]:
    """Return the readable folders, those of the system included, that hold something that no job may read."""
    hidden, places = list(private), [Path(path) for path in (*SYSTEM, *readable)]
    return sorted({str(place) for place in places for one in hidden if one.is_relative_to(place.resolve())})


def confine(own: Path, readable: Iterable[Path], *, network: bool) -> None:
    """Confine this process and all it starts, for good.

    Args:
        own: Folder in which it may do anything.
        readable: Further folders that it may read.
        network: Whether it may use the network.

    Raises:
        ServiceError: If the kernel cannot do it.
    """
    if not network:
        _leave_network()
    version = _version()
    if version < 1:
        raise ServiceError("this kernel cannot confine jobs (no Landlock); set process.sandbox: off to go without")
    every = _BY_VERSION[min(version, max(_BY_VERSION))]
    rules = _call(_CREATE, ctypes.create_string_buffer(struct.pack("=Q", every)), 8, 0)
    for path in (own, Path(DEVICES)):
        _allow(rules, path, every)
    for path in (*map(Path, SYSTEM + PROCESS), *readable):
        _allow(rules, path, every & _LOOK)
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.prctl(_NO_NEW_PRIVILEGES, 1, 0, 0, 0) != 0:
        raise ServiceError("the kernel does not let this process give up privileges; jobs cannot be confined")
    _call(_RESTRICT, rules, 0)
    os.close(rules)


def _leave_network() -> None:
    """Move into a network of its own, in which there is no other machine, not even this one."""
    libc = ctypes.CDLL(None, use_errno=True)
    # An administrator needs no user namespace; for anyone else it is what makes the other one possible.
    if libc.unshare(_NEW_NETWORK) == 0 or libc.unshare(_NEW_USER | _NEW_NETWORK) == 0:
        return
    raise ServiceError("this kernel gives a job no network of its own; set process.sandbox: off to go without")


def _allow(rules: int, path: Path, rights: int) -> None:
    try:
        # O_PATH: found, but neither read nor waited for.
        place = os.open(path, os.O_PATH | os.O_CLOEXEC)
    except FileNotFoundError:
        return
    try:
        if not path.is_dir():
            rights &= _OF_FILES
        _call(_ADD, rules, _PATH_BENEATH, ctypes.create_string_buffer(struct.pack("=Qi", rights, place)), 0)
    finally:
        os.close(place)


def _version() -> int:
    libc = ctypes.CDLL(None, use_errno=True)
    return int(libc.syscall(_CREATE, None, 0, _VERSION))


def _call(number: int, *arguments: object) -> int:
    libc = ctypes.CDLL(None, use_errno=True)
    found = int(libc.syscall(number, *arguments))
    if found < 0:
        code = ctypes.get_errno()
        raise ServiceError(f"jobs cannot be confined: {os.strerror(code)} ({errno.errorcode.get(code, code)})")
    return found
