"""A long and lossy wire between two network devices: `wire.py DEVICE DEVICE MILLISECONDS PERCENT`, to the end of input.

A frame that comes in at one device leaves by the other so many milliseconds later, or, that often, never.
"""

import random
import select
import socket
import sys
import time
from collections import deque

ALL_PROTOCOLS = 3
SOL_PACKET = 263
PACKET_VNET_HDR = 15  # a header tells what the sender left to the device: checksums, and segments to be cut
PACKET_IGNORE_OUTGOING = 23
SO_RCVBUFFORCE = 33
LONGEST = 1 << 17


def open_device(name: str) -> socket.socket:
    """Return a socket that reads and writes the frames of a device, as they are."""
    device = socket.socket(socket.AF_PACKET, socket.SOCK_RAW, 0)
    device.setsockopt(SOL_PACKET, PACKET_VNET_HDR, 1)
    device.setsockopt(SOL_PACKET, PACKET_IGNORE_OUTGOING, 1)
    device.setsockopt(socket.SOL_SOCKET, SO_RCVBUFFORCE, 1 << 24)
    device.bind((name, ALL_PROTOCOLS))
    device.setblocking(False)
    return device


def connect(one: socket.socket, two: socket.socket, delay: float, loss: float) -> None:
    """Pass frames on until the standard input ends."""
    other, chance = {one: two, two: one}, random.Random(0)
    waiting: deque[tuple[float, socket.socket, bytes]] = deque()  # sorted: each waits for the same time
    while True:
        pause = max(0.0, waiting[0][0] - time.monotonic()) if waiting else None
        readable, _, _ = select.select([sys.stdin, one, two], [], [], pause)
        if sys.stdin in readable:
            return
        for device in readable:
            try:
                frame = device.recv(LONGEST)
            except OSError:
                continue  # the device is down
            if chance.random() >= loss:
                waiting.append((time.monotonic() + delay, other[device], frame))
        while waiting and waiting[0][0] <= time.monotonic():
            _, device, frame = waiting.popleft()
            try:
                device.send(frame)
            except OSError:
                pass  # lost: the device is down, or its queue is full


if __name__ == "__main__":
    devices = [open_device(name) for name in sys.argv[1:3]]
    print("ready", flush=True)
    connect(*devices, float(sys.argv[3]) / 1000, float(sys.argv[4]) / 100)
