"""The sentences that say why calls, links and registrations ended."""

from __future__ import annotations

from twisted.trial.unittest import SynchronousTestCase

from punch.ice.events import CheckingFailure
from punch.identity import Identity
from punch.node.causes import (
    Cause,
    ControlProblem,
    IntroductionEnded,
    NoPathFound,
    OtherCause,
    ProblemCode,
    ProxyProblem,
    RelayFailure,
    SimpleCause,
)
from punch.node.events import CallFailed, PathLost, PathSlowed, Unregistered
from punch.ui.text.causes import cause_sentence, event_sentence, problem_sentence
from punch.wire.control import ErrorCode
from punch.wire.invitation import AdmissionRefusal
from punch.wire.proxy import ProxyAddress, ProxyError, ProxyRefusal, ProxySettings
from punch.wire.rendezvous_address import RendezvousAddress
from punch.wire.stun_attributes import RelayLimit

BOB = Identity.generate().peer_id
ADDRESS = RendezvousAddress("rendezvous.example.org", 7001)
NONE, IPV4, IPV6 = frozenset[str](), frozenset({"IPv4"}), frozenset({"IPv6"})


class CauseTests(SynchronousTestCase):
    """Calls and links."""

    def test_every_cause_has_its_own_sentence(self) -> None:
        causes: list[Cause] = [
            *SimpleCause,
            *(IntroductionEnded(code, rang) for code in ErrorCode for rang in (False, True)),
            *(NoPathFound(None, relay) for relay in (None, *RelayFailure)),
            *(ControlProblem(code, ADDRESS) for code in ProblemCode if code is not ProblemCode.ERROR),
            *(ControlProblem(ProblemCode.ERROR, ADDRESS, code) for code in ErrorCode),
            *(
                ControlProblem(ProblemCode.ERROR, ADDRESS, ErrorCode.DENIED, refusal=refusal)
                for refusal in AdmissionRefusal
            ),
        ]
        sentences = [cause_sentence(cause, BOB, "bob") for cause in causes]
        for sentence in sentences:
            self.assertTrue(sentence.endswith("."), sentence)
            self.assertNotIn("{", sentence)
        # The rendezvous' rate and its too-many, and a cancelled call, are the same for both sides.
        self.assertGreaterEqual(len(set(sentences)), len(sentences) - 2)

    def test_who(self) -> None:
        """A peer is named as it names itself, with the start of its ID."""
        lost = event_sentence(PathLost(BOB, "bob"))
        self.assertEqual(
            lost, f"The path to bob ({BOB.short}…) was lost; trying again, and what you send waits."
        )
        self.assertIn(f"{BOB.short}… hung up", cause_sentence(SimpleCause.CLOSED_BY_PEER, BOB))

    def test_path_lost_because_of_the_relay(self) -> None:
        self.assertEqual(
            event_sentence(PathLost(BOB, "bob", RelayFailure.QUOTA)),
            f"The path to bob ({BOB.short}…) was lost, and this peer has used up what the relay grants it "
            "for now; trying again, and what you send waits.",
        )

    def test_each_limit_of_a_relay(self) -> None:
        """One sentence for each, without placeholders."""
        sentences = {
            event_sentence(PathSlowed(BOB, limit, "bob", there))
            for limit in RelayLimit
            for there in (False, True)
        }
        self.assertEqual(len(sentences), 2 * len(RelayLimit))
        for sentence in sentences:
            self.assertTrue(sentence.startswith(f"The link to bob ({BOB.short}…) is slow now, since "))
            self.assertNotIn("{", sentence)

    def test_each_side_is_told_its_own_part(self) -> None:
        """Caller and callee are told different sentences when nobody answered."""
        for rang, words in (
            (False, "did not answer within 60 s; ask them to"),
            (True, "was not accepted within 60 seconds; call them back"),
        ):
            self.assertIn(words, cause_sentence(IntroductionEnded(ErrorCode.TIMEOUT, rang), BOB))

    def test_no_path(self) -> None:
        """The sentences say why, what to do next, and why no relay helped."""
        found = []
        for failure, words in (
            (CheckingFailure(NONE, IPV4, 0), "this machine has no network address"),
            (CheckingFailure(IPV4, NONE, 0), "the peer told no address"),
            (CheckingFailure(IPV4, IPV6, 0), "only IPv4 and the peer only IPv6"),
            (CheckingFailure(IPV4 | IPV6, IPV4, 0), "only IPv4 and IPv6 and the peer only IPv4"),
            (CheckingFailure(IPV4, IPV4, 0), "no address of the peer can be reached"),
            (CheckingFailure(IPV4, IPV4, 1), "the only path"),
            (CheckingFailure(IPV4, IPV4, 2), "none of the 2 possible paths"),
        ):
            sentence = cause_sentence(NoPathFound(failure, RelayFailure.FULL), BOB, "bob")
            self.assertTrue(sentence.startswith(f"There is no path to bob ({BOB.short}…): "), sentence)
            self.assertIn(words, sentence)
            self.assertIn("call again", sentence)
            self.assertTrue(sentence.endswith(" (the relay has no room now)."), sentence)
            found.append(sentence)
        self.assertEqual(len(set(found)), len(found))
        only = cause_sentence(NoPathFound(None, RelayFailure.NOT_OFFERED, relay_only=True), BOB)
        self.assertIn("--relay only leaves no way but a relay", only)
        self.assertIn("(the rendezvous offers this peer no relay)", only)

    def test_other(self) -> None:
        """A cause outside of the node has its sentence already."""
        self.assertEqual(event_sentence(CallFailed(None, OtherCause("state", "Full {who}."))), "Full {who}.")


class ProblemTests(SynchronousTestCase):
    """The connection to the rendezvous."""

    def test_proxies(self) -> None:
        """What to do where only a proxy leads out, and what the proxy said if there is one."""
        for code in (ProblemCode.NAME_UNKNOWN, ProblemCode.TIMEOUT, ProblemCode.UNREACHABLE):
            self.assertIn("name it with --proxy", problem_sentence(ControlProblem(code, ADDRESS)))
        self.assertNotIn("proxy", problem_sentence(ControlProblem(ProblemCode.REFUSED, ADDRESS)))
        settings = ProxySettings(ProxyAddress.parse("http://me:secret@proxy:3128"), "HTTPS_PROXY")
        sentences = set()
        for refusal in ProxyRefusal:
            problem = ProxyProblem(settings, ProxyError(refusal, "HTTP 429"))
            sentence = problem_sentence(ControlProblem(ProblemCode.PROXY, ADDRESS, proxy=problem))
            self.assertIn(
                "rendezvous.example.org:7001 can't be reached through the proxy proxy:3128", sentence
            )
            self.assertNotIn("{", sentence)
            self.assertNotIn("secret", sentence)
            sentences.add(sentence)
        self.assertEqual(len(sentences), len(ProxyRefusal))
        socks = ProxySettings(ProxyAddress.parse("socks5://proxy"), "ALL_PROXY")
        problem = ProxyProblem(socks, ProxyError(ProxyRefusal.AUTHENTICATION))
        sentence = problem_sentence(ControlProblem(ProblemCode.PROXY, ADDRESS, proxy=problem))
        self.assertIn("socks5://user:password@host:port", sentence)

    def test_this_machine(self) -> None:
        """No proxy leads to it."""
        for host in ("127.0.0.1", "::1", "localhost"):
            problem = ControlProblem(ProblemCode.TIMEOUT, RendezvousAddress(host))
            self.assertNotIn("proxy", problem_sentence(problem))

    def test_error_of_the_rendezvous(self) -> None:
        """The text of an error is part of the sentence where it says more than its code."""
        problem = ControlProblem(ProblemCode.ERROR, ADDRESS, ErrorCode.RATE, "Too many registrations.")
        self.assertEqual(
            event_sentence(Unregistered(problem, 5.0)),
            "The rendezvous at rendezvous.example.org:7001 takes no more from this peer now "
            "(Too many registrations); it is tried again.",
        )
