"""Forty signals at random moments of every command that writes a run: nothing is lost, nothing differs by a bit."""

import pathlib
import subprocess
import sys

import pytest
from tiny_runs import ENVIRONMENT

SCRIPT = pathlib.Path(__file__).parent.parent / "experiments" / "crashes.py"


@pytest.mark.crash
def test_forty_signals(tmp_path):
    argv = [sys.executable, str(SCRIPT), "--kills", "40", "--out", str(tmp_path / "crashes")]
    said = subprocess.run(argv, env=ENVIRONMENT, capture_output=True, text=True, timeout=3600)
    print(said.stdout)  # -s shows the counts, the seconds to the exit and the epochs lost
    assert not said.returncode, said.stdout + said.stderr
    assert "every folder is bit for bit that of a run nobody touched" in said.stdout
