"""What is read on one side and written on the other, without a network."""

from __future__ import annotations

import errno
import fcntl
import json
import os
import shutil
import stat
from pathlib import Path
from random import Random
from tempfile import mkdtemp
from unittest import SkipTest

from twisted.trial.unittest import SynchronousTestCase

from punch.apps.files.codec import decode_have, encode_data, encode_entries, message_type
from punch.apps.files.events import Oddity
from punch.apps.files.messages import BLOCK, PIECE, FailureCode, MessageType, TransferFailed
from punch.apps.files.partial_folder import FREE
from punch.apps.files.source import SkipReason, Source, SourceError, SourceProblem, find_source, text_source
from punch.apps.files.source_reader import SourceReader, check_have
from punch.apps.files.target import Target


def send(source: Source, folder: Path, stop_after: int | None = None) -> tuple[Target, SourceReader]:
    """
    Send `source` into `folder`.

    :param stop_after: end after so many messages with content, as if the connection was lost.
    """
    target = Target(folder, "alice", source.offer)
    have: dict[int, bytearray] = {}
    reader = SourceReader(source, target.hash_name, have)
    try:
        for message in encode_entries(source.entries):
            for answer in target.receive(message):
                if message_type(answer) is MessageType.HAVE:
                    check_have(source, have, *decode_have(answer, len(source.entries)))
        count = 0
        while messages := reader.batch():
            for each in messages:
                target.receive(each)
                count += 1
                if count == stop_after:
                    return target, reader
    finally:
        reader.close()
        target.close()
    return target, reader


class TransferTestCase(SynchronousTestCase):
    def setUp(self) -> None:
        self.root = Path(self.mktemp()).resolve()
        self.source = self.root / "from"
        self.folder = self.root / "to"
        self.source.mkdir(parents=True)
        self.folder.mkdir()

    def file(self, name: str, content: bytes) -> Path:
        path = self.source / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)
        return path

    def find(self, *names: str) -> Source:
        return find_source([str(self.source / name) for name in names])

    @property
    def partial(self) -> Path:
        (path,) = self.folder.glob(".punch-*.part")
        return path


class TextTests(SynchronousTestCase):
    def test_what_is_no_text(self) -> None:
        for text, problem, detail in (
            ("", SourceProblem.EMPTY_TEXT, ""),
            ("x" * 40_000, SourceProblem.LONG_TEXT, "40,000"),
            ("a\udcff", SourceProblem.NOT_UTF8, ""),
        ):
            error = self.assertRaises(SourceError, text_source, text)
            self.assertEqual((error.problem, error.detail), (problem, detail))


class SendTests(TransferTestCase):
    def test_a_folder(self) -> None:
        self.file("d/a", b"hello")
        self.file("d/empty", b"")
        self.file("d/sub/big", Random(1).randbytes(2 * BLOCK + 5))
        self.file("d/sub/zeros", bytes(BLOCK + 3))
        (self.source / "d" / "nothing").mkdir()
        (self.source / "d" / "link").symlink_to("sub/big")
        for path, mode in (("d/a", 0o750), ("d/sub/big", 0o600), ("d/sub", 0o555), ("d", 0o555)):
            (self.source / path).chmod(mode)
        os.utime(self.source / "d/a", ns=(1, 1_600_000_000_123_456_789))
        target, reader = send(self.find("d"), self.folder)
        self.assertEqual(target.finals, [self.folder / "d"])
        self.assertEqual(os.listdir(self.folder), ["d"])
        for path in ("a", "empty", "sub/big", "sub/zeros", "nothing", "sub"):
            sent, received = self.source / "d" / path, self.folder / "d" / path
            self.assertEqual(stat.S_IMODE(sent.stat().st_mode), stat.S_IMODE(received.stat().st_mode), path)
            self.assertEqual(sent.stat().st_mtime_ns, received.stat().st_mtime_ns, path)
            if sent.is_file():
                self.assertEqual(sent.read_bytes(), received.read_bytes())
        self.assertEqual(os.readlink(self.folder / "d/link"), "sub/big")
        self.assertEqual(stat.S_IMODE((self.folder / "d").stat().st_mode), 0o555)
        self.assertEqual(reader.position, 3 * BLOCK + 13)

    def test_names_that_are_taken_get_a_number(self) -> None:
        self.file("a.tar.gz", b"new")
        (self.source / "d").mkdir()
        for name in ("a.tar.gz", "a.tar (1).gz"):
            (self.folder / name).write_bytes(b"old")
        (self.folder / "d").symlink_to(self.root / "elsewhere")
        target, _ = send(self.find("a.tar.gz", "d"), self.folder)
        self.assertEqual([path.name for path in target.finals], ["a.tar (2).gz", "d (1)"])
        self.assertEqual((self.folder / "a.tar.gz").read_bytes(), b"old")
        self.assertFalse((self.root / "elsewhere").exists())

    def test_a_long_name_that_is_taken(self) -> None:
        self.file("é" * 127, b"new")
        (self.folder / ("é" * 127)).write_bytes(b"old")
        target, _ = send(self.find("é" * 127), self.folder)
        self.assertEqual(target.finals[0].read_bytes(), b"new")

    def test_names_that_act_on_a_terminal(self) -> None:
        self.file("d/a\x1b[2J\u202eb", b"one")
        self.file("d/a_[2J_b", b"two")
        self.file(os.fsdecode(b"d/\xff"), b"three")
        self.file("d/COM1:", b"four")
        self.file("d/pho\u200bto", b"five")
        target, _ = send(self.find("d"), self.folder)
        found = {path.name: path.read_bytes() for path in (self.folder / "d").iterdir()}
        self.assertEqual(sorted(found.values()), [b"five", b"four", b"one", b"three", b"two"])
        self.assertFalse([name for name in found if "\x1b" in name or "\u202e" in name])
        self.assertEqual(found[os.fsdecode(b"\xff")], b"three")
        self.assertEqual(found["pho_to"], b"five")
        self.assertEqual(target.odd_names.counts, {Oddity.CONTROL: 1, Oddity.WINDOWS: 1, Oddity.INVISIBLE: 1})

    def test_a_pipe(self) -> None:
        for content in (b"", b"hello", Random(1).randbytes(BLOCK + 70_000)):
            reading, writing = os.pipe()
            if os.fork() == 0:  # pragma: no cover - another process
                os.close(reading)
                with os.fdopen(writing, "wb") as pipe:
                    pipe.write(content)
                os._exit(0)
            os.close(writing)
            source = find_source(["-"], reading, "text")
            self.assertFalse(source.resumable)
            self.assertIsNone(source.offer.size)
            target, _ = send(source, self.folder)
            os.close(reading)
            self.assertEqual(target.finals[0].read_bytes(), content)
            os.wait()

    def test_what_cannot_be_sent(self) -> None:
        os.mkfifo(self.source / "pipe")
        self.file("a", b"")
        for names, problem, detail in (
            (["missing"], SourceProblem.NO_STATUS, "No such file or directory"),
            (["pipe"], SourceProblem.OTHER_KIND, ""),
            (["/dev/null"], SourceProblem.OTHER_KIND, ""),
            (["a", "../from/a"], SourceProblem.SAME_NAME, ""),
            ([], SourceProblem.NUMBER_OF_PATHS, ""),
            (["/"], SourceProblem.NO_NAME, ""),
            (["a\0b"], SourceProblem.NO_FILE_NAME, ""),
        ):
            error = self.assertRaises(SourceError, self.find, *names)
            self.assertEqual((error.problem, error.detail, error.unreadable), (problem, detail, False))

    def test_what_a_pipe_has_is_read_at_once(self) -> None:
        reading, writing = os.pipe()
        os.write(writing, b"a line")
        reader = SourceReader(find_source(["-"], reading), "sha256", {})
        self.assertEqual(reader.batch(), [encode_data(0, 0, b"a line")])
        self.assertEqual((reader.position, reader.sent, reader.files), (6, 6, 0))
        # With nothing more to read, it does not wait for ever.
        reader.stop()
        self.assertEqual(reader.batch(), [])
        reader.close()
        os.close(writing)
        os.close(reading)

    def test_a_reader_that_is_stopped(self) -> None:
        self.file("a", bytes(2 * BLOCK))
        reader = SourceReader(self.find("a"), "sha256", {})
        reader.stop()
        self.assertEqual(reader.batch(), [])
        self.assertEqual(reader.position, 0)

    def test_what_is_skipped_in_a_folder(self) -> None:
        (self.source / "d").mkdir()
        os.mkfifo(self.source / "d" / "pipe")
        (self.source / "d" / "link").symlink_to("../../to")
        source = self.find("d")
        self.assertEqual(
            [(path.name, why) for path, why in source.skipped],
            [("link", SkipReason.LINK_OUTSIDE), ("pipe", SkipReason.OTHER_KIND)],
        )
        self.assertEqual(len(source.entries), 1)
        send(source, self.folder)

    def test_names_that_differ_little(self) -> None:
        """In case alone, or in how a letter is composed: where they are two names, they stay two files."""
        names = ("d/a", "d/A", "d/\u00e9", "d/e\u0301")
        for name in names:
            self.file(name, name.encode())
        if len(os.listdir(self.source / "d")) < len(names):
            raise SkipTest("the file system takes some of these for one name")
        send(self.find("d"), self.folder)
        for name in names:
            self.assertEqual((self.folder / name).read_bytes(), name.encode())

    def test_the_target_is_a_link(self) -> None:
        """To a folder: what is received is there. The name of what is received, which is one, is taken."""
        (self.root / "elsewhere").mkdir()
        (self.root / "link").symlink_to("elsewhere")
        (self.root / "elsewhere" / "a").symlink_to(self.root / "secret")
        self.file("a", b"hello")
        send(self.find("a"), self.root / "link")
        self.assertEqual((self.root / "elsewhere" / "a (1)").read_bytes(), b"hello")
        self.assertFalse((self.root / "secret").exists())

    def test_the_current_folder_has_a_name(self) -> None:
        self.file("d/a", b"")
        self.assertEqual(find_source([f"{self.source}/d/."]).items[0].name, "d")
        self.assertEqual(find_source([f"{self.source}/d/.."]).items[0].name, "from")


class PlainDiskTests(TransferTestCase):
    """A file system, as of a camera's card or of a network, that takes files and nothing else."""

    def refuse(self, code: int) -> None:
        """From now on, what is optional is refused."""

        def refused(*_: object, **__: object) -> None:
            raise OSError(code, os.strerror(code))

        for module, name in ((os, "chmod"), (os, "utime"), (os, "symlink"), (fcntl, "flock")):
            self.patch(module, name, refused)

    def test_what_it_does_not_take_is_left_out(self) -> None:
        self.file("d/a", b"hello")
        (self.source / "d" / "link").symlink_to("a")
        source = self.find("d")
        for code in (errno.EPERM, errno.EOPNOTSUPP, errno.ENOSYS, errno.EBADF, errno.EINVAL):
            self.refuse(code)
            target, _ = send(source, self.folder)
            self.assertEqual(target.left_out, ["d/link"])
            (final,) = target.finals
            self.assertEqual(os.listdir(final), ["a"])
            self.assertEqual((final / "a").read_bytes(), b"hello")

    def test_a_full_disk_is_no_such(self) -> None:
        self.file("d/a", b"hello")
        (self.source / "d" / "link").symlink_to("a")
        self.refuse(errno.ENOSPC)
        with self.assertRaises(TransferFailed) as caught:
            send(self.find("d"), self.folder)
        self.assertIs(caught.exception.code, FailureCode.NO_SPACE)

    def test_a_disk_that_does_not_say_how_large_it_is(self) -> None:
        there = os.statvfs(self.folder)
        self.patch(os, "statvfs", lambda _: os.statvfs_result((*there[:2], 0, 0, 0, *there[5:])))
        self.file("a", b"hello")
        target, _ = send(self.find("a"), self.folder)
        self.assertEqual(target.finals[0].read_bytes(), b"hello")


def has_holes(path: Path, size: int) -> bool:
    """Whether a file of this size with data at its end takes less space, and says where its hole ends."""
    with open(path, "wb") as file:
        file.seek(size)
        file.write(b"data")
    with open(path, "rb") as file:
        begin = os.lseek(file.fileno(), 0, os.SEEK_DATA)
    return begin > size // 2 and path.stat().st_blocks * 512 < size // 2


class HoleCase(TransferTestCase):
    """A file with holes, and folders for it."""

    SIZE = 64 * BLOCK + 100

    def setUp(self) -> None:
        super().setUp()
        if not has_holes(self.root / "probe", self.SIZE):
            raise SkipTest("the file system of the temporary directory does not tell of holes")
        self.path = self.file("image", b"")
        os.truncate(self.path, self.SIZE)
        # At the end of one piece and the beginning of the next, and in another one
        for offset in (5 * PIECE - 2, 40 * BLOCK):
            self.put(offset, b"data")

    def put(self, offset: int, data: bytes) -> None:
        with open(self.path, "r+b") as file:
            file.seek(offset)
            file.write(data)

    def is_there(self, most: int) -> None:
        """It arrived, and takes at most so many bytes."""
        final = self.folder / "image"
        self.assertEqual(final.read_bytes(), self.path.read_bytes())
        self.assertLessEqual(final.stat().st_blocks * 512, most)


class HoleTests(HoleCase):
    """Files most of which takes no space on the disk, such as images of disks."""

    def test_a_disk_that_they_would_fill(self) -> None:
        """What is needed is free; a file without holes needs more."""
        there = os.statvfs(self.folder)
        free = (FREE + 2 * BLOCK) // there.f_frsize
        self.patch(os, "statvfs", lambda _: os.statvfs_result((*there[:3], free, free, *there[5:])))
        send(self.find("image"), self.folder)
        self.file("full", Random(1).randbytes(3 * BLOCK))
        with self.assertRaises(TransferFailed) as caught:
            send(self.find("full"), self.folder)
        self.assertEqual(caught.exception.code, FailureCode.NO_SPACE)

    def test_what_is_no_hole(self) -> None:
        """Files of zeros that are stored, and small ones, which are not looked at."""
        for name, size in (("zeros", 4 * BLOCK), ("small", 100)):
            self.file(name, bytes(size))
            self.assertEqual(self.find(name).offer.stored, None)


class TimeTests(TransferTestCase):
    def test_a_time_that_an_entry_cannot_hold(self) -> None:
        path = self.file("a", b"x")
        os.utime(path, (2**34, 2**34))  # the year 2514
        target, _ = send(self.find("a"), self.folder)
        self.assertEqual(target.finals[0].read_bytes(), b"x")


class ChangeTests(TransferTestCase):
    """A source that changes while it is sent."""

    def fails(self, source: Source, detail: str) -> None:
        with self.assertRaises(TransferFailed) as caught:
            send(source, self.folder)
        self.assertIs(caught.exception.code, FailureCode.SOURCE_CHANGED)
        self.assertIn(detail, caught.exception.detail)
        self.assertEqual([path.name for path in self.folder.iterdir()], [self.partial.name])

    def test_each_change(self) -> None:
        path = self.file("a", b"hello")
        source = self.find("a")
        path.write_bytes(b"hello, world")
        self.fails(source, "changed")
        path.write_bytes(b"h")
        self.fails(source, "changed")
        path.unlink()
        self.fails(source, "no longer there")
        path.mkdir()
        self.fails(source, "no longer a file")
        path.rmdir()
        os.mkfifo(path)
        self.fails(source, "no longer a file")

    def test_a_file_that_becomes_a_link(self) -> None:
        path = self.file("a", b"hello")
        source = self.find("a")
        path.unlink()
        path.symlink_to("/etc/passwd")
        with self.assertRaises(TransferFailed) as caught:
            send(source, self.folder)
        self.assertIs(caught.exception.code, FailureCode.SOURCE_UNREADABLE)


class ResumeTests(TransferTestCase):
    def setUp(self) -> None:
        super().setUp()
        self.content = Random(1).randbytes(2 * BLOCK + 100)
        self.path = self.file("d/big", self.content)
        self.file("d/small", b"x")

    def test_only_what_is_missing_is_sent(self) -> None:
        send(self.find("d"), self.folder, stop_after=5)  # a block and a piece
        target, reader = send(self.find("d"), self.folder)
        self.assertEqual((self.folder / "d/big").read_bytes(), self.content)
        self.assertEqual(reader.sent, BLOCK + 101)
        self.assertEqual(target.position, 2 * BLOCK + 101)
        self.assertEqual(os.listdir(self.folder), ["d"])

    def test_blocks_that_differ_are_sent_again(self) -> None:
        send(self.find("d"), self.folder, stop_after=5)
        changed = bytearray(self.content)
        changed[5] ^= 1
        self.path.write_bytes(changed)
        _, reader = send(self.find("d"), self.folder)
        self.assertEqual((self.folder / "d/big").read_bytes(), changed)
        self.assertEqual(reader.sent, 2 * BLOCK + 101)

    def test_a_source_that_has_become_shorter(self) -> None:
        send(self.find("d"), self.folder, stop_after=8)
        self.path.write_bytes(self.content[: BLOCK + 5])
        _, reader = send(self.find("d"), self.folder)
        self.assertEqual((self.folder / "d/big").read_bytes(), self.content[: BLOCK + 5])
        self.assertEqual(reader.sent, 1)  # The other block is there, as a part of a longer one.

    def test_a_file_that_was_removed_does_not_arrive(self) -> None:
        send(self.find("d"), self.folder, stop_after=10)
        self.path.unlink()
        send(self.find("d"), self.folder)
        self.assertEqual(os.listdir(self.folder / "d"), ["small"])

    def test_a_file_that_became_a_folder_and_the_reverse(self) -> None:
        send(self.find("d"), self.folder, stop_after=10)
        self.path.unlink()
        self.file("d/big/inside", b"y")
        send(self.find("d"), self.folder, stop_after=1)
        (self.source / "d/big/inside").unlink()
        self.path.rmdir()
        self.path.write_bytes(b"z")
        send(self.find("d"), self.folder)
        self.assertEqual((self.folder / "d/big").read_bytes(), b"z")

    def test_links_in_what_is_there_are_not_written_through(self) -> None:
        send(self.find("d"), self.folder, stop_after=1)
        victim = self.root / "victim"
        victim.write_bytes(b"mine")
        (self.partial / "d/big").unlink()
        (self.partial / "d/big").symlink_to(victim)
        send(self.find("d"), self.folder)
        self.assertEqual(victim.read_bytes(), b"mine")
        self.assertEqual((self.folder / "d/big").read_bytes(), self.content)

    def test_the_same_transfer_twice_at_once(self) -> None:
        source = self.find("d")
        first = Target(self.folder, "alice", source.offer)
        with self.assertRaises(TransferFailed) as caught:
            Target(self.folder, "alice", source.offer)
        self.assertIs(caught.exception.code, FailureCode.IN_PROGRESS)
        other = Target(self.folder, "bob", source.offer)
        first.close()
        other.close()
        self.assertEqual(os.listdir(self.folder), [])


class Killed(BaseException):
    """As a kill of the process: nothing is tidied up."""


class MovedTests(TransferTestCase):
    """An interruption between the moves of several items."""

    def setUp(self) -> None:
        super().setUp()
        self.file("a/in", b"first")
        (self.source / "a" / "link").symlink_to("in")
        self.file("b", b"second")
        self.file("c", b"third")

    def kill_at(self, name: str) -> None:
        """Receive, and be killed right before the item of this name is moved, with the lock given back."""
        replace = os.replace

        def killing(source: Path, final: Path) -> None:
            if final.name == name:
                final.unlink()
                raise Killed
            replace(source, final)

        self.patch(os, "replace", killing)
        with self.assertRaises(Killed):
            send(self.find("a", "b", "c"), self.folder)
        self.patch(os, "replace", replace)

    def names(self) -> list[str]:
        return sorted(os.listdir(self.folder))

    def test_what_was_moved_stays_where_it_is(self) -> None:
        """It is not sent again, and has no second name."""
        self.kill_at("c")
        self.assertEqual([name for name in self.names() if name[0] != "."], ["a", "b"])
        target, reader = send(self.find("a", "b", "c"), self.folder)
        self.assertEqual(target.finals, [self.folder / name for name in "abc"])
        self.assertEqual(self.names(), ["a", "b", "c"])
        self.assertEqual((self.folder / "c").read_bytes(), b"third")
        self.assertEqual(reader.sent, 0)
        send(self.find("a", "b", "c"), self.folder)
        self.assertEqual(self.names(), ["a", "a (1)", "b", "b (1)", "c", "c (1)"])

    def test_what_the_user_has_changed_since(self) -> None:
        """It stays as it is, and what is sent gets another name; so does what was moved away."""
        self.kill_at("c")
        (self.folder / "a" / "in").write_bytes(b"mine")
        (self.folder / "b").rename(self.folder / "mine")
        target, _ = send(self.find("a", "b", "c"), self.folder)
        self.assertEqual(target.finals, [self.folder / name for name in ("a (1)", "b", "c")])
        self.assertEqual((self.folder / "a" / "in").read_bytes(), b"mine")
        self.assertEqual((self.folder / "a (1)" / "in").read_bytes(), b"first")
        self.assertEqual(self.names(), ["a", "a (1)", "b", "c", "mine"])

    def test_a_change_that_only_the_digest_shows(self) -> None:
        """Nothing is written over: the attempt fails, and the next one takes another name."""
        self.kill_at("c")
        path = self.folder / "b"
        status = path.stat()
        path.write_bytes(b"SECOND")
        os.utime(path, ns=(status.st_atime_ns, status.st_mtime_ns))
        with self.assertRaises(TransferFailed) as caught:
            send(self.find("a", "b", "c"), self.folder)
        self.assertIs(caught.exception.code, FailureCode.SOURCE_CHANGED)
        self.assertEqual(path.read_bytes(), b"SECOND")
        target, _ = send(self.find("a", "b", "c"), self.folder)
        self.assertEqual(target.finals[1], self.folder / "b (1)")
        self.assertEqual(path.read_bytes(), b"SECOND")

    def test_a_record_that_says_anything(self) -> None:
        """What is no record is none, and a name in it leads nowhere else."""
        target = Target(self.folder, "alice", self.find("a", "b", "c").offer)
        (partial,) = self.folder.glob(".punch-*.part")
        target.close()
        victim = self.file("victim", b"mine")
        status = victim.stat()
        for name, device in ((f"../from/{victim.name}", status.st_dev), ("..", 1), (5, 1), ("victim", "x")):
            record = {"item": b"b".hex(), "final": name, "device": device, "inode": status.st_ino}
            lines = [b"", b"[]", b"\xff", b"{", json.dumps(record).encode(), b"cut off"]
            partial.with_suffix(".moved").write_bytes(b"\n".join(lines))
            shutil.rmtree(self.folder / "b", ignore_errors=True)
            target, _ = send(self.find("a", "b", "c"), self.folder)
            self.assertNotIn(victim, target.finals)
        self.assertEqual(victim.read_bytes(), b"mine")


class OtherUserTests(SynchronousTestCase):
    """What only the permissions of a user without privileges show."""

    def setUp(self) -> None:
        self.root = Path(mkdtemp()).resolve()
        self.addCleanup(shutil.rmtree, self.root)
        (self.root / "from").mkdir()
        (self.root / "to").mkdir()
        if os.geteuid() == 0:
            for path in (self.root, *self.root.iterdir()):
                os.chown(path, 65534, 65534)
            os.seteuid(65534)
            self.addCleanup(os.seteuid, 0)

    def test_an_attempt_that_ended_while_permissions_were_set(self) -> None:
        """What is left of it can be written again."""
        folder = self.root / "from" / "d"
        (folder / "sub").mkdir(parents=True)
        (folder / "sub" / "a").write_bytes(b"hello")
        (folder / "sub" / "link").symlink_to("a")
        source = find_source([str(folder)])
        send(source, self.root / "to", stop_after=1)
        (left,) = (self.root / "to").iterdir()
        (left / "d" / "sub" / "link").symlink_to("a")
        (left / "d" / "sub" / "a").chmod(0o400)
        (left / "d" / "sub").chmod(0o555)
        (left / "d").chmod(0o000)
        target, reader = send(source, self.root / "to")
        self.assertEqual(target.finals, [self.root / "to" / "d"])
        self.assertEqual(reader.sent, 0)
        self.assertEqual((self.root / "to/d/sub/link").read_bytes(), b"hello")

    def test_the_folder_of_another_user(self) -> None:
        """Somebody else who may write to the target folder must not have a hand in what is received."""
        if os.geteuid() == os.getuid():
            raise SkipTest("only root can make files of another user")
        (self.root / "from" / "a").write_bytes(b"hello")
        os.seteuid(0)
        (self.root / "to").chmod(0o1777)
        os.chown(self.root / "to", 0, 0)
        os.seteuid(65534)
        source = find_source([str(self.root / "from" / "a")])
        send(source, self.root / "to", stop_after=1)
        (left,) = (self.root / "to").iterdir()
        os.seteuid(0)
        os.chown(left, 65533, 65533)
        left.chmod(0o777)
        os.seteuid(65534)
        with self.assertRaises(TransferFailed) as caught:
            Target(self.root / "to", "alice", source.offer)
        self.assertIs(caught.exception.code, FailureCode.DISK)
        self.assertIn("another user", caught.exception.detail)

    def test_what_cannot_be_read(self) -> None:
        folder = self.root / "from" / "d"
        (folder / "sub").mkdir(parents=True)
        (folder / "sub" / "a").write_bytes(b"hello")
        for mode in (0o444, 0o000):
            (folder / "sub").chmod(mode)
            error = self.assertRaises(SourceError, find_source, [str(folder)])
            self.assertTrue(error.unreadable)
        (folder / "sub").chmod(0o700)
