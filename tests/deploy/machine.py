"""
A whole Debian: installed by debootstrap, with systemd as its first process, in namespaces of its own.

It has what a server has (units, users, a firewall), and no kernel of its own.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import time
from collections.abc import Sequence
from pathlib import Path

from tests.netns import Host

INCLUDE = ("systemd", "systemd-sysv", "dbus", "ca-certificates", "iproute2", "procps", "python3")
AUTHORITIES = Path("/etc/ssl/certs/ca-certificates.crt")

BOOT = """
set -e
root=$1
mount --make-rprivate /
mount --bind "$root" "$root"
mount -t proc proc "$root/proc"
mount -t sysfs -o ro sysfs "$root/sys"
mount -t cgroup2 none "$root/sys/fs/cgroup"
mount -t tmpfs -o mode=755 tmpfs "$root/dev"
for device in null zero full random urandom tty fuse; do
    [ -e "/dev/$device" ] || continue
    touch "$root/dev/$device"
    mount --bind "/dev/$device" "$root/dev/$device"
done
mkdir "$root/dev/pts" "$root/dev/shm" "$root/dev/net"
mount -t devpts -o newinstance,ptmxmode=0666,mode=620 devpts "$root/dev/pts"
ln -s pts/ptmx "$root/dev/ptmx"
ln -s /proc/self/fd "$root/dev/fd"
mount -t tmpfs tmpfs "$root/dev/shm"
mount -t tmpfs -o mode=755 tmpfs "$root/run"
cd "$root"
pivot_root . mnt
umount -l /mnt
# As systemd-nspawn does: systemd hands credentials to units by a mount.
mount --make-rshared /
exec env -i container=namespaces PATH=/usr/sbin:/usr/bin:/sbin:/bin /sbin/init
"""


def install(directory: Path, suite: str = "bookworm") -> None:
    """Install a small Debian there, if there is none yet. Takes minutes."""
    if not (directory / "etc" / "debian_version").exists():
        subprocess.run(
            ["debootstrap", "--variant=minbase", f"--include={','.join(INCLUDE)}", suite, str(directory)],
            check=True,
            stdout=subprocess.DEVNULL,
        )
        # Whom this machine trusts, it trusts, too.
        shutil.copy(AUTHORITIES, directory / AUTHORITIES.relative_to("/"))


class Machine:
    """
    A copy of an installed Debian that has booted.

    :ivar root: the directory that it sees as `/`.
    """

    def __init__(self, root: Path, installed: Path, host: Host) -> None:
        """:param host: the network namespace that it has."""
        subprocess.run(["cp", "-a", "--reflink=auto", str(installed), str(root)], check=True)
        shutil.copy("/etc/resolv.conf", root / "etc" / "resolv.conf")
        (root / "etc" / "apt" / "apt.conf.d" / "90yes").write_text('APT::Get::Assume-Yes "true";\n')
        self.root = root
        self._boot = subprocess.Popen(
            [
                *host.prefix,
                *("unshare", "--mount", "--pid", "--uts", "--ipc", "--cgroup", "--fork", "--kill-child"),
                *("sh", "-c", BOOT, "boot", str(root)),
            ],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
        )
        self._pid = self._first_process()
        deadline = time.monotonic() + 60.0
        while self.run("systemctl is-system-running", check=False).stdout.strip() not in (
            "running",
            "degraded",
        ):
            assert time.monotonic() < deadline, self.run("systemctl list-jobs", check=False).stdout
            time.sleep(0.2)

    def _first_process(self) -> str:
        deadline = time.monotonic() + 20.0
        while True:
            assert self._boot.poll() is None
            found = subprocess.run(
                ["pgrep", "-P", str(self._boot.pid)], capture_output=True, text=True, check=False
            ).stdout.split()
            if found and Path(f"/proc/{found[0]}/comm").read_text() == "systemd\n":
                return found[0]
            assert time.monotonic() < deadline
            time.sleep(0.1)

    def command(self, *, outside: bool = False, environment: Sequence[str] = ()) -> list[str]:
        """Put before a command's words, this runs it there as root."""
        namespaces = ("-m", "-u", "-i", "-p", "-C", *(() if outside else ("-n",)))
        pip = [f"{name}={os.environ[name]}" for name in ("PIP_CERT", "PIP_INDEX_URL") if name in os.environ]
        return [
            *("nsenter", "-t", self._pid, *namespaces, "-r", "-w", "--", "env", "-i"),
            *(
                "PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin",
                "HOME=/root",
                "LANG=C.UTF-8",
            ),
            *("DEBIAN_FRONTEND=noninteractive", *pip, *environment),
        ]

    def run(
        self, script: str, *, outside: bool = False, check: bool = True, timeout: float = 600.0
    ) -> subprocess.CompletedProcess[str]:
        """
        Run shell commands there, as root, until one fails; each begins in the directory where the last ended.

        :param outside: with the network of this machine, for what has to be fetched.
        """
        kept = (
            "cd \"$(cat /root/.directory 2>/dev/null || echo /root)\"\ntrap 'pwd > /root/.directory' EXIT\n"
        )
        done = subprocess.run(
            [*self.command(outside=outside), "bash", "-eu", "-c", kept + script],
            capture_output=True,
            text=True,
            timeout=timeout,
            check=False,
            stdin=subprocess.DEVNULL,
        )
        if check:
            assert done.returncode == 0, f"{script}\n{done.stdout[-4000:]}\n{done.stderr[-4000:]}"
        return done

    def close(self) -> None:
        """End everything that runs there."""
        subprocess.run(["kill", "-9", self._pid], check=False)
        self._boot.wait(20)
