"""JSON without its traps."""

from __future__ import annotations

import json
import time
from typing import Any

from hypothesis import given
from hypothesis import strategies as st
from twisted.trial.unittest import SynchronousTestCase

from punch.test.strategies import SETTINGS
from punch.wire.strict_json import MAX_DEPTH, MAX_INTEGER, JSONError, dumps, loads

strings = st.text(st.characters(codec="utf-8"))
scalars = (
    st.none()
    | st.booleans()
    | st.integers(-MAX_INTEGER, MAX_INTEGER)
    | st.floats(allow_nan=False, allow_infinity=False)
    | strings
)
values = st.recursive(
    scalars,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(strings, inner, max_size=4),
    max_leaves=20,
)


class StrictJSONTests(SynchronousTestCase):
    """What is read, and what isn't."""

    @SETTINGS
    @given(values)
    def test_round_trip(self, value: Any) -> None:
        """Whatever is written is read as the same, and is one line of ASCII."""
        data = dumps(value)
        self.assertEqual(loads(data), value)
        self.assertTrue(data.isascii())
        self.assertNotIn(b"\n", data)

    @SETTINGS
    @given(values)
    def test_same_as_others(self, value: Any) -> None:
        """What another implementation writes, with spaces and raw UTF-8, is read."""
        self.assertEqual(loads(json.dumps(value, ensure_ascii=False, indent=1).encode("utf-8")), value)

    @SETTINGS
    @given(st.binary(max_size=200))
    def test_any_bytes(self, data: bytes) -> None:
        """Whatever comes is a value or a `JSONError`, never another exception."""
        try:
            loads(data)
        except JSONError as error:
            self.assertTrue(str(error).isprintable())

    @SETTINGS
    @given(st.text('[]{}",:\\u0019eE+-.dDaN Infity\n', max_size=60))
    def test_almost_json(self, text: str) -> None:
        """The same for texts that look like JSON."""
        try:
            value = loads(text.encode("utf-8"))
        except JSONError:
            return
        self.assertEqual(value, json.loads(text))

    def refused(self, data: bytes, because: str) -> None:
        """`data` is refused, and the text says `because`."""
        self.assertIn(because, str(self.assertRaises(JSONError, loads, data)))

    def test_numbers(self) -> None:
        """No NaN, no infinity by name or by size, no integer that others would round."""
        for text in (b"NaN", b"Infinity", b"-Infinity", b'{"a":NaN}'):
            self.refused(text, "no JSON number")
        for text in (b"1e999", b"-1e999", b"[1e400]", b"1" + b"0" * 400 + b".5"):
            self.refused(text, "a number is too large")
        for text in (
            str(MAX_INTEGER + 1).encode(),
            str(-MAX_INTEGER - 1).encode(),
            b"9" * 5000,
            b"-" + b"9" * 5000,
        ):
            self.refused(text, "an integer is too large")
        for wrong in (b"01", b"+1", b".5", b"1.", b"0x10", b"1_000", "\u0661".encode()):
            self.assertRaises(JSONError, loads, wrong)
        self.assertEqual(loads(str(MAX_INTEGER).encode()), MAX_INTEGER)
        self.assertEqual(loads(b"1e-999"), 0.0)

    def test_duplicate_keys(self) -> None:
        """Two programs would read two different values."""
        self.refused(b'{"a":1,"a":2}', "twice")
        self.refused(b'{"x":[{"a":1,"\\u0061":2}]}', "twice")

    def test_surrogates(self) -> None:
        """A lone surrogate is no text: a pair is."""
        for text in (
            b'"\\ud800"',
            b'"\\udc00"',
            b'"\\ud800\\ud800"',
            b'["\\uDFFF"]',
            b'{"\\ud800":1}',
            b'"\\udc00\\ud800"',
        ):
            self.refused(text, "lone surrogate")
        self.assertEqual(loads(b'"\\ud83d\\ude00"'), "\U0001f600")

    def test_utf8(self) -> None:
        """Bytes that aren't UTF-8, overlong forms and encoded surrogates among them."""
        for data in (b"\xff", b'"\xc3"', b'"\xc0\xaf"', b'"\xed\xa0\x80"', b'"\xf4\x90\x80\x80"'):
            self.refused(data, "invalid UTF-8")
        for other in ("utf-16-le", "utf-32", "utf-8-sig"):
            self.assertRaises(JSONError, loads, '{"a":1}'.encode(other))

    def test_depth(self) -> None:
        """Nesting is bounded, whatever the interpreter could bear, and brackets in strings don't count."""
        for opening, closing in ((b"[", b"]"), (b'{"a":', b"}")):
            self.refused(opening * 10_000, "deep")
            self.refused(opening * 10_000 + b"1" + closing * 10_000, "deep")
            self.refused(opening * (MAX_DEPTH + 1) + b"1" + closing * (MAX_DEPTH + 1), "deep")
            loads(opening * MAX_DEPTH + b"1" + closing * MAX_DEPTH)
        self.assertEqual(loads(b'"' + b"[" * 10_000 + b'"'), "[" * 10_000)
        self.assertEqual(loads(b'["\\"' + b"{" * 100 + b'\\\\",[]]'), ['"' + "{" * 100 + "\\", []])
        self.assertEqual(loads(b"[" + b"[]," * 1000 + b"[]]"), [[]] * 1001)

    def test_no_text_takes_long(self) -> None:
        """No line of the largest size keeps us busy: the work grows with its length, not with its square."""
        lines = [
            b"[" * 40 + unit * (16384 // len(unit)) for unit in (b'"\\"', b'\\"', b'"', b"\\", b'"\\', b'["')
        ]
        started = time.process_time()
        for line in lines:
            self.assertRaises(JSONError, loads, line)
        self.assertLess(time.process_time() - started, 1.0)

    def test_trailing_and_missing(self) -> None:
        """One value, all of it, and nothing else."""
        for data in (b"", b" ", b"{", b'{"a"', b'{"a":1}x', b"{}{}", b"[1,]", b"'a'", b'"a\nb"', b"\x00"):
            self.assertRaises(JSONError, loads, data)

    def test_cannot_be_written(self) -> None:
        """Values that would be refused when read can't be written."""
        for value in (float("nan"), float("inf"), {1, 2}, b"bytes", object()):
            self.assertRaises(JSONError, dumps, value)
        loop: list[object] = []
        loop.append(loop)
        self.assertRaises(JSONError, dumps, loop)
