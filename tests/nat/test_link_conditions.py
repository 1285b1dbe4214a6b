"""What access links do to packets: the grid's delay and loss are what they say."""

from __future__ import annotations

import json
import subprocess
import sys

from tests.needs import need_namespaces

from .kernel_network import LEFT, RIGHT, KernelNetwork, LinkConditions
from .profiles import build

ECHO = """
import socket
here = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
here.bind(("0.0.0.0", 7))
print("up", flush=True)
while True:
    data, address = here.recvfrom(2000)
    here.sendto(data, address)
"""
ASK = """
import json, socket, sys, threading, time
host, count = sys.argv[1], int(sys.argv[2])
here = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
here.settimeout(1.0)
times = []
def listen():
    try:
        while True:
            sent = float(here.recv(2000))
            times.append(time.monotonic() - sent)
    except TimeoutError:
        pass
here.sendto(repr(time.monotonic()).encode(), (host, 7))
listener = threading.Thread(target=listen)
listener.start()
for _ in range(count - 1):
    time.sleep(0.002)
    here.sendto(repr(time.monotonic()).encode(), (host, 7))
listener.join()
print(json.dumps(times))
"""


ATTEMPTS = 3
"""Times that a measurement is made, of which one has to be right: else it may be of a busy machine."""


def echoes(conditions: LinkConditions, count: int) -> list[float]:
    """The round trips of so many datagrams from one open site to another, those that came back."""
    need_namespaces()
    with KernelNetwork(conditions) as network:
        sites = build(network, ["open"])
        network.start()
        left, right = sites["open", LEFT], sites["open", RIGHT]
        echo = subprocess.Popen([*right.host.prefix, sys.executable, "-c", ECHO], stdout=subprocess.PIPE)
        try:
            assert echo.stdout is not None
            echo.stdout.readline()
            answer = left.host.run(sys.executable, "-c", ASK, "198.51.100.12", str(count))
        finally:
            echo.kill()
            echo.wait()
    times: list[float] = json.loads(answer)
    return times


def round_trips(conditions: LinkConditions, most: float) -> list[float]:
    """Those of 200 datagrams, none of them lost, shortest first; half are below `most` on a quiet machine."""
    for _ in range(ATTEMPTS):
        times = sorted(echoes(conditions, 200))
        assert len(times) == 200
        if times[100] < most:
            break
    return times


def test_delay() -> None:
    """25 ms four times, and nothing is lost or overtaken by itself."""
    times = round_trips(LinkConditions(delay=0.025), 0.12)
    assert times[0] >= 0.1
    assert times[100] < 0.12


def test_loss() -> None:
    """Of round trips over four links that each lose a fifth, 41 % are complete."""
    times = echoes(LinkConditions(loss=0.2), 1000)
    assert 330 < len(times) < 490


def test_no_delay_and_no_loss() -> None:
    """Without delay and loss, all datagrams arrive, within milliseconds."""
    assert round_trips(LinkConditions(), 0.01)[100] < 0.01
