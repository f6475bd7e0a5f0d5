"""Work of a run folder that was left in the middle: pytrees of arrays, piece by piece, each sealed."""

import json
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from gpz_jax import processes
from gpz_jax.atomic import make_folder, partial_path
from gpz_jax.errors import UserError
from gpz_jax.runs.checkpoints import shapes_of
from gpz_jax.runs.records import load_tree, save_tree
from gpz_jax.runs.seals import broken, read_seal, seal_folder


class Unfinished:
    """A folder of pieces, each with what the work depends on: what was left under other settings counts for nothing.

    Args:
      folder: made when the first piece is written.
      asked: what the work depends on; as JSON has it.
    """

    def __init__(self, folder: Path, asked: Mapping[str, Any]):
        self._folder, self._asked = folder, json.loads(json.dumps(dict(asked)))

    def write(self, piece: str, tree: Any) -> None:
        """Write a piece in place of what was there under its name."""
        folder = self._folder / piece
        processes.led(lambda: make_folder(self._folder))
        partial = Path(processes.told(str(partial_path(folder))))

        def put_there() -> None:
            seal_folder(partial, arrays=shapes_of(tree), asked=self._asked)
            shutil.rmtree(folder, ignore_errors=True)
            partial.rename(folder)

        try:
            save_tree(partial, tree)
            processes.led(put_there)
        except BaseException:
            shutil.rmtree(partial, ignore_errors=True)
            raise

    def read(self, piece: str, like: Any) -> tuple[Any | None, str]:
        """A piece in the shapes and places of ``like``, and why it cannot be read; None and "" if there is none."""
        folder = self._folder / piece
        if not folder.is_dir():
            return None, ""
        try:
            seal = read_seal(folder)
            if seal is None or seal.get("asked") != self._asked or seal.get("arrays") != shapes_of(like):
                return None, "it was made with other settings"
            if why := broken(folder, seal):
                return None, why
            return load_tree(folder, like), ""
        except UserError as error:
            return None, str(error)
        except Exception as error:  # whatever Orbax makes of what it cannot read
            return None, type(error).__name__

    def clear(self) -> None:
        """Take all pieces away."""
        shutil.rmtree(self._folder, ignore_errors=True)
