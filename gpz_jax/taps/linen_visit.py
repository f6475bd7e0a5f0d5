"""One run of a Flax Linen model in which every module's output passes through our hands.

``nn.intercept_methods`` sees every call but one kind: that of a class that ``nn.remat``, ``nn.jit``, ``nn.vmap`` or
``nn.scan`` made of another. Flax makes those so that what is intercepted is the call inside the transformation. An
instance of such a class is given, for the run, a subclass whose call passes the output on: the instance is one that
``apply`` made for itself, so the user's own modules and classes stay as they are.
"""

import contextlib
import sys
from collections.abc import Iterator, Mapping
from functools import partial
from typing import Any

import flax.linen as nn

from gpz_jax.taps.listener import Listener, Path
from gpz_jax.taps.outputs import AtCall, Kind


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
    listener = Listener(at_call)
    with LinenCalls(model, listener).of_one_run():
        try:
            returned = model.apply(variables, x, **arguments)
        finally:
            listener.close()
    return returned, listener.inside


class LinenCalls:
    """Tells a listener of the calls of a model's modules, and keeps account of where in the model the run is.

    Attributes:
      prefix: path of the model, if it is itself a part of an NNX model.
    """

    def __init__(self, model: nn.Module, listener: Listener, prefix: Path = ()):
        self.prefix = prefix
        self._model = model
        self._listener = listener
        self._home: Any = None  # the scope of the model itself
        self._strangers = 0

    @contextlib.contextmanager
    def of_one_run(self) -> Iterator[None]:
        """Intercept one ``apply`` of the model; another has another scope."""
        try:
            with nn.intercept_methods(self.intercept):
                yield
        finally:
            self._home = None

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
        _listen_to_wrapped(module, self.prefix, self._listener)
        if context.method_name != "__call__":
            return call(*args, **kwargs)
        return self.hear(module, call, args, kwargs)

    def hear(self, module: nn.Module, call: Any, args: Any, kwargs: Any) -> Any:
        """Call a module, heard by the listener."""
        if not module.path or self._strangers:
            return call(*args, **kwargs)
        path = (*self.prefix, *module.path)
        kind: Kind = "mark" if isinstance(module, Tap) else "child" if len(path) == 1 else "deeper"
        return self._listener.hear(path, kind, partial(call, *args, **kwargs))

    def _is_transformed_root(self, module: nn.Module) -> bool:
        """Whether this is the model itself once more, inside a transformation of its own call."""
        return self._listener.in_inner_trace() and isinstance(self._model, type(module))

    def _pass_by(self, call: Any, args: Any, kwargs: Any) -> Any:
        """Another model that is applied within this one: its paths are its own, and none of our cuts."""
        self._strangers += 1
        try:
            return call(*args, **kwargs)
        finally:
            self._strangers -= 1


def _listen_to_wrapped(module: nn.Module, prefix: Path, listener: Listener) -> None:
    """Hear the NNX modules that an ``nnx.bridge.ToLinen`` makes when it is called."""
    nnx = sys.modules.get("flax.nnx")  # it takes long to import, and who has such a module has imported it
    if nnx is None or not isinstance(module, nnx.bridge.ToLinen):
        return
    if not isinstance(module.nnx_class, _Maker):  # of the instance that apply made for itself
        object.__setattr__(module, "nnx_class", _Maker(module.nnx_class, listener, (*prefix, *module.path)))


class _Maker:
    """An NNX class that makes its instances heard."""

    def __init__(self, cls: Any, listener: Listener, path: Path):
        self.cls, self.listener, self.path = cls, listener, path

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        from gpz_jax.taps.nnx_visit import listen_to_nnx

        made = self.cls(*args, **kwargs)
        listen_to_nnx(made, self.listener, self.path)
        return made

    def __getattr__(self, name: str) -> Any:
        return getattr(self.cls, name)  # the module looks up methods there


def _listen_to_children(module: nn.Module, calls: LinenCalls) -> None:
    """Hear the transformed ones among a module's children, those that it has and those that it is about to make."""
    state = module._state
    if not isinstance(state.children, _Children):
        for child in state.children.values():
            _listen_to(child, calls)
        state.children = _Children(state.children, calls)


class _Children(dict):
    """Where a module keeps its children by name; Flax enters each of them here when it is made."""

    def __init__(self, children: dict[str, Any], calls: LinenCalls):
        super().__init__(children)
        self.calls = calls

    def __setitem__(self, name: str, child: Any) -> None:
        _listen_to(child, self.calls)
        super().__setitem__(name, child)


class _Quiet:
    """Keeps Flax from treating the subclass as a module class of the user's own."""

    def __init_subclass__(cls, **kwargs: Any):
        pass


def _listen_to(module: Any, calls: LinenCalls) -> None:
    cls = type(module)
    if not isinstance(module, nn.Module) or issubclass(cls, _Quiet) or not _is_transformed(cls):
        return

    def __call__(self, *args, **kwargs):
        return calls.hear(self, lambda *args, **kwargs: cls.__call__(self, *args, **kwargs), args, kwargs)

    names = {"__call__": __call__, "__module__": cls.__module__, "__qualname__": cls.__qualname__}
    object.__setattr__(module, "__class__", type(cls)(cls.__name__, (_Quiet, cls), names))  # pyright: ignore[reportCallIssue]


def _is_transformed(cls: type) -> bool:
    """Whether a class was made by ``nn.remat`` and the like: what it wraps is a method that Flax has wrapped before."""
    return hasattr(getattr(cls.__call__, "__wrapped__", None), "method_handler_wrapped")
