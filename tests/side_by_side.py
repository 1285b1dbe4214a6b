"""
Which tests may run beside others, with `pytest -n 2`: those that mostly wait for processes of their own, and
those that take simulated time alone.

Each worker takes file after file of them. All other tests then run in one worker, one after another, when
the other workers have ended: they measure time, load all processors, or have browsers, whose pages load
again when the addresses of the machine change.
"""

from __future__ import annotations

import fcntl
from collections.abc import Generator

import pytest
from xdist.remote import Producer
from xdist.scheduler import LoadFileScheduling

FILES = (
    "peer/test_peer_process.py",
    "release/test_old_release.py",
    "terminal/test_terminal.py",
    "peer/test_restart_process.py",
    "peer/test_peer_refusals.py",
    "relay/test_turn_client_coturn.py",
    "terminal/test_terminal_trouble.py",
    "apps/test_chat_kill.py",
    "peer/test_name_lookups.py",
    "apps/test_chat_disk.py",
    "peer/test_output.py",
    "peer/test_demo.py",
    "relay/test_relay_interop.py",
    "peer/test_netcheck_process.py",
    "peer/test_interrupts.py",
    "rendezvous/test_reflector_interop.py",
    "release/test_sdist.py",
    "fuzz/test_fuzz.py",
    "peer/test_twins.py",
    "peer/test_warnings.py",
    "peer/test_state_processes.py",
    "rendezvous/test_deny_process.py",
    "apps/test_transfers.py",
    "apps/test_forwards.py",
    "docs/test_readme.py",
    "peer/test_local_socket.py",
    "apps/test_codes.py",
    "network/test_upnp.py",
    "deploy/test_port_443.py",
    "simulation/test_service_day.py",
    "link/test_aioquic.py",
    "link/test_small_pieces.py",
    "simulation/test_blocked_network.py",
    "simulation/test_flapping_paths.py",
    "simulation/test_spraying.py",
    "simulation/test_spraying_hostile.py",
    "simulation/test_impaired_networks.py",
    "simulation/test_tcp_port_mapping.py",
    "simulation/test_early_handshake.py",
    "simulation/test_prediction.py",
    "simulation/test_tcp_punching.py",
    "simulation/test_tcp_fallback.py",
    "simulation/test_tcp_learning.py",
    "simulation/test_learning.py",
    "simulation/test_rendezvous_returns.py",
    "simulation/test_relayed_links.py",
    "simulation/test_tcp_punching_hostile.py",
    "simulation/test_roaming.py",
    "simulation/test_simultaneous_open.py",
    "simulation/test_early_handshake_hostile.py",
    "simulation/test_relay_restarts.py",
    "simulation/test_clocks.py",
    "simulation/test_twins.py",
    "simulation/test_small_paths.py",
    "simulation/test_calls.py",
    "simulation/test_port_mapping.py",
    "simulation/test_full_tables.py",
    "simulation/test_thousand_streams.py",
    "simulation/test_protected_peers.py",
    "simulation/test_forwards.py",
    "simulation/test_earlier_peers.py",
    "simulation/test_netcheck.py",
    "simulation/test_reconnecting.py",
    "simulation/test_directory_model.py",
    "simulation/test_file_transfers.py",
    "simulation/test_rendezvous_floods.py",
    "simulation/test_target_limits.py",
    "simulation/test_code_guesses.py",
    "simulation/test_rendezvous_processes.py",
    "simulation/test_shared_nodes.py",
    "simulation/test_stray_packets.py",
    "simulation/test_relay_floods.py",
    "simulation/test_chat_days.py",
    "link/test_link_limits.py",
)
"""Files of tests that may run beside others; first those that take longest."""

_ALONE = len(FILES)


def order(nodeid: str) -> int:
    """Where a test comes: those that run alone are the last."""
    name = nodeid.partition("::")[0].removeprefix("tests/")
    return FILES.index(name) if name in FILES else len(FILES)


def runs_alone(nodeid: str) -> bool:
    """Whether no other test may run beside this one."""
    return order(nodeid) == len(FILES)


class Scheduler(LoadFileScheduling):  # type: ignore[misc]
    """Gives the files to workers in the order of the tests; those that run alone all to the same one."""

    def __init__(self, config: pytest.Config, log: Producer) -> None:
        super().__init__(config, log)
        config.option.loadscopereorder = False

    def _split_scope(self, nodeid: str) -> str:
        return "alone" if runs_alone(nodeid) else super()._split_scope(nodeid)


class Turn:
    """A plugin of a worker: each test waits until it may run. One that runs alone has an exclusive lock."""

    def __init__(self) -> None:
        self._lock = open(__file__, "rb")  # noqa: SIM115

    @pytest.hookimpl(wrapper=True)
    def pytest_runtest_protocol(self, item: pytest.Item) -> Generator[None, object, object]:
        """Around the fixtures and the test."""
        fcntl.flock(self._lock, fcntl.LOCK_EX if runs_alone(item.nodeid) else fcntl.LOCK_SH)
        try:
            return (yield)
        finally:
            fcntl.flock(self._lock, fcntl.LOCK_UN)
