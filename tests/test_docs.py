"""The README is short, its pages and notebooks do what they say, and the site builds."""

import doctest
import importlib.util
import os
import pathlib
import re
import subprocess
import sys

import pytest

ROOT = pathlib.Path(__file__).parents[1]
DOCS = ROOT / "docs"
README = (ROOT / "README.md").read_text()
BLOCKS = re.findall(r"^```([a-z]*)\n(.*?)^```$", README, re.DOTALL | re.MULTILINE)  # (language, text)
NOTEBOOKS = sorted((DOCS / "notebooks").glob("*.py"))
SNIPPETS = sorted(page for page in DOCS.rglob("*.md") if ">>> " in page.read_text())


def run(*arguments, cwd, typed=None, **environment):
    """Run this Python in a process of its own, the repository's package on its path, what is typed as its input."""
    path = os.pathsep.join([str(ROOT), os.environ.get("PYTHONPATH", "")])
    plain = {name: value for name, value in os.environ.items() if name != "XLA_FLAGS"}  # one device, as a reader has
    everything = {**plain, "PYTHONPATH": path, "MPLBACKEND": "Agg", **environment}
    return subprocess.run(
        [sys.executable, *arguments], cwd=cwd, env=everything, input=typed, capture_output=True, text=True, timeout=300
    )


def test_readme_is_short():
    assert len(README.splitlines()) <= 120


def test_what_the_readme_shows_fits_a_terminal():
    for language, block in BLOCKS:
        if language:
            continue
        output = [line for line in block.splitlines() if not line.startswith(("python", "gpz ", "pip"))]
        assert all(len(line) <= 80 for line in output), block


def test_the_files_that_the_readme_names_are_there():
    for target in re.findall(r"\]\(([^)#]+)\)", README):
        assert (ROOT / target).exists(), target


@pytest.mark.slow
def test_the_snippet_of_the_readme_pastes_into_a_plain_session(tmp_path):
    (snippet,) = (block for language, block in BLOCKS if language == "python")
    done = run("-i", "-q", cwd=tmp_path, typed=snippet)
    assert "Error" not in done.stderr, done.stderr
    assert "class mean" in done.stdout
    assert all(len(line) <= 80 for line in done.stdout.splitlines())


@pytest.mark.slow  # CI runs them with the notebooks
@pytest.mark.parametrize("page", SNIPPETS, ids=lambda page: page.stem)
def test_snippets_of_the_pages(page):
    flags = doctest.NORMALIZE_WHITESPACE | doctest.ELLIPSIS
    failed, tried = doctest.testfile(str(page), module_relative=False, optionflags=flags)
    assert tried
    assert not failed


@pytest.mark.parametrize("notebook", NOTEBOOKS, ids=lambda notebook: notebook.stem)
@pytest.mark.slow  # in sum; CI runs them in a step of their own
def test_notebooks_run(notebook, tmp_path):
    # In jupytext's percent format a notebook is a Python program.
    done = run(str(notebook), cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert done.stdout


@pytest.mark.skipif(importlib.util.find_spec("mkdocs") is None, reason="needs gpz-jax[docs]")
@pytest.mark.slow
def test_the_site_builds(tmp_path):
    done = run("-m", "mkdocs", "build", "--strict", "-d", str(tmp_path), cwd=ROOT, GPZ_DOCS_EXECUTE="false")
    assert done.returncode == 0, done.stderr
