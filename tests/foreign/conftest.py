"""Models of others are run as their authors run them."""

import jax
import pytest


@pytest.fixture(autouse=True)
def as_outside(monkeypatch):
    """Types of numbers mix as JAX has it by default, which the other tests forbid; and nothing is downloaded."""
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    with jax.numpy_dtype_promotion("standard"):
        yield
