"""
Receiving and answering datagrams of many hosts in one system call: `recvmmsg` and `sendmmsg` of Linux.

Python's sockets don't have them, so they are called with ctypes. UDP_SEGMENT (`punch.net.udp.segmentation`)
is for many datagrams of one host; both work together, as one message of a batch may have several datagrams.

A sandbox may refuse these calls (seccomp). Then `recvmsg` and `sendmsg` take their place, for one message at
a time.
"""

from __future__ import annotations

import ctypes
import errno
import socket
import sys
from collections.abc import Callable
from contextlib import suppress
from functools import cache
from struct import Struct
from typing import Any, Final

from punch.net.udp.segmentation import MAX_UDP, ControlMessage

SIZE: Final = 64
"""Messages of one call."""
ANSWER_SIZE: Final = 64
"""Bytes of the longest answer."""
NAME_SIZE: Final = 28
"""Bytes of a `sockaddr_in6`, the longest address."""
_CONTROL_SIZE: Final = 128
_DONTWAIT: Final = 0x40

_CONTROL_HEADER: Final = Struct("@Nii")
_ALIGNMENT: Final = ctypes.sizeof(ctypes.c_size_t)
IPV4_NAME: Final = Struct("!2xH4s")
"""The port and the host in a `sockaddr_in`."""
IPV4_NAME_SIZE: Final = 16
"""Bytes of a `sockaddr_in`."""
_IPV6: Final = Struct("!2xH4x16s")
_SCOPE: Final = Struct("=24xI")


class _Vector(ctypes.Structure):
    """`struct iovec`."""

    _fields_ = (("base", ctypes.c_void_p), ("size", ctypes.c_size_t))


class _Header(ctypes.Structure):
    """`struct msghdr`."""

    _fields_ = (
        ("name", ctypes.c_void_p),
        ("name_size", ctypes.c_uint),
        ("vectors", ctypes.c_void_p),
        ("vector_count", ctypes.c_size_t),
        ("control", ctypes.c_void_p),
        ("control_size", ctypes.c_size_t),
        ("flags", ctypes.c_int),
    )


class _Message(ctypes.Structure):
    """`struct mmsghdr`."""

    _fields_ = (("header", _Header), ("size", ctypes.c_uint))


_MESSAGE_SIZE: Final = ctypes.sizeof(_Message)


def _system_call(name: str, *arguments: Any, result: Any = ctypes.c_int) -> Callable[..., int] | None:
    if sys.platform != "linux":
        return None
    found = getattr(ctypes.CDLL(None, use_errno=True), name, None)
    if found is not None:
        found.argtypes, found.restype = arguments, result
    return found


_BATCH = (ctypes.c_int, ctypes.c_void_p, ctypes.c_uint, ctypes.c_int)
_ONE = (ctypes.c_int, ctypes.c_void_p, ctypes.c_int)
_recvmmsg = _system_call("recvmmsg", *_BATCH, ctypes.c_void_p)
_sendmmsg = _system_call("sendmmsg", *_BATCH)
_recvmsg = _system_call("recvmsg", *_ONE, result=ctypes.c_ssize_t)
_sendmsg = _system_call("sendmsg", *_ONE, result=ctypes.c_ssize_t)
_WOULD_BLOCK = frozenset({errno.EAGAIN, errno.EWOULDBLOCK})
_REFUSALS = 3
"""After so many refusals in a row, by the kernel or a sandbox, a call is no longer made."""

HAS_BATCHES: Final = _recvmmsg is not None and _sendmmsg is not None
"""Whether this system has both calls."""


class _Messages:
    """The memory of one batch: for each message its content, address and control messages."""

    def __init__(self, content_size: int, name_size: int) -> None:
        self.contents = bytearray(SIZE * content_size)
        self.names = bytearray(SIZE * NAME_SIZE)
        self.controls = bytearray(SIZE * _CONTROL_SIZE)
        contents, names, controls = (
            ctypes.addressof(ctypes.c_char.from_buffer(each))
            for each in (self.contents, self.names, self.controls)
        )
        self._vectors = (_Vector * SIZE)()
        messages = (_Message * SIZE)()
        vectors = ctypes.addressof(self._vectors)
        for number in range(SIZE):
            vector, header = self._vectors[number], messages[number].header
            vector.base, vector.size = contents + number * content_size, content_size
            header.name, header.name_size = names + number * NAME_SIZE, name_size
            header.vectors, header.vector_count = vectors + number * ctypes.sizeof(_Vector), 1
            header.control, header.control_size = controls + number * _CONTROL_SIZE, _CONTROL_SIZE
        self._messages = messages
        self.address = ctypes.addressof(messages)
        self.headers = memoryview(messages).cast("B")
        self.unused = bytes(self.headers)
        step = _MESSAGE_SIZE
        numbers, words = self.headers.cast("I"), self.headers.cast("N")  # type: ignore[call-overload]
        self.sizes: memoryview[int] = numbers[_Message.size.offset // 4 :: step // 4]
        word = words.itemsize
        self.control_sizes: memoryview[int] = words[_Header.control_size.offset // word :: step // word]
        vectors_words = memoryview(self._vectors).cast("B").cast("N")  # type: ignore[call-overload]
        self.vector_sizes: memoryview[int] = vectors_words[1::2]


class MessageReceiver:
    """
    Receives messages. What one call has received is replaced by the next one.

    :ivar contents: of message `n` from `n * MAX_UDP` on.
    :ivar names: of message `n`, the sender's `sockaddr` from `n * NAME_SIZE` on.
    :ivar sizes: the size of each message.
    """

    def __init__(self) -> None:
        self._messages = _Messages(MAX_UDP, NAME_SIZE)
        self.contents, self.names, self.sizes = (
            self._messages.contents,
            self._messages.names,
            self._messages.sizes,
        )
        self._view = memoryview(self.contents)
        self._refused = 0

    def receive(self, descriptor: int, most: int = SIZE) -> int:
        """
        Receive what waits in a socket, and return how many messages that is: 0 if there are none.

        :param most: messages, at most `SIZE`.
        """
        assert _recvmmsg is not None
        self._messages.headers[:] = self._messages.unused
        if self._refused < _REFUSALS:
            count = _recvmmsg(descriptor, self._messages.address, most, _DONTWAIT, None)
            if count >= 0:
                self._refused = 0
                return count
            if ctypes.get_errno() in _WOULD_BLOCK:
                return 0
        count = self._receive_each(descriptor, most)
        if count and self._refused < _REFUSALS:
            # With whatever error it failed, it was not for want of messages
            self._refused += 1
        return count

    def _receive_each(self, descriptor: int, most: int) -> int:
        assert _recvmsg is not None
        for number in range(most):
            size = _recvmsg(descriptor, self._messages.address + number * _MESSAGE_SIZE, _DONTWAIT)
            if size < 0:
                return number
            self.sizes[number] = size
        return most

    def content(self, number: int) -> bytes:
        """A message."""
        at = number * MAX_UDP
        return bytes(self._view[at : at + self.sizes[number]])

    def name(self, number: int, size: int) -> bytes:
        """
        The sender of a message, as `sockaddr_in` or `sockaddr_in6`.

        :param size: the bytes of the addresses of this family. Behind a shorter one may be the end of a
            longer one from a call before.
        """
        at = number * NAME_SIZE
        return bytes(self.names[at : at + size])

    def control(self, number: int) -> bytes:
        """The control messages of a message."""
        at = number * _CONTROL_SIZE
        return bytes(self._messages.controls[at : at + self._messages.control_sizes[number]])


@cache
def shared_receiver() -> MessageReceiver:
    """The receiver of all sockets: what was read is handled before anything else is read."""
    return MessageReceiver()


class AnswerSender:
    """Sends answers, each to the IPv4 address that sent a message, in one call."""

    def __init__(self) -> None:
        self._messages = _Messages(ANSWER_SIZE, IPV4_NAME_SIZE)
        self._count = 0
        self._lengths = [0] * SIZE
        self._controls: list[bytes | None] = [None] * SIZE

    def add(self, answer: bytes, name: bytes | bytearray, control: bytes) -> None:
        """
        Queue an answer. Call `send` before there are more than `SIZE`.

        :param name: the address, as in `MessageReceiver.names`.
        :param control: the control messages to send it with.
        """
        messages, number, length = self._messages, self._count, len(answer)
        at = number * ANSWER_SIZE
        messages.contents[at : at + length] = answer
        at = number * NAME_SIZE
        messages.names[at : at + NAME_SIZE] = name
        # Nearly always the same as before
        if self._lengths[number] != length:
            messages.vector_sizes[number] = self._lengths[number] = length
        if self._controls[number] is not control:
            self._controls[number] = control
            at = number * _CONTROL_SIZE
            messages.controls[at : at + len(control)] = control
            messages.control_sizes[number] = len(control)
        self._count = number + 1

    def send(self, descriptor: int) -> None:
        """Send what is queued. What the kernel does not take is lost."""
        assert _sendmmsg is not None
        assert _sendmsg is not None
        first = 0
        while first < self._count:
            start = self._messages.address + first * _MESSAGE_SIZE
            sent = _sendmmsg(descriptor, start, self._count - first, _DONTWAIT)
            if sent < 0 and ctypes.get_errno() not in _WOULD_BLOCK:
                # A sandbox has refused the call; or the first answer can't be sent, and can't be now
                _sendmsg(descriptor, start, _DONTWAIT)
            # It stops at an answer that can't be sent, such as one to a forged broadcast address.
            first += max(1, sent)
        self._count = 0


def control_messages(data: bytes) -> list[ControlMessage]:
    """Split control messages."""
    found: list[ControlMessage] = []
    at = 0
    while at + _CONTROL_HEADER.size <= len(data):
        size, level, kind = _CONTROL_HEADER.unpack_from(data, at)
        if size < _CONTROL_HEADER.size:
            break
        found.append((level, kind, data[at + _CONTROL_HEADER.size : at + size]))
        at += -(-size // _ALIGNMENT) * _ALIGNMENT
    return found


def one_control_message(message: ControlMessage) -> bytes:
    """A control message as bytes."""
    level, kind, content = message
    size = _CONTROL_HEADER.size + len(content)
    return (_CONTROL_HEADER.pack(size, level, kind) + content).ljust(
        -(-size // _ALIGNMENT) * _ALIGNMENT, b"\0"
    )


def sender_of(name: bytes, ipv6: bool) -> tuple[str, int]:
    """The host and port in a `sockaddr_in` or `sockaddr_in6`; a link-local host has its zone."""
    if not ipv6:
        port, packed = IPV4_NAME.unpack_from(name)
        return socket.inet_ntop(socket.AF_INET, packed), port
    port, packed = _IPV6.unpack_from(name)
    host = socket.inet_ntop(socket.AF_INET6, packed)
    (scope,) = _SCOPE.unpack_from(name)
    if scope:
        zone = str(scope)
        with suppress(OSError):
            zone = socket.if_indextoname(scope)
        host = f"{host}%{zone}"
    return host, port
