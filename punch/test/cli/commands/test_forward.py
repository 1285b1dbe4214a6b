"""Where `punch forward` can't listen."""

from __future__ import annotations

import socket
from pathlib import Path

from twisted.internet.protocol import Factory
from twisted.trial.unittest import SynchronousTestCase

from punch.apps.forward.addresses import parse_address
from punch.cli.commands.forward_common import listen
from punch.cli.commands.node_command import CommandFailed


class ListenTests(SynchronousTestCase):
    def refused(self, text: str) -> str:
        from twisted.internet import reactor

        address = parse_address(text, listening=True)
        return str(self.assertRaises(CommandFailed, listen, reactor, address, Factory()))

    def test_each_has_a_sentence(self) -> None:
        """A folder that is not there, a port that is taken, and a socket of another program, which stays."""
        path = Path(self.mktemp())
        self.assertEqual(
            self.refused(f"{path}/socket"),
            f"{path}/socket can't be listened on: No such file or directory.",
        )
        with socket.create_server(("127.0.0.1", 0)) as taken:
            name = f"127.0.0.1:{taken.getsockname()[1]}"
            self.assertEqual(self.refused(name), f"{name} can't be listened on: Address already in use.")
        with socket.socket(socket.AF_UNIX) as other:
            # In the folder of the tests, as the path of a socket has few bytes
            other.bind(path.name)
            self.addCleanup(Path(path.name).unlink)
            other.listen()
            # A lock of a process that is no longer there
            Path(f"{path.name}.lock").symlink_to(str(2**22 + 1))
            self.addCleanup(Path(f"{path.name}.lock").unlink)
            self.assertEqual(
                self.refused(f"unix:{path.name}"),
                f"{path.name} can't be listened on: another process listens there.",
            )
            self.assertTrue(Path(path.name).is_socket())

    def test_a_path_that_is_taken(self) -> None:
        """Also at the next attempt, as no lock is left, which this process would have."""
        path = Path(Path(self.mktemp()).name)
        path.write_text("a file")
        self.addCleanup(path.unlink)
        for _ in range(2):
            self.assertEqual(
                self.refused(f"unix:{path}"), f"{path} can't be listened on: Address already in use."
            )
        self.assertEqual(list(Path().glob(f"{path}.lock")), [])
