"""SIGTERM and SIGINT: long work saves where it is and ends; everything else ends at once.

A handler that raises is not enough: Python swallows what is raised inside a callback of the garbage collector, and jax
has one. So a handler only notes that it was called, and long work asks; where nothing asks, the process ends there and
then, which is safe because every file is replaced whole.
"""

import atexit
import contextlib
import os
import signal
import sys
import threading
from collections.abc import Iterator
from typing import Any

from gpz_jax import last_words

SIGNALS = (signal.SIGTERM, signal.SIGINT)

#: Seconds that the step under way has to end after a signal: a program that is compiled may take minutes, and whoever
#: takes a machine away gives half of one. Then the process ends with what was saved last; and where nothing is to be
#: saved, after the other number, for Python hears of a signal only when what it called returns.
GRACE, AT_ONCE = 15.0, 1.0


class Stopped(KeyboardInterrupt):
    """Work that was asked to stop has saved where it was.

    Args:
      number: of the signal.
      saved: what was saved, in words.
    """

    def __init__(self, number: int, saved: str):
        super().__init__(saved)
        self.number, self.saved = number, saved

    @property
    def status(self) -> int:
        """Exit status of the process, as shells have it: 143 for SIGTERM, 130 for SIGINT."""
        return 128 + self.number


class Stop:
    """Whether this process was asked to stop, while :func:`noted` holds.

    Attributes:
      number: of the signal that asked; None as long as none did.
      in_time: set while the work is being saved.
    """

    def __init__(self):
        self.number: int | None = None
        self.in_time = threading.Event()

    @contextlib.contextmanager
    def saving(self) -> Iterator[None]:
        """While what was reached is being saved, the process is not ended for taking long."""
        self.in_time.set()
        try:
            yield
        finally:
            self.in_time.clear()

    def __bool__(self) -> bool:
        return self.number is not None

    def stopped(self, saved: str) -> Stopped:
        """The exception to raise once ``saved`` is on disk."""
        return Stopped(self.number or signal.SIGINT, saved)


@contextlib.contextmanager
def noted() -> Iterator[Stop]:
    """Note SIGTERM and SIGINT instead of ending by them; a second one ends the process at once.

    In a thread other than the main one, which cannot take signals, nothing is ever noted.

    Raises:
      Stopped: on leaving, where a signal was noted and nothing within has raised: none is ever forgotten.

    Example:
      >>> with contextlib.suppress(Stopped), noted() as stop:
      ...     signal.raise_signal(signal.SIGTERM)
      >>> bool(stop), stop.stopped("at step 3").status
      (True, 143)
    """
    stop = Stop()

    def note(number: int, frame: Any) -> None:
        if stop:
            end(number)
        stop.number = number
        _tell(f"gpz: {signal.Signals(number).name}: ending after this step; once more ends at once\n")

    with _handled(note), _deadline(stop.in_time, GRACE):
        yield stop
    if stop:
        raise stop.stopped("what was finished is saved")


@contextlib.contextmanager
def ending() -> Iterator[None]:
    """End by SIGTERM and SIGINT at once, with a line that says so, whatever Python is doing."""
    with _handled(lambda number, frame: end(number)), _deadline(threading.Event(), AT_ONCE):
        yield


def is_our_command() -> bool:
    """Whether this process is one of the package's commands, while it still imports the package."""
    if sys.argv[:1] == ["-m"]:  # as runpy has it until it knows the module's file
        named = sys.orig_argv[sys.orig_argv.index("-m") + 1 :][:1] if "-m" in sys.orig_argv else []
        return bool(named) and named[0].split(".")[0] == "gpz_jax"
    return os.path.basename(sys.argv[0] if sys.argv else "") in ("gpz", "gpz.exe")


def end_from_now_on() -> None:
    """:func:`ending` for the rest of the process; once the interpreter ends, signals come too late to mean anything.

    Python gives signals back to the system as it ends, which takes a while where jax is loaded: a Ctrl-C in that while
    would have a command that has finished end as if it had not. So what is registered here first, and called last, has
    them ignored.
    """
    for number in SIGNALS:
        signal.signal(number, lambda number, frame: end(number))
    atexit.register(lambda: [signal.signal(number, signal.SIG_IGN) for number in SIGNALS])


def end(number: int) -> None:
    """End the process by a signal: what is on disk is whole, and nothing else is written."""
    for stream in (sys.stdout, sys.stderr):
        with contextlib.suppress(Exception):  # a closed pipe; or the signal came while it was being written to
            stream.flush()
    _tell(
        f"gpz: stopped by {signal.Signals(number).name}; everything up to the last save is kept, --resume continues\n"
    )
    os._exit(128 + number)


def _tell(line: str) -> None:
    with contextlib.suppress(OSError):
        os.write(last_words.stderr(), line.encode())  # not print: the signal may have come inside it


@contextlib.contextmanager
def _deadline(in_time: threading.Event, seconds: float) -> Iterator[None]:
    """End the process so many seconds after a signal unless ``in_time`` is set by then, whatever Python waits for."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    read, write = os.pipe()
    os.set_blocking(write, False)

    def watch() -> None:
        while came := os.read(read, 1):  # nothing once the other end is closed
            if came[0] in SIGNALS and not in_time.wait(seconds):
                end(came[0])

    thread = threading.Thread(target=watch, daemon=True)
    thread.start()
    before = signal.set_wakeup_fd(write, warn_on_full_buffer=False)
    try:
        yield
    finally:
        signal.set_wakeup_fd(before)
        in_time.set()
        os.close(write)
        thread.join()
        os.close(read)


@contextlib.contextmanager
def _handled(handler: Any) -> Iterator[None]:
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = {number: signal.signal(number, handler) for number in SIGNALS}
    try:
        yield
    finally:
        for number, old in before.items():
            signal.signal(number, old)
