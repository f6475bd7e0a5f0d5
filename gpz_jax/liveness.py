"""Processes that work together notice at once when one of them is gone, and end with one line each.

jax notices by a heartbeat, after half a minute, and then ends the process with a dozen lines of C++; a collective in
which others take part may never end. So every process holds a connection with process 0 on which nothing is said: the
system closes it when the process at the other end ends, however it ends, and keeps asking a machine that answers no
more.
"""

import contextlib
import os
import re
import selectors
import socket
import sys
import threading
import time
from collections.abc import Callable
from typing import Any

from gpz_jax import last_words

#: Seconds after which a machine that answers nothing counts as gone: idle, then so many questions so far apart.
_IDLE, _BETWEEN, _QUESTIONS = 10, 5, 4

#: Seconds that process 0 waits for the others when all end.
_PARTING = 60

#: What is said before a connection is closed in good order.
_BYE = b"."

_watched: list["_Watch"] = []  # the connections of this process; a command holds them from start to end


class _Watch:
    """Connections to be watched, by what to call the process at the other end."""

    def __init__(self, peers: dict[str, socket.socket], leads: bool, leave: Callable[[], None]):
        self.peers, self.over, self.alone = peers, threading.Event(), threading.Event()
        self._leads, self._leave = leads, leave
        threading.Thread(target=self._run, daemon=True).start()

    def _run(self) -> None:
        with selectors.DefaultSelector() as selector:
            for name, peer in self.peers.items():
                selector.register(peer, selectors.EVENT_READ, name)
            while selector.get_map():
                for key, _ in selector.select():
                    if not self._is_there(key.fileobj):
                        _end(key.data, self.over)
                    selector.unregister(key.fileobj)
        self.alone.set()

    @staticmethod
    def _is_there(peer: Any) -> bool:
        try:
            return peer.recv(1) == _BYE
        except OSError:
            return False

    def part(self) -> None:
        # Process 0 last: what jax has the processes meet at is in it.
        self.over.set()
        if self._leads:
            self.alone.wait(_PARTING)
        self._leave()
        for peer in self.peers.values():
            with contextlib.suppress(OSError):
                peer.sendall(_BYE)


def watch(
    number: int,
    count: int,
    told: Callable[[Any], Any],
    *,
    leave: Callable[[], None] = lambda: None,
    reached_at: str | None = None,
) -> None:
    """Watch the other processes for the rest of this one, until :func:`part`.

    Args:
      number: of this process.
      count: how many there are.
      told: gives every process what process 0 passes to it, a value of JSON.
      leave: called on parting.
      reached_at: name or address by which the others reach the machine of process 0; by default what it calls itself.
    """
    if number == 0:
        server = socket.create_server(("", 0), backlog=count)
        told([reached_at or socket.gethostname(), server.getsockname()[1]])
        server.settimeout(30)
        peers = {}
        with server:
            while len(peers) < count - 1:
                peer, _ = server.accept()
                peer.settimeout(30)
                name = peer.recv(200).decode("utf-8", "replace").strip()
                if name.startswith("process "):  # else somebody who tries ports
                    peers[name] = peer
        for peer in peers.values():
            peer.sendall(b"+")
    else:
        host, port = told(None)
        peer = socket.create_connection((host, port), timeout=30)
        peer.sendall(f"process {number} on {socket.gethostname()[:60]}\n".encode())
        if peer.recv(1) != b"+":
            raise ConnectionError("process 0 is gone")
        peers = {f"process 0 on {str(host)[:60]}": peer}
    for peer in peers.values():
        peer.settimeout(None)
        _keep_asking(peer)
    last_words.say_on_abort(f"process 0 is gone{_WHAT_NOW}" if number else "another process is gone" + _WHAT_NOW)
    _watched.append(_Watch(peers, number == 0, leave))


def part() -> None:
    """Say to the others that this process ends in good order, or that all know why it does not; watch no more."""
    while _watched:
        _watched.pop().part()


def is_watched() -> bool:
    """Whether others wait for this process."""
    return bool(_watched)


def end_if_watched(status: int) -> None:
    """End the process here, where others would have to be waited for by an interpreter that ends in good order."""
    if _watched:
        for stream in (sys.stdout, sys.stderr):
            with contextlib.suppress(Exception):
                stream.flush()
        os._exit(status)


def of_lost_peer(error: BaseException) -> str | None:
    """What to say of an error that means that another process cannot be reached any more; None for any other error.

    >>> of_lost_peer(ValueError("Gloo AllGather failed: Connection reset by peer")) is None  # alone
    True
    """
    if not _watched or not _GONE.search(str(error)):
        return None
    time.sleep(2.0)  # the watch knows which of them it is, and ends this process meanwhile
    return "another process cannot be reached any more" + _WHAT_NOW


_GONE = re.compile("gloo|coordination service|connection reset|socket closed|broken pipe|UNAVAILABLE", re.IGNORECASE)

_WHAT_NOW = "; everything up to the last save is kept: start all of them again, with --resume"


def _end(name: str, over: threading.Event) -> None:
    """End this process, unless it is ending by itself just now."""
    if over.is_set():
        return
    line = f"gpz: error: {name} is gone{_WHAT_NOW}\n"
    with contextlib.suppress(OSError):
        os.write(last_words.stderr(), line.encode("utf-8", "replace"))
    os._exit(2)


def _keep_asking(peer: socket.socket) -> None:
    peer.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
    for option, value in (("TCP_KEEPIDLE", _IDLE), ("TCP_KEEPINTVL", _BETWEEN), ("TCP_KEEPCNT", _QUESTIONS)):
        if hasattr(socket, option):
            peer.setsockopt(socket.IPPROTO_TCP, getattr(socket, option), value)
