"""JSON that lies is one line: deep, large, not finite, not text."""

import json
import math
import os
import re

import pytest

from gpz_jax.errors import UserError
from gpz_jax.json_files import parse_json, read_json


@pytest.mark.parametrize(
    ("data", "said"),
    [
        (b"", "no JSON at line 1"),
        (b'{"a": 1', "no JSON at line 1"),
        (b'{\n"a": }', "line 2, column 6"),
        (b"\xff\xfe\x00", "no UTF-8 at byte 0"),
        (b"[" * 100_000, "nested too deep"),
        (b'{"a":' * 100_000, "nested too deep"),
        (b"[Infinity]", "Infinity is not a finite number"),
        (b"[-Infinity]", "-Infinity is not a finite number"),
        (b"[NaN]", "NaN is not a finite number"),
        (b"[1e999]", "1e999 is not a finite number"),
        (b"[1" + b"0" * 5000 + b"]", "beyond 64 bits"),
        (b"[1" + b"0" * 25 + b"]", "beyond 64 bits"),
        (b'["\\ud800"]', "half a character"),
        (b"\x00", "no JSON"),
    ],
    ids=range(14),
)
def test_what_is_no_json(tmp_path, data, said):
    file = tmp_path / "a.json"
    file.write_bytes(data)
    with pytest.raises(UserError, match=re.escape(said)) as caught:
        read_json(file)
    assert str(caught.value).startswith(str(file))
    assert len(str(caught.value).splitlines()) == 1


def test_what_is_read(tmp_path):
    file = tmp_path / "a.json"
    value = {"größe": [1, -2.5, None, True, 2**63, -(2**63), "\N{GRINNING FACE}"]}
    for text in (json.dumps(value), json.dumps(value, ensure_ascii=False)):
        for mark in (b"", b"\xef\xbb\xbf"):
            file.write_bytes(mark + text.encode())
            assert read_json(file) == value
    assert math.isnan(parse_json("[NaN]", "", finite=False)[0])
    assert parse_json("[1e999, Infinity]", "", finite=False) == [math.inf, math.inf]


def test_what_is_no_file_of_a_size_that_is_read(tmp_path):
    (tmp_path / "a.json").write_text("[" + "1," * 50 + "1]")
    with pytest.raises(UserError, match=r"larger than the 100 bytes"):
        read_json(tmp_path / "a.json", limit_bytes=100)
    assert len(read_json(tmp_path / "a.json", limit_bytes=103)) == 51
    with pytest.raises(UserError, match="no such file"):
        read_json(tmp_path / "b.json")
    with pytest.raises(UserError, match="no plain file"):
        read_json(tmp_path)
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(UserError, match="no plain file"):
        read_json(tmp_path / "pipe")
    with pytest.raises(UserError, match=r"null|NUL|no such"):
        read_json(f"{tmp_path}/a\0b.json")
