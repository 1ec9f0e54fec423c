"""One writer a run: a lock file that names the process which holds it."""

from __future__ import annotations

import os
import sys
from pathlib import Path

from ppvae.errors import RunError

LOCK = ".lock"


class Lock:
    """A lock that the system takes back when its process ends, however it ends; without fcntl there is none.

    A POSIX lock and no flock: a forked data worker that outlives its parent must not go on holding it. It
    never locks its own process out, so the runs of one process share one lock, and one handle: closing any
    other handle of the file would unlock it.
    """

    _held: dict[str, Lock] = {}  # noqa: RUF012  by folder, shared on purpose

    def __init__(self, folder: Path):
        self.pid, self.key, self.users = os.getpid(), str(folder.resolve()), 1
        try:
            self.handle = os.open(folder / LOCK, os.O_RDWR | os.O_CREAT, 0o644)
        except OSError as error:
            raise RunError(f"{folder} cannot be written ({error.strerror}): make it writable") from error
        try:
            self._take(folder)
        except BaseException:
            os.close(self.handle)
            raise
        self._held[self.key] = self

    @classmethod
    def take(cls, folder: Path) -> Lock:
        own = cls._held.get(str(folder.resolve()))
        if own is None or own.pid != os.getpid():  # a forked child does not hold its parent's locks
            return cls(folder)
        own.users += 1
        return own

    def _take(self, folder: Path) -> None:
        if sys.platform == "win32":
            return
        import fcntl

        try:
            fcntl.lockf(self.handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except (BlockingIOError, PermissionError) as error:
            holder = os.read(self.handle, 32).decode(errors="replace").strip() or "unknown"
            raise RunError(f"{folder} is in use by process {holder}: wait for it, or stop it") from error
        except OSError as error:
            raise RunError(f"{folder} cannot be locked ({error.strerror}): use a local disk") from error
        os.ftruncate(self.handle, 0)
        os.write(self.handle, f"{self.pid}\n".encode())

    def release(self) -> None:
        if self.pid != os.getpid():
            return
        self.users -= 1
        if not self.users:
            self._held.pop(self.key, None)
            os.ftruncate(self.handle, 0)
            os.close(self.handle)
