"""
What a link over the relay loses while both sides spray ports, through two kernel NATs.

    python -m benchmarks.spraying [--rounds 3]

As root, with nftables, iproute2 and conntrack. A peer behind `masq-drop` sends a file to one behind
`fully-drop`. Nothing passes directly between the two networks, so an attempt of spraying takes all its
packets, and the link stays on the relay. The same transfer with `--spray never` runs in turn, in the same
run. Each figure is the rate of the file in the 10 s after the first second, as the receiver tells it.
"""

from __future__ import annotations

import argparse
import platform
import tempfile
import time
from importlib.metadata import version
from pathlib import Path
from statistics import median

from tests.nat.counted import counted_peers
from tests.nat.grid import Pair, connect, peer_id
from tests.nat.kernel_network import Site
from tests.processes import JSONProcess

PAIR: Pair = ("masq-drop", "fully-drop")

SIZE = 2 * 1024**3
"""Bytes of the file: more than is sent in the time that is measured."""
SECONDS = 10.0
MIB = 1024 * 1024


def rate(receiver: JSONProcess) -> float:
    """Return how many MiB a second arrive."""
    first = receiver.wait("transfer-progress", 30.0, lambda event: event["position"] > 0)
    time.sleep(1.0)
    began = receiver.wait("transfer-progress", 30.0, lambda event: event["time"] >= first["time"] + 1.0)
    ended = receiver.wait(
        "transfer-progress", SECONDS + 30.0, lambda event: event["time"] >= began["time"] + SECONDS
    )
    return float((ended["position"] - began["position"]) / (ended["time"] - began["time"]) / MIB)


def measure(directory: Path, file: Path, spray: str) -> tuple[float, int]:
    """Return the rate in MiB/s, and how many packets both sides have sent to guessed ports."""

    def options(site: Site) -> list[str]:
        # A peer without a page takes no files
        return ["--spray", spray, "--downloads", str(directory / f"{site.name}-downloads"), "--web"]

    with counted_peers(directory, [PAIR], options) as counted:
        sender, receiver = counted.peers[PAIR]
        _, outcome = connect(sender, receiver)
        if outcome.first != ("relay", "relay"):
            raise SystemExit(f"the link is not on the relay: {outcome}")
        receiver.command("name", peer=peer_id(sender), name="sender")
        receiver.command("grant", peer=peer_id(sender), service="files/1")
        sender.command("send-files", peer=peer_id(receiver), paths=[str(file)])
        reached = rate(receiver)
        return reached, sum(packets for packets, _ in counted.counts().values())


def main() -> None:
    """Run the benchmark."""
    parser = argparse.ArgumentParser(description="A relayed link while both sides spray ports.")
    parser.add_argument("--rounds", type=int, default=3, help="rounds of each (default: 3)")
    rounds = parser.parse_args().rounds
    print(
        f"{platform.platform()}, {platform.machine()}; Python {platform.python_version()}, "
        f"Twisted {version('twisted')}, qh3 {version('qh3')}"
    )
    rates: dict[str, list[float]] = {"never": [], "auto": []}
    with tempfile.TemporaryDirectory() as directory:
        file = Path(directory) / "file"
        with file.open("wb") as out:
            # No holes, which are not sent; what it holds makes no difference
            piece = bytes(range(256)) * 4096
            for _ in range(SIZE // len(piece)):
                out.write(piece)
        for number in range(rounds):
            for spray, reached in rates.items():
                place = Path(directory) / f"{number}-{spray}"
                place.mkdir()
                for site in ("masq-drop-left", "fully-drop-right"):
                    (place / f"{site}-downloads").mkdir()
                each, packets = measure(place, file, spray)
                reached.append(each)
                print(f"round {number + 1}, --spray {spray}: {each:.1f} MiB/s, {packets} packets besides")
    without, during = median(rates["never"]), median(rates["auto"])
    print(f"without {without:.1f} MiB/s, while spraying {during:.1f} MiB/s: {during / without:.3f}")


if __name__ == "__main__":
    main()
