"""What MkDocs calls while it builds the site: it adds reference pages, one a room of the package, from its docstrings.

They are made of what lies in ``gpz_jax/``, so that a new file or room is on the site without being named anywhere.
"""

import ast
import re
from pathlib import Path

from mkdocs.structure.files import File

PACKAGE = Path("gpz_jax")
#: The files beside the rooms that are about commands; the others are about networks.
COMMANDS = (
    "config",
    "flags",
    "settings_files",
    "train",
    "probe",
    "attack",
    "cuts",
    "split",
    "vortex",
    "report",
    "__main__",
)


def on_config(config):
    """Name the pages in the navigation."""
    for section in config.nav:
        if "Reference" in section:
            section["Reference"] += [{title: f"reference/{name}.md"} for name, (title, _) in pages().items()]
    return config


def on_files(files, config):
    """Add the pages."""
    for name, (_, text) in pages().items():
        files.append(File.generated(config, f"reference/{name}.md", content=text))
    return files


def on_page_markdown(markdown, page, config, files):
    """Pages that show a file of the repository's root: its links, as they are from the page's folder."""
    if not page.file.src_uri.startswith("design/"):
        return markdown
    (file,) = re.findall(r'--8<-- "(.*)"', markdown)
    text = Path(file).read_text().replace("](ARCHITECTURE.md)", "](architecture.md)")
    return text.replace("](docs/", "](../")


def pages() -> dict[str, tuple[str, str]]:
    """Page name -> title and Markdown."""
    beside = [file.stem for file in sorted(PACKAGE.glob("*.py")) if file.stem != "__init__"]
    commands = [name for name in COMMANDS if name in beside]
    made = {
        "commands": page("Commands and settings", "gpz_jax", commands),
        "basics": page("What all rooms share", "gpz_jax", [name for name in beside if name not in commands]),
    }
    for room in sorted(path.parent for path in PACKAGE.glob("*/__init__.py")):
        modules = [file.stem for file in sorted(room.glob("[a-z]*.py"))]
        about = ast.get_docstring(ast.parse((room / "__init__.py").read_text())) or ""
        made[room.name] = page(room.name, f"gpz_jax.{room.name}", modules, about)
    return made


def page(title: str, package: str, modules: list[str], about: str = "") -> tuple[str, str]:
    """A title; and it, a paragraph and the docstrings of modules as Markdown."""
    return title, "\n\n".join([f"# {title}", about, *(f"::: {package}.{module}" for module in modules)]) + "\n"
