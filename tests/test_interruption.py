"""Signals from the first moment of a command, and none of somebody else's program."""

import signal
import subprocess
import sys

import pytest
from tiny_runs import ENVIRONMENT

from gpz_jax import interruption


@pytest.mark.parametrize(
    ("argv", "whole", "ours"),
    [
        (["-m", "RUN"], ["python", "-m", "gpz_jax.probe", "RUN"], True),
        (["-m"], ["python", "-W", "error", "-m", "gpz_jax"], True),
        (["/usr/bin/gpz", "train"], ["python", "/usr/bin/gpz", "train"], True),
        (["-m", "gpz_jax"], ["python", "-m", "pytest", "gpz_jax"], False),
        (["-m"], ["python", "-m", "gpz_jaxer"], False),
        (["mine.py", "-m", "gpz_jax"], ["python", "mine.py", "-m", "gpz_jax"], False),
        (["-c"], ["python", "-c", "import gpz_jax"], False),
        ([""], ["python"], False),
        ([], [], False),
    ],
)
def test_which_processes_are_our_commands(monkeypatch, argv, whole, ours):
    monkeypatch.setattr(sys, "argv", argv)
    monkeypatch.setattr(sys, "orig_argv", whole)
    assert interruption.is_our_command() == ours


@pytest.mark.parametrize(("number", "status"), [(signal.SIGTERM, 143), (signal.SIGINT, 130)])
def test_a_signal_while_a_command_imports(number, status, tmp_path):
    """By a module found in jax's place, which stands for the second that importing jax takes."""
    (tmp_path / "jax.py").write_text(
        f"import signal\nsignal.raise_signal({int(number)})\nraise SystemExit('went on')\n"
    )
    environment = {**ENVIRONMENT, "PYTHONPATH": f"{tmp_path}:{ENVIRONMENT['PYTHONPATH']}"}
    argv = [sys.executable, "-m", "gpz_jax.train", "--run", str(tmp_path / "run")]
    said = subprocess.run(argv, env=environment, cwd=tmp_path, capture_output=True, text=True, timeout=60)
    assert said.returncode == status
    assert said.stderr.startswith(f"gpz: stopped by {signal.Signals(number).name}; ")
    assert said.stderr.count("\n") == 1


def test_a_signal_that_nothing_asked_for_is_raised_on_leaving():
    with pytest.raises(interruption.Stopped, match="what was finished is saved") as stopped, interruption.noted():
        signal.raise_signal(signal.SIGTERM)
    assert stopped.value.status == 143


#: Work whose step never ends, or never until it is saved.
LONG = """
import signal, threading
from gpz_jax import interruption
interruption.GRACE = interruption.AT_ONCE = 0.0
with interruption.{how}() as stop:
    with stop.saving() if {saving} else threading.Lock():
        signal.raise_signal(signal.SIGTERM)
        {then}
"""


@pytest.mark.parametrize("how", ["noted", "ending"])
def test_a_step_that_does_not_end_is_not_waited_for(how):
    waits = LONG.format(how=how, saving=False, then="threading.Event().wait()")
    said = subprocess.run([sys.executable, "-c", waits], env=ENVIRONMENT, capture_output=True, text=True, timeout=60)
    assert said.returncode == 143, said.stderr
    assert said.stderr.splitlines()[-1].startswith("gpz: stopped by SIGTERM; everything up to the last save is kept")


def test_a_save_is_waited_for():
    saves = LONG.format(how="noted", saving=True, then="print('saved', flush=True)")
    said = subprocess.run([sys.executable, "-c", saves], env=ENVIRONMENT, capture_output=True, text=True, timeout=60)
    assert said.stdout == "saved\n"
    assert "gpz_jax.interruption.Stopped: what was finished is saved" in said.stderr


LATE = """
import os
from gpz_jax import interruption

interruption.end_from_now_on()

class Late:
    def __init__(self, kill=os.kill, pid=os.getpid()):
        self.kill, self.pid = kill, pid

    def __del__(self):  # as the interpreter takes its modules down
        self.kill(self.pid, int(number))

kept = Late()
"""


@pytest.mark.parametrize("number", interruption.SIGNALS)
def test_a_signal_after_everything_is_done_changes_nothing(number):
    done = subprocess.run(
        [sys.executable, "-c", LATE.replace("int(number)", str(int(number)))],
        env=ENVIRONMENT, capture_output=True, text=True, timeout=60,
    )  # fmt: skip
    assert (done.returncode, done.stderr) == (0, "")
