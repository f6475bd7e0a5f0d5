"""``gpz``: one name for all commands, recipes by name, and going on without repeating oneself."""

import importlib.metadata
import json
import pathlib
import shutil
import subprocess
import sys
import tomllib

import pytest
import tiny_runs
from tiny_runs import TINY

from gpz_jax import __main__ as gpz
from gpz_jax import settings_files, train
from gpz_jax.config import Config
from gpz_jax.settings_files import read_toml, recipe_file, recipes

ROOT = pathlib.Path(__file__).parent.parent


def said(capsys, *argv):
    gpz.main(list(argv))
    return capsys.readouterr().out


@pytest.mark.parametrize("argv", [(), ("--help",), ("-h",)])
def test_alone_it_lists_the_commands(capsys, argv):
    text = said(capsys, *argv)
    for name, does in gpz.COMMANDS.items():
        assert f"  {name}" in text
        assert does in text
    assert max(map(len, text.splitlines())) <= 88


def test_the_list_is_all_there_is():
    commands = {
        path.stem for path in (ROOT / "gpz_jax").glob("*.py") if "one_line_errors\ndef main" in path.read_text()
    }
    assert commands - {"__main__"} == set(gpz.COMMANDS)


def test_version(capsys):
    assert said(capsys, "--version").split() == ["gpz_jax", importlib.metadata.version("gpz-jax")]


def test_as_a_module():
    done = subprocess.run(
        [sys.executable, "-m", "gpz_jax", "cuts", "--help"], capture_output=True, text=True, env=tiny_runs.ENVIRONMENT
    )
    assert done.returncode == 0, done.stderr
    assert "usage: gpz cuts" in done.stdout


@pytest.mark.parametrize(
    ("argv", "line"),
    [
        (("trian",), "unknown command 'trian'; did you mean 'train'? (gpz alone lists them)"),
        (
            ("zzz",),
            "unknown command 'zzz'; known: train, probe, attack, cuts, split, vortex, report (gpz alone lists them)",
        ),
        (("--completion", "fish"), "--completion 'fish'; known: bash, zsh"),
        (
            ("probe", "runs/a", "--split", "tset"),
            "--split 'tset' is not one of test, train, validation, auxiliary, full; did you mean 'test'? "
            "(see gpz probe --help)",
        ),
        (
            ("train", "--quantiser", "zzz"),
            "--quantiser 'zzz' is not one of float32, bfloat16, uint8 (see gpz train --help)",
        ),
        (("train", "--epoch", "3"), "unknown flag '--epoch'; did you mean '--epochs'? (see gpz train --help)"),
    ],
)
def test_what_is_misspelt(capsys, argv, line):
    assert tiny_runs.refused(capsys, gpz.main, *argv) == line


@pytest.mark.parametrize("shell", gpz.SHELLS)
def test_completion_is_a_script_that_the_shell_can_read(capsys, shell):
    script = said(capsys, "--completion", shell)
    assert "--decoder-width" in script
    if shell == "bash" and shutil.which("bash"):
        asked = f"{script}\nCOMP_WORDS=(gpz attack --decoder-w) COMP_CWORD=2\n_gpz\necho ${{COMPREPLY[@]}}"
        done = subprocess.run(["bash", "-c", asked], capture_output=True, text=True)
        assert (done.stdout.split(), done.stderr) == (["--decoder-width"], "")


# Recipes.


def test_recipes_are_found_by_name_and_a_path_wins(tmp_path, monkeypatch):
    assert recipe_file("laptop/vgg19") == recipes()["laptop/vgg19"] == recipe_file("laptop/vgg19.toml")
    assert read_toml(recipe_file("laptop/vgg19"))["model"]["model"] == "vgg19"
    monkeypatch.chdir(tmp_path)
    (tmp_path / "digits.toml").write_text("seed = 5")
    assert recipe_file("digits.toml") == pathlib.Path("digits.toml")


def test_an_unknown_recipe_says_which_there_are(capsys):
    line = tiny_runs.refused(capsys, train.main, "--config", "laptop/vgg91")
    assert line.startswith("--config laptop/vgg91: neither a file nor a recipe; the recipes are digits, laptop/ir152")
    assert line.endswith("; did you mean 'laptop/vgg19'?")


def test_the_wheel_holds_the_recipes_where_they_are_looked_for(tmp_path, monkeypatch):
    wheel = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["hatch"]["build"]["targets"]["wheel"]
    assert wheel["force-include"] == {"configs": "gpz_jax/configs"}
    shutil.copytree(ROOT / "configs", tmp_path / "gpz_jax" / "configs")
    monkeypatch.setattr(settings_files, "__file__", str(tmp_path / "gpz_jax" / "settings_files.py"))
    assert recipe_file("laptop/vgg19").is_relative_to(tmp_path)
    assert (ROOT / "gpz_jax" / "py.typed").is_file()


def test_help_names_the_recipes(capsys):
    with pytest.raises(SystemExit):
        train.main(["--help"])
    assert "laptop/vgg19" in capsys.readouterr().out


# Going on.


@pytest.fixture(scope="module")
def begun(tmp_path_factory):
    folder = tmp_path_factory.mktemp("begun") / "run"
    tiny_runs.trained(folder)
    written = json.loads((folder / "config.json").read_text())
    written["config"]["seed"] = 3  # not the usual one, which resuming must read
    tiny_runs.change_json(folder / "config.json", config=written["config"])
    return folder


def trained(*argv, cwd):
    """What training says, in a process of its own: optax wants the usual promotion of dtypes."""
    done = tiny_runs.command("train", *argv, cwd=cwd)
    assert done.returncode == 0, done.stderr
    return done


@pytest.mark.slow
def test_resuming_needs_no_other_flag(begun, tmp_path):
    run = shutil.copytree(begun, tmp_path / "run")
    settings = json.loads((run / "config.json").read_text())["config"]
    said = trained("--run", run, "--resume", "--epochs", 3, cwd=tmp_path)
    assert "continuing after epoch 2 of 3" in said.stderr
    again = json.loads((run / "config.json").read_text())["config"]
    settings["training"]["epochs"] = 3
    assert again == settings
    assert again["training"]["ls"] == 0.3
    assert again["model"]["width"] != Config().model.width


@pytest.mark.parametrize(
    ("flags", "words"),
    [(("--ls", "0.1"), "ls 0.3 (not 0.1)"), (("--seed=4", "--width=8"), "width 4 (not 8); seed 3 (not 4)")],
)
def test_flags_that_are_given_must_agree(begun, tmp_path, capsys, flags, words):
    run = shutil.copytree(begun, tmp_path / "run")
    before = tiny_runs.snapshot(run)
    line = tiny_runs.refused(capsys, train.main, "--run", run, "--resume", *flags)
    assert f"holds a run of another configuration: {words};" in line
    assert tiny_runs.snapshot(run) == before


def test_a_file_that_disagrees_is_refused_too(begun, tmp_path, capsys):
    (tmp_path / "x.toml").write_text("[training]\nls = 0.2")
    line = tiny_runs.refused(capsys, train.main, "--run", begun, "--resume", "--config", tmp_path / "x.toml")
    assert "ls 0.3 (not 0.2)" in line


@pytest.mark.slow
def test_a_sweep_goes_on_without_its_seeds_and_alphas(tmp_path):
    sweep = ("--seeds", "0", "--seeds", "1", "--alphas", "0.3", "--alphas", "0")
    trained(*TINY, "--epochs", 1, *sweep, "--run", "sweep", cwd=tmp_path)
    said = trained("--run", "sweep", "--resume", "--epochs", 2, cwd=tmp_path)
    assert "continuing after epoch 1 of 2" in said.stderr
    assert "4 runs" in said.stdout
