"""What MkDocs calls while it builds the site: reference pages, one a room of the package, from its docstrings.

The pages are made of what lies in ``gpz_jax/``, so that a new file is on the site without being named anywhere.
"""

import ast
from pathlib import Path

from mkdocs.structure.files import File

PACKAGE = Path("gpz_jax")
#: Pages of what lies beside the rooms: title and files.
SINGLE = {
    "taps": ("Taps and targets", "taps taps_nnx targets defences errors presentation parallel"),
    "commands": ("Commands and settings", "config settings train probe attack cuts split vortex report __main__"),
}


def on_files(files, config):
    """Add a page for every room."""
    for name, text in pages().items():
        files.append(File.generated(config, f"reference/{name}.md", content=text))
    return files


def pages() -> dict[str, str]:
    """Page name -> Markdown."""
    made = {}
    for name, (title, modules) in SINGLE.items():
        there = [module for module in modules.split() if (PACKAGE / f"{module}.py").exists()]
        made[name] = page(title, [f"gpz_jax.{module}" for module in there])
    for room in sorted(path.parent for path in PACKAGE.glob("*/__init__.py")):
        modules = [f"gpz_jax.{room.name}.{file.stem}" for file in sorted(room.glob("[a-z]*.py"))]
        about = ast.get_docstring(ast.parse((room / "__init__.py").read_text())) or ""
        made[room.name] = page(f"gpz_jax.{room.name}", modules, about)
    return made


def page(title: str, modules: list[str], about: str = "") -> str:
    """A title, a paragraph, and the docstrings of modules."""
    return "\n\n".join([f"# {title}", about, *(f"::: {module}" for module in modules)]) + "\n"
