"""One run of a Flax NNX model in which every module's output passes through our hands.

Each module of a model of our own is given a subclass of its class whose ``__call__`` passes the output on. What it
does there is one of its static attributes, so that ``nnx.scan``, ``nnx.remat`` or ``nnx.jit`` within the model carry it
along.
"""

import functools
from collections.abc import Iterator
from typing import Any

from gpz_jax.taps.linen_visit import LinenCalls
from gpz_jax.taps.listener import Listener, Path
from gpz_jax.taps.outputs import Kind


def listen_to_nnx(model: Any, listener: Listener, prefix: Path = ()) -> None:
    """Let ``listener`` hear all modules below ``model``, which is changed for good.

    Their paths begin with ``prefix``. Of an ``nnx.bridge.ToNNX`` the Linen modules within are heard as well.
    """
    from flax import nnx

    if isinstance(model, nnx.bridge.ToNNX):
        _attach(model, functools.partial(_call_linen, LinenCalls(model.to_nnx__module, listener, prefix)))
    for path, kind, module in list(_modules(model)):
        path = (*prefix, *path)
        heard = functools.partial(listener.hear, path, "deeper" if prefix else kind)
        if isinstance(module, nnx.bridge.ToNNX):
            within = LinenCalls(module.to_nnx__module, listener, path)
            heard = functools.partial(_both, heard, functools.partial(_call_linen, within))
        _attach(module, heard)


def passed_over(model: Any, listener: Listener) -> dict[str, Kind]:
    """Modules that ran in an inner trace without a call of their own, as in ``nnx.remat(Block.__call__)(block, x)``."""
    missed: dict[str, Kind] = {}
    for path, kind, _ in _modules(model):
        name = "/".join(path)
        if name not in {*listener.calls, *listener.inside} and any(n.startswith(f"{name}/") for n in listener.inside):
            missed[name] = kind
    return missed


def _both(outer: Any, inner: Any, call: Any) -> Any:
    return outer(lambda: inner(call))


def _call_linen(calls: LinenCalls, call: Any) -> Any:
    with calls.of_one_run():
        return call()


def _modules(model: Any) -> Iterator[tuple[Path, Kind, Any]]:
    """Path, kind and module of all that can be called below ``model``; containers such as ``nnx.List`` cannot."""
    from flax import nnx

    found = {path: module for path, module in nnx.iter_modules(model) if path and callable(module)}
    for path, module in found.items():
        below_another = any(path[:length] in found for length in range(1, len(path)))
        yield tuple(map(str, path)), "deeper" if below_another else "child", module


def _attach(module: Any, heard: Any) -> None:
    # Not setattr, which would look for arrays in it. nnx.Dict passes over attributes that begin like this.
    object.__setattr__(module, "_pytree__tap", heard)
    object.__setattr__(module, "__class__", _listened_to(type(module)))


@functools.cache  # NNX and JAX register every class for good, so there must be one for each and not one a call
def _listened_to(cls: type) -> type:
    """The subclass of ``cls`` whose outputs pass through the ``_pytree__tap`` of the instance."""

    @functools.wraps(cls.__call__)  # nnx.Sequential looks at the signature
    def __call__(self, *args, **kwargs):
        return self._pytree__tap(lambda: cls.__call__(self, *args, **kwargs))

    names = {
        "__call__": __call__,
        "__module__": cls.__module__,
        "__qualname__": cls.__qualname__,
        "__doc__": cls.__doc__,
    }
    return type(cls)(cls.__name__, (cls,), names, pytree=cls._pytree__is_pytree)
