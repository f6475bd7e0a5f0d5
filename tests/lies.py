"""Damage to files: to JSON in a run folder by name, to any bytes by chance; for tests of those who read them."""

#: What is no record at all.
JSON = {
    "empty": b"",
    "half": b'{"config": {"da',
    "deep": b"[" * 100_000,
    "deep closed": b'{"a":' * 50_000 + b"1" + b"}" * 50_000,
    "list": b"[]",
    "null": b"null",
    "text": b'"../../etc/passwd"',
    "number": b"1e308",
    "infinity": b'{"schema_version": Infinity}',
    "nan": b'{"config": NaN}',
    "digits": b'{"schema_version": ' + b"9" * 5000 + b"}",
    "no UTF-8": b'{"config": "\xff\xfe"}',
    "NUL": b"\0" * 100,
    "newer": b'{"schema_version": 99}',
    "older": b'{"schema_version": "x"}',
    "nothing": b"{}",
}


def without(*path):
    """A damage: one key of a JSON file is missing."""

    def damage(value):
        *outer, last = path
        for name in outer:
            value = value[name]
        del value[last]

    return damage


def put(new, *path):
    """A damage: one value of a JSON file is another."""

    def damage(value):
        *outer, last = path
        for name in outer:
            value = value[name]
        value[last] = new

    return damage


def damaged(content, rng):
    """Bytes changed, cut off, zeroed or put in between, one to five times."""
    content = bytearray(content)
    for _ in range(rng.integers(1, 6)):
        at, how = rng.integers(len(content)), rng.integers(5)
        if how < 2:
            content[at] = rng.integers(256)
        elif how == 2:
            content = content[: max(at, 1)]
        elif how == 3:
            content[at : at + 8] = bytes(8)
        else:
            content[at:at] = rng.bytes(rng.integers(1, 8))
    return bytes(content)
