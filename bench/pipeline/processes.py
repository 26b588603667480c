"""Finds the processes of one Launchway, reads their memory and their ports from /proc, and ends them by their id."""

import os
import pathlib
import signal
import time

ROLES = ("server", "edge", "shim")


def read(pid, name):
    try:
        return pathlib.Path("/proc", str(pid), name).read_bytes()
    except OSError:
        return b""


def arguments(pid):
    return [part.decode(errors="replace") for part in read(pid, "cmdline").split(b"\0") if part]


def role(pid, binary):
    """server, edge or shim, by the verb: the first argument that is one of them."""
    words = arguments(pid)
    if not words or os.path.basename(words[0]) not in (os.path.basename(binary), "launchway-shim"):
        return None
    if os.path.basename(words[0]) == "launchway-shim":
        return "shim"
    return next((word for word in words[1:] if word in ROLES), None)


def parents():
    """Each process and its parent."""
    found = {}
    for entry in pathlib.Path("/proc").iterdir():
        if entry.name.isdigit():
            stat = read(entry.name, "stat").rpartition(b")")[2].split()
            if len(stat) > 1:
                found[int(entry.name)] = int(stat[1])
    return found


def belonging(server, state):
    """The server, what it started, and whatever speaks of its state folder: edge and shims do not stay children."""
    tree = parents()
    marked = str(state).encode()
    ours = {server} & tree.keys()
    ours |= {pid for pid in tree if marked in read(pid, "cmdline") or marked in read(pid, "environ")}
    while more := {pid for pid, parent in tree.items() if parent in ours} - ours:
        ours |= more
    return ours - {os.getpid(), os.getppid()}


def by_role(server, state, binary):
    found = {name: [] for name in ROLES}
    for pid in sorted(belonging(server, state)):
        if (name := role(pid, binary)) is not None:
            found[name].append(pid)
    return found


def mib(pid):
    """Resident memory, and the share of it that is this process's own (Pss), in MiB."""

    def field(name, key):
        for line in read(pid, name).decode(errors="replace").splitlines():
            if line.startswith(key):
                return int(line.split()[1]) / 1024
        return None

    return field("status", "VmRSS:"), field("smaps_rollup", "Pss:")


def listening(pid):
    """TCP ports on which the process listens."""
    sockets = set()
    try:
        for entry in os.listdir(f"/proc/{pid}/fd"):
            try:
                link = os.readlink(f"/proc/{pid}/fd/{entry}")
            except OSError:
                continue
            if link.startswith("socket:["):
                sockets.add(link[8:-1])
    except OSError:
        return []
    ports = set()
    for name in ("net/tcp", "net/tcp6"):
        for line in read(pid, name).decode().splitlines()[1:]:
            fields = line.split()
            if fields[3] == "0A" and fields[9] in sockets:
                ports.add(int(fields[1].rpartition(":")[2], 16))
    return sorted(ports)


def end(pids):
    """SIGTERM, ten seconds, SIGKILL: only to these processes."""

    def send(number):
        for pid in alive():
            try:
                os.kill(pid, number)
            except ProcessLookupError:
                pass

    def alive():
        return [pid for pid in pids if read(pid, "stat").rpartition(b")")[2].split()[:1] not in ([], [b"Z"])]

    send(signal.SIGTERM)
    deadline = time.monotonic() + 10
    while alive() and time.monotonic() < deadline:
        time.sleep(0.1)
    send(signal.SIGKILL)
