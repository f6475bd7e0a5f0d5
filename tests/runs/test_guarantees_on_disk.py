"""guarantees.json: what is written is read again, earlier cuts stay, and what cannot be read is said."""

import dataclasses
import json
import math

import pytest

from gpz_jax.errors import UserError
from gpz_jax.inversion.guarantee_result import Guarantee
from gpz_jax.runs.guarantees import GUARANTEES, read_guarantees, write_guarantees

NUMBERS = [field.name for field in dataclasses.fields(Guarantee) if field.type is float]
FOUND = Guarantee("fc", images=7, assumptions=("a", "b"), **{name: i / 7 for i, name in enumerate(NUMBERS)})


def test_what_is_written_is_read_again(tmp_path):
    none = Guarantee("[red]x", assumptions=("no noise",))
    write_guarantees(tmp_path, {"fc": (FOUND, {"seed": 3}), "[red]x": (none, {"seed": 4})})
    written = json.loads((tmp_path / GUARANTEES).read_text())
    assert written["schema_version"]
    assert written["cuts"]["[red]x"]["mse_floor"] is None
    read = read_guarantees(tmp_path, pytest.fail)
    assert read["fc"] == (FOUND, {"seed": 3})
    empty, asked = read["[red]x"]
    assert (empty.images, empty.assumptions, asked) == (0, ("no noise",), {"seed": 4})
    assert all(math.isnan(getattr(empty, name)) for name in NUMBERS)


def test_an_infinite_number_is_none_in_the_file(tmp_path):
    write_guarantees(tmp_path, {"fc": (dataclasses.replace(FOUND, nats=-math.inf), {})})
    assert json.loads((tmp_path / GUARANTEES).read_text())["cuts"]["fc"]["nats"] is None


@pytest.mark.parametrize("text", ["", "[]", '{"cuts": 3}', '{"cuts": {"fc": {}}}', '{"cuts": {"fc": null}}', "\xff"])
def test_a_damaged_file_is_said_and_counts_as_none(tmp_path, text):
    (tmp_path / GUARANTEES).write_bytes(text.encode("latin-1"))
    said = []
    assert read_guarantees(tmp_path, said.append) == {}
    assert len(said) == 1
    assert GUARANTEES in said[0]


def test_none_is_no_problem_and_a_newer_one_is_refused(tmp_path):
    assert read_guarantees(tmp_path, pytest.fail) == {}
    (tmp_path / GUARANTEES).write_text('{"schema_version": 99, "cuts": {}}')
    with pytest.raises(UserError, match="newer gpz_jax"):
        read_guarantees(tmp_path)
