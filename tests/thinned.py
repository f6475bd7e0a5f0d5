"""Many cases of one test: a few in the default suite, all of them with ``-m slow``."""

import pytest


def thinned(cases, keep):
    """Parameters of a test: those of ``keep`` as they are, the others marked slow, since they repeat the same idea.

    Args:
      cases: values, or tuples of several; of a dict its keys are asked for and its values given.
      keep: which run by default; each must be one of the cases.
    """
    pairs = cases.items() if isinstance(cases, dict) else [(case, case) for case in cases]
    names = [name for name, _ in pairs]
    assert all(name in names for name in keep), "what is kept must be a case"
    return [
        pytest.param(
            *(value if isinstance(value, tuple) else (value,)),
            id=name if isinstance(cases, dict) else None,
            marks=() if name in keep else pytest.mark.slow,
        )
        for name, value in pairs
    ]
