"""One run of a Flax Linen model in which every module's output passes through our hands.

``nn.intercept_methods`` sees every call but one kind: that of a class that ``nn.remat``, ``nn.jit``, ``nn.vmap`` or
``nn.scan`` made of another. Flax makes those so that what is intercepted is the call inside the transformation. An
instance of such a class is given, for the run, a subclass whose call passes the output on: the instance is one that
``apply`` made for itself, so the user's own modules and classes stay as they are.
"""

from collections import Counter
from collections.abc import Mapping
from typing import Any

import flax.linen as nn
from jax.extend.core import get_opaque_trace_state

from gpz_jax.taps.outputs import LOGITS, AtCall, Kind, numbered


class Tap(nn.Module):
    """An identity that marks a cut point: ``x = Tap(name="block_4")(x)``. It has no parameters and costs nothing."""

    @nn.compact
    def __call__(self, x: Any) -> Any:
        """Return ``x`` unchanged."""
        return x


def visit_linen(
    model: nn.Module, variables: Any, x: Any, arguments: Mapping[str, Any], at_call: AtCall
) -> tuple[Any, dict[str, Kind]]:
    """Apply the model; return what it returns, and the modules called inside a transformation."""
    listener = Listener(model, at_call)
    with nn.intercept_methods(listener.intercept):
        try:
            returned = model.apply(variables, x, **arguments)
        finally:
            listener.close()
    return returned, listener.inside


class Listener:
    """Passes outputs on, each under its name, and keeps account of where in the model the run is.

    Attributes:
      inside: names of modules called in an inner trace.
    """

    def __init__(self, model: nn.Module, at_call: AtCall):
        self.inside: dict[str, Kind] = {}
        self._model = model
        self._at_call = at_call
        self._calls = Counter([LOGITS])  # the logits have that name; a layer called "logits" is "logits:2"
        self._active: list[tuple[str, ...]] = []  # paths of the modules that are being called, outermost first
        self._home: Any = None  # the scope of the model itself
        self._strangers = 0
        self._trace = get_opaque_trace_state(convention="flax")

    def intercept(self, call: Any, args: Any, kwargs: Any, context: Any) -> Any:
        """What ``nn.intercept_methods`` takes."""
        module = context.module
        if self._strangers or module.scope is None:
            return call(*args, **kwargs)
        if module.path == ():
            if self._home is None:
                self._home = module.scope
            elif module.scope is not self._home and not self._is_transformed_root(module):
                return self._pass_by(call, args, kwargs)
        _listen_to_children(module, self)
        if context.method_name != "__call__":
            return call(*args, **kwargs)
        return self.hear(module, call, args, kwargs)

    def hear(self, module: nn.Module, call: Any, args: Any, kwargs: Any) -> Any:
        """Call a module and pass its output on, unless the call is part of one at the same path.

        So it is if ``__call__`` calls ``super().__call__``, if ``nn.share_scope`` gives two modules one path, or if
        the call is the one inside a transformed class: the outermost output is the cut.
        """
        path = module.path
        if not path or path in self._active or self._strangers:
            return call(*args, **kwargs)
        self._active.append(path)
        try:
            value = call(*args, **kwargs)
        finally:
            self._active.pop()
        kind: Kind = "mark" if isinstance(module, Tap) else "child" if len(path) == 1 else "deeper"
        name = path[-1] if kind == "mark" else "/".join(path)
        if self._in_inner_trace():
            self.inside[name] = kind
            return value
        return self._at_call(numbered(name, self._calls), value, kind)

    def close(self) -> None:
        """Keep nothing of this run alive in the caches of the model's own transformations."""
        self._at_call = lambda call, value, kind: value

    def _in_inner_trace(self) -> bool:
        return get_opaque_trace_state(convention="flax") != self._trace

    def _is_transformed_root(self, module: nn.Module) -> bool:
        """Whether this is the model itself once more, inside a transformation of its own call."""
        return self._in_inner_trace() and isinstance(self._model, type(module))

    def _pass_by(self, call: Any, args: Any, kwargs: Any) -> Any:
        """Another model that is applied within this one: its paths are its own, and none of our cuts."""
        self._strangers += 1
        try:
            return call(*args, **kwargs)
        finally:
            self._strangers -= 1


def _listen_to_children(module: nn.Module, listener: Listener) -> None:
    """Hear the transformed ones among a module's children, those that it has and those that it is about to make."""
    state = module._state
    if not isinstance(state.children, _Children):
        for child in state.children.values():
            _listen_to(child, listener)
        state.children = _Children(state.children, listener)


class _Children(dict):
    """Where a module keeps its children by name; Flax enters each of them here when it is made."""

    def __init__(self, children: dict[str, Any], listener: Listener):
        super().__init__(children)
        self.listener = listener

    def __setitem__(self, name: str, child: Any) -> None:
        _listen_to(child, self.listener)
        super().__setitem__(name, child)


class _Quiet:
    """Keeps Flax from treating the subclass as a module class of the user's own."""

    def __init_subclass__(cls, **kwargs: Any):
        pass


def _listen_to(module: Any, listener: Listener) -> None:
    cls = type(module)
    if not isinstance(module, nn.Module) or issubclass(cls, _Quiet) or not _is_transformed(cls):
        return

    def __call__(self, *args, **kwargs):
        return listener.hear(self, lambda *args, **kwargs: cls.__call__(self, *args, **kwargs), args, kwargs)

    names = {"__call__": __call__, "__module__": cls.__module__, "__qualname__": cls.__qualname__}
    object.__setattr__(module, "__class__", type(cls)(cls.__name__, (_Quiet, cls), names))  # pyright: ignore[reportCallIssue]


def _is_transformed(cls: type) -> bool:
    """Whether a class was made by ``nn.remat`` and the like: what it wraps is a method that Flax has wrapped before."""
    return hasattr(getattr(cls.__call__, "__wrapped__", None), "method_handler_wrapped")
