"""Flags over the file over the defaults, help for every flag, and one line for every mistake."""

import ast
import dataclasses
import inspect
import json
import re

import pytest

from gpz_jax import attack, flags, probe, train
from gpz_jax.config import AttackConfig, Config, ModelConfig, ProbeConfig, TrainingConfig, check_attack, resolve
from gpz_jax.errors import UserError
from gpz_jax.settings_files import from_mapping

SECTIONS = {train.Train: ("settings",), probe.Probe: ("probe",), attack.Attack: ("attack",)}


def parse(command, *argv):
    return flags.parse(command, argv, prog="gpz", description="What it does.", sections=SECTIONS[command])


def settings(*argv):
    return parse(train.Train, *argv).settings


@pytest.fixture
def toml(tmp_path):
    """Write a file and give the flag that reads it."""

    def write(text):
        (tmp_path / "x.toml").write_text(text)
        return f"--config={tmp_path / 'x.toml'}"

    return write


# Layers.


def test_defaults():
    assert settings() == Config()
    assert parse(probe.Probe, "runs/a").probe == ProbeConfig()
    assert parse(attack.Attack, "runs/a").attack == AttackConfig()


def test_flags_win_over_the_file_and_the_file_over_the_defaults(toml):
    file = toml(
        'seed = 7\n[model]\nwidth = 8\n[training]\nls = 0.3\nepochs = 9\n[probe]\nrule = ["null"]\n[attack]\nlr = 1'
    )
    only_file = settings(file)
    assert only_file.seed == 7
    assert only_file.model == ModelConfig(width=8)
    assert only_file.training == TrainingConfig(ls=0.3, epochs=9)
    assert only_file.probe.rule == ("null",)
    both = settings(file, "--epochs", "3", "--ls", "-0.05", "--seed=1")
    assert both == dataclasses.replace(only_file, seed=1, training=TrainingConfig(ls=-0.05, epochs=3))
    assert settings("--config", file.removeprefix("--config="), "--seed", "0").seed == 0  # even back to the default


@pytest.mark.parametrize("flags", [["--rule", "paper"], ["--rule=paper"]])
def test_a_repeatable_flag_replaces_the_list_of_the_file(toml, flags):
    file = toml('[probe]\nrule = ["null"]')
    assert parse(probe.Probe, "runs/a", file).probe.rule == ("null",)
    assert parse(probe.Probe, "runs/a", file, *flags).probe.rule == ("paper",)
    assert parse(probe.Probe, "runs/a", file, *flags, "--rule", "null").probe.rule == ("paper", "null")


def test_each_command_reads_its_own_tables(toml):
    file = toml("[training]\nepochs = 9\n[attack]\nepochs = 5\ncut = ['block_4', 'logits']")
    assert settings(file).training.epochs == 9
    flags = parse(attack.Attack, "runs/a", file, "--lr", "0.1")
    assert flags.attack == AttackConfig(cut=("block_4", "logits"), epochs=5, lr=0.1)
    assert parse(probe.Probe, "runs/a", file).probe == ProbeConfig()


def test_whole_numbers_will_do_for_fractions(toml):
    ls = settings(toml("[training]\nls = 0")).training.ls
    assert (ls, type(ls)) == (0.0, float)


def test_optional_settings():
    assert settings("--warmup-epochs", "3", "--aux", "letters").training.warmup_epochs == 3
    assert settings("--limit", "10").probe.limit == 10
    assert parse(probe.Probe, "runs/a", "--ls", "-0.05").identity.ls == -0.05
    assert settings("--unbiased").probe.unbiased


# Help.


def documented(kind):
    """(flag, docstring) of every flag of a command, nested settings included."""
    (tree,) = ast.parse(inspect.getsource(kind)).body
    hints = inspect.get_annotations(kind)
    for field, text in zip(tree.body, [*tree.body[1:], None], strict=True):
        if isinstance(field, ast.AnnAssign):
            if dataclasses.is_dataclass(hints[field.target.id]):
                yield from documented(hints[field.target.id])
            else:
                assert isinstance(text, ast.Expr), f"{kind.__name__}.{field.target.id} has no docstring"
                yield "--" + field.target.id.replace("_", "-"), text.value.value


def squeezed(text):
    """Without white space and boxes, so that it does not matter where lines were broken."""
    return "".join(c for c in text if not c.isspace() and c not in "│╭╮╰╯─")


@pytest.mark.parametrize("command", SECTIONS)
def test_help_says_what_every_flag_does(command, capsys, monkeypatch):
    monkeypatch.setenv("COLUMNS", "100")
    with pytest.raises(SystemExit) as stop:
        parse(command, "--help")
    assert stop.value.code == 0
    said = capsys.readouterr()
    assert said.err == ""
    flags = dict(documented(command))
    assert len(flags) >= 10
    for flag, text in flags.items():
        assert squeezed(text) in squeezed(said.out), flag
        if flag != "--folder":  # positional
            assert flag in said.out
    assert "What it does." in said.out


# Mistakes.


@pytest.mark.parametrize(
    ("argv", "message"),
    [
        (["--epoch", "3"], r"^unknown flag '--epoch'; did you mean '--epochs'\? \(see gpz --help\)$"),
        (["--lr", "1.2.3"], r"^--lr '1\.2\.3' is not a number \(see gpz --help\)$"),
        (["--patience", "it's"], r"""^--patience "it's" is not a whole number \(see gpz --help\)$"""),
        (["--btach-size=3"], "unknown flag '--btach-size'; did you mean '--batch-size'"),
        (["--batch-size", "many"], r"^--batch-size 'many' is not a whole number \(see gpz --help\)$"),
        (["--labels", "guessed"], "guessed.*kmeans"),
        (["--epochs"], "--epochs"),
        (["stray"], "unexpected argument 'stray'"),
    ],
)
def test_bad_flags(argv, message):
    with pytest.raises(UserError, match=message):
        settings(*argv)


def test_a_run_folder_must_be_given():
    for command in (probe.Probe, attack.Attack):
        with pytest.raises(UserError, match="a run folder is missing, such as: gpz runs/NAME"):
            parse(command)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("[training]\nepoch = 3", r"\[training\]: unknown key 'epoch'; did you mean 'epochs'"),
        ("[trainign]\nepochs = 3", "unknown key 'trainign'; did you mean 'training'"),
        ("epochs = 3", "unknown key 'epochs'"),
        ("training = 3", r"\[training\] must be a table, got 3"),
        ("[training]\nepochs = 3.5", r"\[training\]: epochs must be int, got 3.5"),
        ("[training]\nepochs = true", "epochs must be int, got True"),
        ("[training]\nls = 'high'", "ls must be float, got 'high'"),
        ("[training]\nwarmup_epochs = '1'", "warmup_epochs must be int, got '1'"),
        ("[probe]\nlabels = 'guessed'", "labels must be one of true, predicted, kmeans, got 'guessed'"),
        ("[probe]\nrule = [1]", "rule must be str, got 1"),
        ("[training\nepochs = 3", "x.toml: .*line 1"),
    ],
)
def test_bad_files(toml, text, message):
    with pytest.raises(UserError, match=message) as raised:
        settings(toml(text))
    assert "x.toml: " in str(raised.value)


def test_bad_tables_of_the_other_commands(toml):
    for table, command in (("probe", probe.Probe), ("attack", attack.Attack)):
        with pytest.raises(UserError, match=rf"\[{table}\] must be a table, got 3"):
            parse(command, "runs/a", toml(f"{table} = 3"))
        with pytest.raises(UserError, match="unknown key 'seeds'"):
            parse(command, "runs/a", toml("seeds = 3"))


def test_a_file_that_is_not_there_or_not_text(tmp_path):
    with pytest.raises(UserError, match=r"--config nowhere\.toml: no such file"):
        settings("--config", "nowhere.toml")
    with pytest.raises(UserError, match=f"--config {tmp_path}: "):
        settings("--config", str(tmp_path))
    (tmp_path / "x.toml").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(UserError, match=r"--config .*x\.toml: "):
        settings("--config", str(tmp_path / "x.toml"))


# What a run can have.


@pytest.mark.parametrize("value", ["1", "1.5", "nan", "inf", "-inf"])
def test_impossible_smoothing(value):
    with pytest.raises(UserError, match=f"ls must be a finite number below 1, got {value}"):
        resolve(settings(f"--ls={value}"))


@pytest.mark.parametrize(
    ("argv", "message"),
    [
        (["--epochs", "0"], "--epochs must be at least 1, got 0"),
        (["--batch-size", "0"], "--batch-size must be at least 1"),
        (["--lr", "0"], "--lr must be a positive number, got 0"),
        (["--lr", "nan"], "--lr must be a positive number, got nan"),
        (["--validation-fraction", "1"], "--validation-fraction must lie between 0 and 1, got 1"),
        (["--auxiliary-fraction", "nan"], "--auxiliary-fraction must lie between 0 and 1, got nan"),
        (["--seed", "-1"], "--seed must be at least 0, got -1"),
        (["--null-seeds", "-1"], "--null-seeds must be at least 0"),
        (["--limit", "0"], "--limit must be at least 1"),
        (["--bootstrap", "0"], "--bootstrap must be at least 1"),
        (["--warmup-epochs", "-1"], "--warmup-epochs must be at least 0"),
        (["--ls", "-0.05", "--warmup-epochs", "5", "--epochs", "5"], "--warmup-epochs 5 leaves none of the 5 epochs"),
    ],
)
def test_impossible_settings(argv, message):
    with pytest.raises(UserError) as raised:
        resolve(settings(*argv))
    assert re.search(message, raised.value.with_flags())


def test_attacks_of_a_file_and_of_flags(toml):
    file = toml("[attack]\nattack = ['linear', 'residual']\nlr = 0.5")
    assert parse(attack.Attack, "runs/a", file).attack.attack == ("linear", "residual")
    flags = parse(attack.Attack, "runs/a", file, "--attack", "likelihood")
    assert flags.attack == AttackConfig(attack=("likelihood",), lr=0.5)
    with pytest.raises(UserError, match=r"\[attack\]: unknown key 'rung'"):
        parse(attack.Attack, "runs/a", toml("[attack]\nrung = ['linear']"))


@pytest.mark.parametrize(
    ("argv", "message"),
    [
        (["--epochs", "0"], "--epochs must be at least 1"),
        (["--decoder-width", "0"], "--decoder-width must be at least 1"),
        (["--lr", "inf"], "--lr must be a positive number, got inf"),
        (["--selection-fraction", "0"], "--selection-fraction must lie between 0 and 1"),
    ],
)
def test_impossible_attacks(argv, message):
    with pytest.raises(UserError) as raised:
        check_attack(parse(attack.Attack, "runs/a", *argv).attack)
    assert re.search(message, raised.value.with_flags())


@pytest.mark.parametrize(
    ("ls", "epochs", "asked", "expected"),
    [
        (-0.05, 40, None, 10),
        (-0.05, 3, None, 1),
        (0.3, 40, None, 0),
        (0.0, 40, None, 0),
        (-0.05, 40, 0, 0),
        (0.3, 40, 7, 7),
    ],
)
def test_warm_up_is_stated_in_the_resolved_configuration(ls, epochs, asked, expected):
    resolved = resolve(Config(training=TrainingConfig(ls=ls, epochs=epochs, warmup_epochs=asked)))
    assert resolved.training.warmup_epochs == expected
    assert dataclasses.asdict(resolved)["training"]["warmup_epochs"] == expected
    assert resolve(resolved) == resolved


def test_round_trip():
    """As config.json of a run folder does it."""
    changed = Config(
        model=ModelConfig(width=8), training=TrainingConfig(ls=-0.05), probe=ProbeConfig(rule=("paper",)), seed=3
    )
    for one in (Config(), changed, resolve(changed)):
        plain = dataclasses.asdict(one)
        assert from_mapping(Config, plain, where="config.json") == one
        assert from_mapping(Config, json.loads(json.dumps(plain)), where="config.json") == one


def test_one_epoch_leaves_no_room_for_a_default_warm_up():
    assert resolve(Config(training=TrainingConfig(ls=-0.05, epochs=1))).training.warmup_epochs == 0


def test_a_terminal_without_box_characters_gets_the_same_line():
    """PYTHONIOENCODING=ascii makes tyro draw its complaint with dashes, its title on a line of its own."""
    lines = ["Value error", "-" * 20, "Error parsing --epochs: 'x' is not an int", "-" * 20, "Argument helptext"]
    said = flags._condensed("\n".join(lines), ["--epochs", "x"], ["--epochs"], "gpz")
    assert said == "Error parsing --epochs: 'x' is not an int (see gpz --help)"
