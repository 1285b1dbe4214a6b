"""The states of the search for a relay, and what is kept about the relays that were named."""

from __future__ import annotations

from twisted.trial.unittest import SynchronousTestCase

from punch.node.causes import RelayFailure
from punch.node.network.relay_search import (
    CHECK_RTTS,
    CHECK_TIME,
    FIRST_DELAY,
    GIVE_UP_AFTER,
    HEAD_START,
    LAST_DELAY,
    LONGEST_CHECK,
    NEEDED_DELAY,
    RENEW_AT,
    HeadStart,
    Idle,
    RelaySearch,
    RelayServers,
    Streams,
    Verifying,
    Waiting,
)
from punch.turn.client.requests import AllocationProblem
from punch.wire.turn import RelayServer, TurnTransport, TurnURI


class RelaySearchTests(SynchronousTestCase):
    """Each state, what ends it, and what follows."""

    def setUp(self) -> None:
        self.search = RelaySearch()

    def fail_so_often(self, times: int) -> list[float]:
        """Let so many tries fail one after the other; return the delays after them."""
        delays, now = [], 0.0
        for _ in range(times):
            self.search.begin(now)
            self.search.ask_streams()
            self.search.failed(now)
            until = self.search.get_timer()
            assert until is not None
            delays.append(until - now)
            now = until
            self.assertEqual(self.search.handle_timer(now), Waiting(now))
        return delays

    def test_nothing_to_do(self) -> None:
        """Without a request there is no timer."""
        self.assertEqual(self.search.state, Idle())
        self.assertIsNone(self.search.get_timer())
        self.assertIsNone(self.search.handle_timer(1e9))

    def test_the_head_start_of_udp(self) -> None:
        """After it, relays are asked over streams, which has no timer of its own."""
        self.search.begin(10.0)
        self.assertTrue(self.search.pending)
        self.assertEqual(self.search.get_timer(), 10.0 + HEAD_START)
        self.assertIsNone(self.search.handle_timer(10.1))
        self.assertEqual(self.search.handle_timer(10.0 + HEAD_START), HeadStart(10.0 + HEAD_START))
        self.assertEqual(self.search.state, Idle())
        self.search.ask_streams()
        self.assertEqual(self.search.state, Streams())
        self.assertFalse(self.search.pending)
        self.assertIsNone(self.search.get_timer())

    def test_found(self) -> None:
        """A relay that answers ends each of the states."""
        for enter in (
            lambda: self.search.begin(0.0),
            self.search.ask_streams,
            lambda: self.search.failed(0.0),
            lambda: self.search.check([], 0.0),
        ):
            enter()
            self.search.found()
            self.assertEqual(self.search.state, Idle())
            self.assertIsNone(self.search.get_timer())

    def test_delays(self) -> None:
        """They double up to a limit, and begin anew with a relay, or after the last user."""
        self.assertEqual(self.fail_so_often(7), [1.0, 2.0, 4.0, 8.0, 16.0, LAST_DELAY, LAST_DELAY])
        self.search.found()
        self.assertEqual(self.fail_so_often(2), [FIRST_DELAY, 2 * FIRST_DELAY])
        self.search.unused()
        self.assertEqual(self.fail_so_often(1), [FIRST_DELAY])
        self.search.restart()
        self.assertEqual(self.fail_so_often(1), [FIRST_DELAY])

    def test_delays_while_a_link_has_no_path(self) -> None:
        """They are shorter, also the next one; afterwards they grow again."""
        self.fail_so_often(6)
        self.search.need(True)
        self.assertEqual(self.fail_so_often(2), [NEEDED_DELAY, NEEDED_DELAY])
        self.search.need(False)
        self.assertEqual(self.fail_so_often(2), [NEEDED_DELAY, 2 * NEEDED_DELAY])

    def test_failures_while_it_waits(self) -> None:
        """A late failure of a request over UDP does not put the next try off."""
        self.search.failed(0.0)
        self.search.failed(0.5)
        self.assertEqual(self.search.state, Waiting(FIRST_DELAY))
        self.search.all_answered()
        self.assertEqual(self.search.state, Idle())

    def test_giving_up(self) -> None:
        """Users are told after a while of failures in a row."""
        self.search.failed(5.0)
        self.assertFalse(self.search.gives_up(4.9 + GIVE_UP_AFTER))
        self.assertTrue(self.search.gives_up(5.0 + GIVE_UP_AFTER))
        self.search.found()
        self.assertFalse(self.search.gives_up(100.0))
        self.search.failed(100.0)
        self.search.unused()
        self.assertFalse(self.search.gives_up(1000.0))

    def test_without_users(self) -> None:
        """No further try is made, but requests that were sent go on."""
        self.search.failed(0.0)
        self.search.unused()
        self.assertEqual(self.search.state, Idle())
        self.search.begin(0.0)
        self.search.unused()
        self.assertEqual(self.search.state, HeadStart(HEAD_START))

    def test_relays_in_use(self) -> None:
        """They have some round trips to answer, up to a limit."""
        for rtts, patience in (([], CHECK_TIME), ([0.01, 0.5], CHECK_RTTS * 0.5), ([9.0], LONGEST_CHECK)):
            self.search.check(rtts, 2.0)
            self.assertTrue(self.search.pending)
            self.assertEqual(self.search.state, Verifying(2.0, 2.0 + patience))
            self.assertIsNone(self.search.handle_timer(1.9 + patience))
            self.assertEqual(self.search.handle_timer(2.0 + patience), Verifying(2.0, 2.0 + patience))
            self.assertEqual(self.search.state, Idle())

    def test_stop(self) -> None:
        """Nothing is due any more."""
        self.search.failed(0.0)
        self.search.stop()
        self.assertIsNone(self.search.get_timer())


class RelayServersTests(SynchronousTestCase):
    """Credentials that expire, and relays that refuse."""

    def setUp(self) -> None:
        self.one, self.two = (
            RelayServer(
                TurnURI(host, 3478, TurnTransport.UDP), "user", "password", "realm", "nonce", lifetime
            )
            for host, lifetime in (("192.0.2.1", 600), ("192.0.2.2", 1200))
        )
        self.servers = RelayServers()
        self.servers.update((self.one, self.two), 100.0)

    def test_credentials_expire(self) -> None:
        """New ones are requested before, by the time of those that expire first."""
        self.assertEqual(self.servers.renew_at, 100.0 + 600 * RENEW_AT)
        self.assertEqual(self.servers.usable(699.0), [self.one, self.two])
        self.assertEqual(self.servers.usable(700.0), [self.two])
        self.servers.update((), 200.0)
        self.assertIsNone(self.servers.renew_at)
        self.assertEqual(self.servers.usable(200.0), [])

    def test_no_capacity(self) -> None:
        """Such a relay is not asked for a while."""
        for problem in (AllocationProblem.QUOTA, AllocationProblem.CAPACITY):
            self.assertFalse(self.servers.failed(self.one.url, problem, 110.0))
            self.assertEqual(self.servers.usable(169.0), [self.two])
            self.assertEqual(self.servers.usable(170.0), [self.one, self.two])

    def test_credentials_that_are_refused(self) -> None:
        """They are wrong if they are new, and may have expired early if they are not."""
        self.assertFalse(self.servers.failed(self.one.url, AllocationProblem.UNAUTHORIZED, 160.0))
        self.assertTrue(self.servers.failed(self.one.url, AllocationProblem.UNAUTHORIZED, 161.0))
        self.assertFalse(self.servers.failed(self.one.url, AllocationProblem.TIMEOUT, 161.0))

    def test_what_is_told(self) -> None:
        """One cause for all: what can be said about it best; none for relays that work or are not named."""
        self.assertIsNone(self.servers.failure)
        self.servers.failed(self.one.url, AllocationProblem.TIMEOUT, 101.0)
        self.assertEqual(self.servers.failure, RelayFailure.SILENT)
        self.servers.failed(self.two.url, AllocationProblem.QUOTA, 102.0)
        self.assertEqual(self.servers.failure, RelayFailure.QUOTA)
        self.servers.worked(self.two.url)
        self.assertEqual(self.servers.failure, RelayFailure.SILENT)
        self.servers.update((self.two,), 103.0)
        self.assertIsNone(self.servers.failure)
        self.servers.failed(self.two.url, AllocationProblem.REFUSED, 104.0)
        self.assertEqual(self.servers.failure, RelayFailure.REFUSED)
