"""What mkdocstrings calls for every docstring: ours are written for the source, its parser wants a little more."""

import re

import griffe

ROLE = re.compile(r":(?:func|class|data|meth|mod|attr):(?=`)")
EXAMPLE = re.compile(r"^Example:$", re.MULTILINE)
#: A doctest outside an ``Example:``, to the next blank line.
BARE = re.compile(r"^>>> .*(?:\n.+)*", re.MULTILINE)


class Readable(griffe.Extension):
    """Drops ``:func:`` before names, and shows doctests as code."""

    def on_instance(self, *, obj, **kwargs):
        """Rewrite one docstring."""
        if obj.docstring:
            text = EXAMPLE.sub("Examples:", ROLE.sub("", obj.docstring.value))
            obj.docstring.value = BARE.sub(lambda found: f"```pycon\n{found[0]}\n```", text)
