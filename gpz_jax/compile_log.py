"""What was compiled, how long it took, and what an earlier process had compiled: said while it happens."""

import contextlib
import threading
import time
from collections.abc import Callable, Iterator

import jax

from gpz_jax.compile_cache import kept
from gpz_jax.config import Compiling

#: Seconds that a program takes to be compiled before it gets a line of its own.
LONG = 0.1

_LOWERED = "/jax/core/compile/jaxpr_to_mlir_module_duration"
_COMPILED = "/jax/core/compile/backend_compile_duration"
_HIT = "/jax/compilation_cache/cache_hits"


@contextlib.contextmanager
def compiling(settings: Compiling, tell: Callable[[str], None]) -> Iterator[None]:
    """How a command compiles: with what earlier ones compiled at hand, and with ``verbose`` saying what it does.

    Args:
      settings: the flags.
      tell: what to do with notes.
    """
    with said(tell) if settings.verbose else contextlib.nullcontext(), kept(tell, off=settings.no_compile_cache):
        yield


class _Sums:
    """What was compiled so far, counted from any thread."""

    def __init__(self, tell: Callable[[str], None]):
        self.tell = tell
        self.compiled, self.read, self.prepared = [], [], 0.0
        self.here, self.lock = threading.local(), threading.Lock()

    def event(self, event: str, **kwargs: str | int) -> None:
        """A program was found in the cache: jax says so before it says how long that took, in the same thread."""
        if event == _HIT:
            self.here.hit = True

    def duration(self, event: str, duration_secs: float, **kwargs: str | int) -> None:
        """A step of the way from a function to a program."""
        if event == _LOWERED:
            with self.lock:
                self.prepared += duration_secs
        if event != _COMPILED:
            return
        hit, self.here.hit = getattr(self.here, "hit", False), False
        with self.lock:
            (self.read if hit else self.compiled).append(duration_secs)
        if duration_secs >= LONG:
            what = "read" if hit else "compiled"
            self.tell(f"{what} {kwargs.get('fun_name', 'a program')} in {duration_secs:.2f} s")

    def words(self, whole: float) -> str:
        """All of it in one line."""
        return (
            f"{_programs(self.compiled)} compiled in {sum(self.compiled):.1f} s, {_programs(self.read)} read from the "
            f"cache in {sum(self.read):.1f} s, {self.prepared:.1f} s to write them down for the compiler; "
            f"{whole:.1f} s in all"
        )


def _programs(times: list[float]) -> str:
    return "1 program" if len(times) == 1 else f"{len(times)} programs"


@contextlib.contextmanager
def said(tell: Callable[[str], None]) -> Iterator[None]:
    """Say of every program that takes long to compile how long, and of all together at the end."""
    sums, begun = _Sums(tell), time.perf_counter()
    jax.monitoring.register_event_listener(sums.event)
    jax.monitoring.register_event_duration_secs_listener(sums.duration)
    try:
        yield
    finally:
        jax.monitoring.unregister_event_listener(sums.event)
        jax.monitoring.unregister_event_duration_listener(sums.duration)
        tell(sums.words(time.perf_counter() - begun))
