"""Words out of files and about damaged ones, for one line on a terminal."""


def plain(text: str) -> str:
    r"""A text on one line, of what can be printed, no longer than 200 letters.

    >>> plain("a\nb\x1b[31m")
    'a b?[31m'
    """
    return "".join(letter if letter.isprintable() else "?" for letter in " ".join(text.split()))[:200]


def why(error: Exception) -> str:
    """What a library says of a damaged file; the kind of error where it says nothing.

    >>> why(ValueError("bad header")), why(MemoryError())
    ('bad header', 'MemoryError')
    """
    return plain(str(error)) or type(error).__name__
