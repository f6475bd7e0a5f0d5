"""What MkDocs calls while it builds the site: reference pages, one a room of the package, from its docstrings.

The pages are made of what lies in ``gpz_jax/``, so that a new file is on the site without being named anywhere.
"""

import ast
from pathlib import Path

from mkdocs.structure.files import File

PACKAGE = Path("gpz_jax")
#: The files beside the rooms that are about commands; the others are about networks.
COMMANDS = ("config", "flags", "settings_files", "train", "probe", "attack", "cuts", "split", "vortex", "__main__")


def on_files(files, config):
    """Add a page for every room."""
    for name, text in pages().items():
        files.append(File.generated(config, f"reference/{name}.md", content=text))
    return files


def pages() -> dict[str, str]:
    """Page name -> Markdown."""
    beside = [file.stem for file in sorted(PACKAGE.glob("*.py")) if file.stem != "__init__"]
    commands = [name for name in COMMANDS if name in beside]
    made = {
        "taps": page("Taps and targets", [f"gpz_jax.{name}" for name in beside if name not in commands]),
        "commands": page("Commands and settings", [f"gpz_jax.{name}" for name in commands]),
    }
    for room in sorted(path.parent for path in PACKAGE.glob("*/__init__.py")):
        modules = [f"gpz_jax.{room.name}.{file.stem}" for file in sorted(room.glob("[a-z]*.py"))]
        about = ast.get_docstring(ast.parse((room / "__init__.py").read_text())) or ""
        made[room.name] = page(f"gpz_jax.{room.name}", modules, about)
    return made


def page(title: str, modules: list[str], about: str = "") -> str:
    """A title, a paragraph, and the docstrings of modules."""
    return "\n\n".join([f"# {title}", about, *(f"::: {module}" for module in modules)]) + "\n"
