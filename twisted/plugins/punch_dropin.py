"""What `twistd` offers when Punch is installed. Nothing heavy is imported: modules are named, not loaded."""

from twisted.application.service import ServiceMaker

rendezvous = ServiceMaker(
    "Punch rendezvous",
    "punch.cli.rendezvous_tap",
    "Introduce peers behind NATs to each other.",
    "punch-rendezvous",
)

peer = ServiceMaker(
    "Punch peer",
    "punch.cli.peer_tap",
    "Punch through to another peer and chat with it, or wait for one.",
    "punch-peer",
)
