"""A slow network on one machine: two network namespaces whose packets pass through a process that delays them.

Each namespace has a TAP device; the forwarder holds both ends. The namespaces have no names: they, the devices and the
routes are gone with the processes in them, however these end. Linux, root.
"""

import contextlib
import ctypes
import fcntl
import multiprocessing
import os
import select
import signal
import socket
import struct
import tempfile
import threading
import time
from collections import deque
from collections.abc import Iterator
from pathlib import Path

from ladder.errors import UserError
from ladder.parallel.communicators import precise_sleep
from ladder.parallel.group import Group

TUN = "/dev/net/tun"
DEVICE = "ladder0"
MTU = 9000
# From linux/sched.h, linux/if_tun.h, linux/sockios.h, linux/if.h
CLONE_NEWNET = 0x40000000
TUNSETIFF, IFF_TAP, IFF_NO_PI = 0x400454CA, 0x0002, 0x1000
SIOCGIFFLAGS, SIOCSIFFLAGS, SIOCSIFADDR, SIOCSIFNETMASK, SIOCSIFMTU = 0x8913, 0x8914, 0x8916, 0x891C, 0x8922
IFF_UP = 1


def check_possible() -> None:
    """Raise UserError where namespaces or TAP devices cannot be made."""
    # Tried, not looked up: a container's root may lack the right to do it.
    trial = multiprocessing.get_context("fork").Process(target=_try)
    trial.start()
    trial.join()
    if trial.exitcode:
        raise UserError(
            "`ladder bench network` makes network namespaces and TAP devices, which is not allowed here: run it as "
            f"root (in a container: with CAP_SYS_ADMIN and CAP_NET_ADMIN) where {TUN} is"
        )


def _try() -> None:
    try:
        os.close(_namespace(0))
    except (OSError, UserError):
        os._exit(1)


@contextlib.contextmanager
def slow_path(delay: float, group: Group) -> Iterator[None]:
    """While it lasts, the two ranks of ``group``, which are yet to connect, are at the ends of a path that takes
    ``delay`` seconds one way."""
    with contextlib.ExitStack() as stack:
        folder = group.meet(stack.enter_context(tempfile.TemporaryDirectory()) if group.first else "")
        if group.first:
            stack.enter_context(forwarder(f"{folder}/ends", delay))
        group.meet()
        near = stack.enter_context(socket.socket(socket.AF_UNIX))  # a path, which all namespaces of networks share
        near.settimeout(30)
        near.connect(f"{folder}/ends")
        socket.send_fds(near, [b"tap"], [tap := _namespace(group.world_rank)])
        os.close(tap)
        near.recv(1)  # until the forwarder has both ends
        os.environ["GLOO_SOCKET_IFNAME"] = DEVICE
        yield


@contextlib.contextmanager
def forwarder(address: str, delay: float) -> Iterator[None]:
    with socket.socket(socket.AF_UNIX) as ends:
        ends.bind(address)
        ends.listen()
        process = multiprocessing.get_context("fork").Process(target=_forward, args=(ends, delay))
        process.start()
        try:
            yield
        finally:
            process.kill()
            process.join()


def prefer_network() -> None:
    """Run this process before others, and its other threads (gloo's) before the one that computes: a network card would
    not wait for a core either. On two cores a sum in the middle of computing then takes what it takes by itself."""
    with contextlib.suppress(OSError):  # a container may not let us
        # The kernel weighs sessions against each other, and priorities within one. A launched rank has its own.
        Path("/proc/self/autogroup").write_text("-20")
        os.setpriority(os.PRIO_PROCESS, 0, -20)
    for thread in map(int, os.listdir("/proc/self/task")):
        if thread != threading.get_native_id():
            with contextlib.suppress(OSError):
                os.sched_setscheduler(thread, os.SCHED_FIFO, os.sched_param(1))


def _namespace(rank: int) -> int:
    """Move this thread to a network namespace of its own with a TAP device at 10.77.0.(1 + rank); its other end."""
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.unshare(CLONE_NEWNET):
        raise UserError(f"no network namespace can be made here: {os.strerror(ctypes.get_errno())}")
    tap = os.open(TUN, os.O_RDWR)
    fcntl.ioctl(tap, TUNSETIFF, struct.pack("16sH22x", DEVICE.encode(), IFF_TAP | IFF_NO_PI))
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as control:
        for name, address, mask in (("lo", "127.0.0.1", "255.0.0.0"), (DEVICE, f"10.77.0.{1 + rank}", "255.255.255.0")):
            for request, value in ((SIOCSIFADDR, address), (SIOCSIFNETMASK, mask)):
                inet = struct.pack("=HH4s8x", socket.AF_INET, 0, socket.inet_aton(value))
                fcntl.ioctl(control, request, struct.pack("16s16s8x", name.encode(), inet))
            if name == DEVICE:
                fcntl.ioctl(control, SIOCSIFMTU, struct.pack("16si20x", name.encode(), MTU))
            flags = struct.unpack("16sH22x", fcntl.ioctl(control, SIOCGIFFLAGS, struct.pack("16s24x", name.encode())))[
                1
            ]
            fcntl.ioctl(control, SIOCSIFFLAGS, struct.pack("16sH22x", name.encode(), flags | IFF_UP))
    return tap


def _forward(address: socket.socket, delay: float) -> None:
    """Move packets between the two TAPs that come in at ``address``, each after ``delay`` seconds, until killed."""
    ctypes.CDLL(None).prctl(1, signal.SIGKILL, 0, 0, 0)  # PR_SET_PDEATHSIG: go with the parent
    precise_sleep()
    with contextlib.suppress(OSError):  # a container may not let us: then packets wait for a core
        os.sched_setscheduler(0, os.SCHED_FIFO, os.sched_param(1))
    ends = [address.accept()[0] for _ in range(2)]
    taps = [socket.recv_fds(end, 16, 1)[1][0] for end in ends]
    for end in ends:
        end.send(b"!")
    to = dict(zip(taps, reversed(taps), strict=True))
    under_way: deque[tuple[float, int, bytes]] = deque()  # (due, to, packet), in the order of their arrival
    now = time.monotonic
    while True:
        wait = max(0.0, under_way[0][0] - now()) if under_way else None
        for tap in select.select(taps, (), (), wait)[0]:
            under_way.append((now() + delay, to[tap], os.read(tap, 65536)))
        while under_way and under_way[0][0] <= now():
            _, tap, packet = under_way.popleft()
            with contextlib.suppress(OSError):  # as when the device is gone: the packet is lost
                os.write(tap, packet)
