"""A run in an object store has one owner: whoever holds its lease, an object that is renewed while the work lasts.

The system's lock of a local run folder is let go by the kernel; nothing does that in a bucket. So a lease says when it
was last renewed, by the store's own clock, and one that was not for two minutes may be taken: four renewals missed, and
longer than a machine that is only slow would be silent. It is taken by creating the object of the next number, which
one process alone can do, and it is lost as soon as there is a higher number.
"""

import contextlib
import datetime
import json
import os
import secrets
import socket
import sys
import threading
from pathlib import Path
from typing import Any

from gpz_jax.errors import UserError
from gpz_jax.json_files import parse_json
from gpz_jax.presentation import printable
from gpz_jax.runs.manifest import numbers_in
from gpz_jax.runs.object_store import Store, StoreError

OWNER = "gpz-owner"

#: Seconds between renewals, and after which a lease that was not renewed may be taken.
RENEWED, STALE = 30.0, 120.0


class Lease:
    """Held from its making until :meth:`release`; renewed meanwhile by a thread of its own.

    Args:
      store: of the run.

    Raises:
      UserError: another process holds it; the store cannot be written to.
    """

    def __init__(self, store: Store):
        self._store, self.token = store, secrets.token_hex(16)
        self._number, self._over = _take(store, self.token), threading.Event()
        self._thread = threading.Thread(target=self._renew, daemon=True)
        self._thread.start()

    def _renew(self) -> None:
        while not self._over.wait(RENEWED):
            with contextlib.suppress(UserError):  # the next save says what is wrong
                self._store.write(_name(self._number), _signed(self.token))

    def check(self) -> None:
        """Raise :class:`UserError` once another process has taken the lease."""
        others = [number for number in numbers_in(self._store, OWNER) if number > self._number]
        if others:
            raise UserError(
                f"{self._store.url} was taken over by another process{_who(_read(self._store, max(others)))}, which "
                f"had heard nothing of this one for {STALE:.0f} s; this one ends"
            )

    def release(self) -> None:
        """Let another process have it at once."""
        self._over.set()
        self._thread.join(5.0)  # a renewal under way must not come after
        with contextlib.suppress(StoreError):  # then it is free in two minutes
            self._store.write(_name(self._number), json.dumps({"released": self.token}).encode())


def _take(store: Store, token: str) -> int:
    numbers = numbers_in(store, OWNER)
    last = max(numbers, default=0)
    said = _read(store, last) if last else {"released": ""}
    if "released" not in said and not _is_dead(said):
        silent = _silent_for(store, last)
        if silent < STALE:
            raise UserError(
                f"another process is at work in {store.url}{_who(said)}; wait for it, or stop it (if it was killed, "
                f"{store.url} is free {STALE - silent:.0f} s from now)"
            )
    if not store.create(_name(last + 1), _signed(token)) or max(numbers_in(store, OWNER)) > last + 1:
        raise UserError(f"another process has just begun to work in {store.url}; wait for it, or stop it")
    store.remove([_name(number) for number in numbers])
    return last + 1


def _name(number: int) -> str:
    return f"{OWNER}/{number:08d}.json"


def _signed(token: str) -> bytes:
    since = datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds")
    command = " ".join([Path(sys.argv[0]).name, *sys.argv[1:]])[:200] if sys.argv else ""
    about = {"token": token, "host": socket.gethostname(), "pid": os.getpid(), "machine": _machine()}
    return json.dumps({**about, "command": command, "renewed": since}).encode()


def _read(store: Store, number: int) -> dict[str, Any]:
    """What a lease says; nothing of one that cannot be read, which is held all the same."""
    data = store.read(_name(number))
    if data is None:  # let go of, and taken away, a moment ago
        return {"released": ""}
    with contextlib.suppress(UserError):
        found = parse_json(data[: 2**16], "the lease")
        if isinstance(found, dict):
            return found
    return {}


def _machine() -> str:
    """Names this start of this system, and the numbering of processes in it; empty where it says neither."""
    with contextlib.suppress(OSError):
        started = Path("/proc/sys/kernel/random/boot_id").read_text(encoding="ascii").strip()
        return f"{started} {os.readlink('/proc/self/ns/pid')}"
    return ""


def _is_dead(said: dict[str, Any]) -> bool:
    """Whether a lease is of a process of this very machine that is gone."""
    pid = said.get("pid")
    if not _machine() or said.get("machine") != _machine() or type(pid) is not int or not 0 < pid < 2**31:
        return False
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return True
    except OSError:
        return False
    return False


def _silent_for(store: Store, number: int) -> float:
    """Seconds since a lease was renewed, by the store's clock alone."""
    now = f"{OWNER}/{secrets.token_hex(8)}.now"
    store.write(now, b"")
    found = store.names(OWNER)
    store.remove([now])
    ours, theirs = found.get(now), found.get(_name(number))
    if ours is None or ours.written is None or theirs is None or theirs.written is None:
        return 0.0
    return max(0.0, (ours.written - theirs.written).total_seconds())


def _who(said: dict[str, Any]) -> str:
    with contextlib.suppress(KeyError, ValueError, TypeError):
        host, since = printable(str(said["host"]))[:60], printable(str(said["renewed"]))[:25]
        return f" (process {int(said['pid'])} on {host}, last heard of {since})"
    return ""
