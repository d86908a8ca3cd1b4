"""A slow way into a network namespace: delay.py NAMESPACE OUTSIDE INSIDE MILLISECONDS (root)

Two TUN devices, one here with the address OUTSIDE, one in the namespace with INSIDE; each packet is handed over after that time, in order. It is there
because not every kernel has the queueing discipline netem. Says `ready` when packets pass, and ends with its standard input.
"""

from __future__ import annotations

import collections
import fcntl
import os
import select
import struct
import subprocess
import sys
import time

TUNSETIFF = 0x400454CA  # linux/if_tun.h
IFF_TUN, IFF_NO_PI = 0x0001, 0x1000


def tun(name: str) -> int:
    """Make a TUN device and give its file descriptor."""
    descriptor = os.open('/dev/net/tun', os.O_RDWR | os.O_NONBLOCK)
    fcntl.ioctl(descriptor, TUNSETIFF, struct.pack('16sH', name.encode(), IFF_TUN | IFF_NO_PI))
    return descriptor


def forward(ends: dict[int, int], delay: float) -> None:
    """Carry packets between the two ends (each: where its packets go to) until standard input ends."""
    waiting: collections.deque[tuple[float, int, bytes]] = collections.deque()
    while True:
        pause = max(waiting[0][0] - time.monotonic(), 0) if waiting else None
        readable = select.select([0, *ends], [], [], pause)[0]
        if 0 in readable:
            return
        for end in readable:
            try:
                for dummy in range(64):
                    waiting.append((time.monotonic() + delay, ends[end], os.read(end, 65536)))
            except BlockingIOError:
                continue
        now = time.monotonic()
        while waiting and waiting[0][0] <= now:
            dummy2, end, packet = waiting.popleft()
            os.write(end, packet)


def main() -> None:
    namespace, outside, inside, milliseconds = sys.argv[1:]
    names = ['%s%s' % (namespace, end) for end in ('o', 'i')]
    here, there = (tun(name) for name in names)
    for words in (
        ['link', 'set', names[1], 'netns', namespace],
        ['addr', 'add', outside, 'peer', inside, 'dev', names[0]],
        ['link', 'set', names[0], 'up', 'txqueuelen', '10000'],
        ['-n', namespace, 'addr', 'add', inside, 'peer', outside, 'dev', names[1]],
        ['-n', namespace, 'link', 'set', names[1], 'up', 'txqueuelen', '10000'],
    ):
        subprocess.run(['ip', *words], check=True)
    print('ready', flush=True)
    forward({here: there, there: here}, int(milliseconds) / 1000)


if __name__ == '__main__':
    main()
