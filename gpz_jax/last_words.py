"""What a process says when it is ended from within, by jax's C++ or the system: one line, no stack of addresses.

The coordination service of jax ends a process by ``abort`` where process 0 is gone or does not come, and nothing can be
asked of it before. So what C++ writes to stderr is kept in a file that has no name, and when the process aborts, it is
read: where it is about other processes one line is said instead, where it is not it is shown.
"""

import contextlib
import ctypes
import io
import os
import re
import signal
import sys
import tempfile
from typing import Any

_ABOUT_OTHERS = re.compile(rb"coordination.?service|distributed service", re.IGNORECASE)

_kept: dict[str, Any] = {}  # of this process: where C++ writes, the true stderr, the handlers, and the lines


def say_on_abort(line: str) -> None:
    """From here on this is said, with status 2, where another process is why this one is ended; again for another."""
    _kept["line"] = line
    if "handler" in _kept or os.name != "posix":
        return
    _kept["stderr"], _kept["file"] = os.dup(2), tempfile.TemporaryFile("w+b")  # noqa: SIM115 (to the end of the process)
    stderr = sys.stderr
    stderr.flush()
    os.dup2(_kept["file"].fileno(), 2)
    sys.stderr = io.TextIOWrapper(
        io.FileIO(_kept["stderr"], "w", closefd=False), stderr.encoding, stderr.errors, write_through=True
    )
    _kept["handler"] = ctypes.CFUNCTYPE(None, ctypes.c_int)(_on_abort)
    # Not by Python's signal, whose handlers wait for the interpreter's next step: after this there is none.
    ctypes.CDLL(None).signal(signal.SIGABRT, _kept["handler"])


def say_on_bus_error(line: str) -> None:
    """From here on this is said, with status 2, where a file is shorter than what is mapped of it."""
    _kept["cut short"] = line
    if "bus" in _kept or not hasattr(signal, "SIGBUS"):
        return

    def on_bus_error(number: int) -> None:
        with contextlib.suppress(OSError):
            os.write(stderr(), f"gpz: error: {_kept['cut short']}\n".encode("utf-8", "replace"))
        os._exit(2)

    _kept["bus"] = ctypes.CFUNCTYPE(None, ctypes.c_int)(on_bus_error)
    # Not by Python's signal either: reading goes on at the same place, again and again, before a handler would run.
    ctypes.CDLL(None).signal(signal.SIGBUS, _kept["bus"])


def stderr() -> int:
    """The file descriptor that a person reads."""
    return _kept.get("stderr", 2)


def _on_abort(number: int) -> None:
    said, ours = b"", False
    with contextlib.suppress(OSError):
        said = os.pread(_kept["file"].fileno(), 2**20, 0)
        ours = bool(_ABOUT_OTHERS.search(said))
        os.write(stderr(), f"gpz: error: {_kept['line']}\n".encode("utf-8", "replace") if ours else said)
    os._exit(2 if ours else 128 + signal.SIGABRT)
