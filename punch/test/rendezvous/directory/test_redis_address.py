"""The address of Redis."""

from __future__ import annotations

from twisted.trial.unittest import SynchronousTestCase

from punch.rendezvous.directory.redis_address import RedisAddress, RedisAddressError


class RedisAddressTests(SynchronousTestCase):
    def test_good(self) -> None:
        cases = {
            "redis://redis.example": RedisAddress((("redis.example", 6379),)),
            "rediss://u:p%40ss@h:1/2": RedisAddress((("h", 1),), True, 2, "u", "p@ss"),
            "redis://:secret@[2001:db8::1]:7/": RedisAddress((("2001:db8::1", 7),), password="secret"),
            "redis+sentinel://a,b:5/main/1": RedisAddress((("a", 26379), ("b", 5)), False, 1, name="main"),
        }
        for text, address in cases.items():
            self.assertEqual(RedisAddress.parse(text), address)

    def test_mistakes(self) -> None:
        """Each is a sentence that shows how it is written, and no password."""
        for text in (
            "",
            "redis",
            "http://host",
            "redis://",
            "redis://:secret@",
            "redis://:secret@host:0",
            "redis://host:99999",
            "redis://host:port",
            "redis://host/x",
            "redis://host/1/2",
            "redis://a,b",
            "redis://host?x=1",
            "redis+sentinel://host",
            "redis://[::1",
        ):
            problem = str(self.assertRaises(RedisAddressError, RedisAddress.parse, text))
            self.assertIn("redis://host:6379/0", problem)
            self.assertNotIn("secret", problem)

    def test_location_has_no_password(self) -> None:
        self.assertEqual(RedisAddress.parse("redis://u:secret@h").location, "h:6379")
        self.assertEqual(RedisAddress.parse("redis+sentinel://a,b/m").location, "Sentinel a:26379,b:26379")
