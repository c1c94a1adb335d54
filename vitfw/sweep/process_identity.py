"""Which process of which machine, so that another can tell whether it still runs."""

import os
import socket
from pathlib import Path

HERE, GONE, ELSEWHERE = "here", "gone", "elsewhere"


def identity(pid: int | None = None) -> str:
    """`machine pid start`; the start tells a process from a later one of the same number."""
    pid = os.getpid() if pid is None else pid
    return f"{machine()} {pid} {start_of(pid)}"


def fate(who: str) -> str:
    """Whether a process runs here, is gone from here, or cannot be seen from here."""
    place, pid, start = who.split(" ")
    if place != machine():
        return ELSEWHERE
    return HERE if start_of(int(pid)) == start and start else GONE


def machine() -> str:
    """Host, boot and process namespace: two containers may share the first."""
    try:
        boot = Path("/proc/sys/kernel/random/boot_id").read_text()[:8]
        namespace = str(Path("/proc/self/ns/pid").readlink()).strip("pid:[]")
    except OSError:
        boot = namespace = ""
    return f"{socket.gethostname()}/{boot}/{namespace}"


def start_of(pid: int) -> str:
    """When a process began, in ticks of the machine; empty where it has ended."""
    try:
        text = Path(f"/proc/{pid}/stat").read_text()
    except FileNotFoundError:
        if Path("/proc/self/stat").exists():
            return ""
        return "unknown" if exists(pid) else ""  # macOS
    except ProcessLookupError:
        return ""
    state, *rest = text.rpartition(")")[2].split()
    return "" if state in "ZX" else rest[18]


def exists(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    return True
