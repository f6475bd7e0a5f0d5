"""Who hears the call of every module of a model, and passes each output on under a name of its own."""

from collections import Counter
from collections.abc import Callable
from typing import Any

from jax.extend.core import get_opaque_trace_state

from gpz_jax.taps.outputs import LOGITS, AtCall, Kind, numbered

#: Names from the model down to a module.
Path = tuple[str, ...]


class Listener:
    """Hears one run of a model, whether its modules are of Linen or of NNX.

    Attributes:
      inside: names of modules called in an inner trace.
      calls: how often each name was met outside of one.
    """

    def __init__(self, at_call: AtCall):
        self.inside: dict[str, Kind] = {}
        self.calls = Counter([LOGITS])  # the logits have that name; a layer called "logits" is "logits:2"
        self._at_call: AtCall | None = at_call
        self._active: list[Path] = []  # of the modules that are being called, outermost first
        self._trace = get_opaque_trace_state(convention="flax")

    def hear(self, path: Path, kind: Kind, call: Callable[[], Any]) -> Any:
        """Call a module and pass its output on, unless the call is part of one at the same path.

        So it is if ``__call__`` calls ``super().__call__``, if ``nn.share_scope`` gives two modules one path, or if
        the call is the one inside a transformed class: the outermost output is the cut.
        """
        if self._at_call is None or path in self._active:
            return call()
        self._active.append(path)
        try:
            value = call()
        finally:
            self._active.pop()
        name = path[-1] if kind == "mark" else "/".join(path)
        if self.in_inner_trace():
            self.inside[name] = kind
            return value
        return self._at_call(numbered(name, self.calls), value, kind)

    def in_inner_trace(self) -> bool:
        """Whether the run is inside a transformation of the model's own."""
        return get_opaque_trace_state(convention="flax") != self._trace

    def close(self) -> None:
        """Keep nothing of this run alive in the caches of the model's own transformations."""
        self._at_call = None
