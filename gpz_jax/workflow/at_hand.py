"""Runs that commands are given by a URL, as local folders while they are worked on (``runs/remote.py``)."""

import contextlib
from collections.abc import Iterator, Sequence

from gpz_jax import runs
from gpz_jax.errors import UserError
from gpz_jax.workflow.common import say


@contextlib.contextmanager
def at_hand(place: str, *, writes: bool) -> Iterator[str]:
    """A run as a local folder: a folder is given back as it is.

    Args:
      place: a folder, or ``s3://BUCKET/NAME``, ``gs://BUCKET/NAME``.
      writes: whether the run's records are written.

    Raises:
      UserError: what :func:`gpz_jax.runs.at_hand` raises.
    """
    with runs.at_hand(place, writes=writes, tell=say) as folder:
        yield folder or place


@contextlib.contextmanager
def all_at_hand(places: Sequence[str], out: str | None) -> Iterator[list[str]]:
    """Several runs to be looked at, as local folders.

    Args:
      places: folders or URLs.
      out: where what compares them goes; None for beside the first.

    Raises:
      UserError: several, of which the first lies in a bucket, and no ``out``: nothing is written beside it.
    """
    check_out(out)
    if len(places) > 1 and out is None and runs.is_remote(places[0]):
        raise UserError(
            "what compares runs cannot lie beside one in a bucket; name a local place with `out`", field="out"
        )
    with contextlib.ExitStack() as opened:
        yield [opened.enter_context(at_hand(place, writes=False)) for place in places]


def check_out(out: str | None) -> None:
    """Raise :class:`UserError` for a URL as the place of what is made of runs."""
    if runs.is_remote(out):
        raise UserError(f"`out` {out} is a URL; what is made of runs is written to a local place", field="out")
