"""What Flax says of a model that was called in the wrong way, in words that say what to write instead."""

import contextlib
import dataclasses
import inspect
import re
from collections.abc import Iterator
from typing import Any

import flax.errors
import flax.linen as nn

from gpz_jax.errors import UserError

#: What models call their mode, and its value for evaluation.
EVALUATION = {
    "train": False,
    "training": False,
    "is_training": False,
    "is_train": False,
    "train_mode": False,
    "enable_dropout": False,
    "deterministic": True,
    "eval": True,
    "evaluate": True,
    "eval_mode": True,
    "is_eval": True,
    "inference": True,
    "inference_mode": True,
    "use_running_average": True,
    "test": True,
    "testing": True,
}


def check_linen(model: Any) -> None:
    """Refuse what is no Linen module, and say what to give in its place."""
    if isinstance(model, nn.Module):
        return
    name = getattr(model, "__name__", type(model).__name__)
    if isinstance(getattr(model, "module", None), nn.Module):
        hint = "give its .module, and as variables {'params': its .params} with what else it holds"
    elif any(base.__module__.startswith("flax.nnx") for base in type(model).__mro__):
        hint = "for Flax NNX there is tap_nnx"
    elif isinstance(model, type) and issubclass(model, nn.Module):
        hint = f"give an instance, {name}(…)"
    elif isinstance(model, type) and any(base.__module__.startswith("flax.nnx") for base in model.__mro__):
        hint = "for instances of Flax NNX modules there is tap_nnx"
    elif callable(model):
        hint = "a function has no modules to cut between: put it in the __call__ of one"
    else:
        hint = "give the model itself"
    raise UserError(f"tap takes a flax.linen.Module, not {name}: {hint}")


@contextlib.contextmanager
def in_words(model: Any) -> Iterator[None]:
    """Turn Flax's error of a model in training mode, without its keys or without its variables into a line of ours."""
    try:
        yield
    except (flax.errors.ModifyScopeVariableError, flax.errors.InvalidRngError) as error:
        raise UserError(_of_training(str(error), model)) from error
    except (
        flax.errors.ScopeParamNotFoundError,
        flax.errors.ScopeCollectionNotFound,
        flax.errors.ApplyScopeInvalidVariablesTypeError,
        flax.errors.ApplyScopeInvalidVariablesStructureError,
    ) as error:
        raise UserError(f"{_first(error)}; give the variables that init returned, {{'params': …}}") from error
    except TypeError as error:
        missing = re.search(r"missing .* required .*argument.*: '(\w+)'", str(error))
        if not missing or missing[1] not in _parameters(model):
            raise
        value = EVALUATION.get(missing[1], "…")
        raise UserError(f"the model's __call__ needs {missing[1]}: pass {missing[1]}={value} to tap") from error


def _of_training(error: str, model: Any) -> str:
    mode = evaluation_mode(model)
    collection = re.search(r'collection "(\w+)" is immutable', error)
    key = re.search(r'needs PRNG for "(\w+)"', error)
    if collection and collection[1] != "batch_stats":
        return (
            f"the model writes to its collection {collection[1]!r} in the call, and a tapped network only reads; {mode}"
        )
    if collection:
        return f"the model is in training mode (it updates its batch_stats): {mode}"
    if key:
        return (
            f"the model draws random numbers ({key[1]!r}) as in training: {mode}; "
            f'or pass rngs={{"{key[1]}": jax.random.key(0)}} if it is to draw them'
        )
    return f"{error.splitlines()[0]}: {mode}"


def evaluation_mode(model: Any) -> str:
    """How to put a model into evaluation mode, in its own words.

    >>> class Net(nn.Module):
    ...     def __call__(self, x, *, deterministic=False): ...
    >>> evaluation_mode(Net())
    'pass deterministic=True to tap'
    """
    words = [word for word in _parameters(model) if word in EVALUATION]
    if words:
        return f"pass {', '.join(f'{word}={EVALUATION[word]}' for word in words)} to tap"
    fields = {field.name for field in dataclasses.fields(model)} if dataclasses.is_dataclass(model) else set()
    words = [word for word in EVALUATION if word in fields]
    if words:
        made = ", ".join(f"{word}={EVALUATION[word]}" for word in words)
        return f"make it with {type(model).__name__}({made})"
    return "put it into evaluation mode as it calls it, such as train=False or deterministic=True"


def _parameters(model: Any) -> tuple[str, ...]:
    called = getattr(model, "signature_of", type(model))
    try:
        return tuple(inspect.signature(called.__call__).parameters)
    except (TypeError, ValueError):
        return ()


def _first(error: Exception) -> str:
    return str(error).split(" (https://", 1)[0].splitlines()[0].rstrip(".")
