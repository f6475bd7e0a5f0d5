"""Start several processes that work together, each with some of the CPU backend's devices, and wait for them."""

import os
import socket
import subprocess
import sys

from tiny_runs import ENVIRONMENT

#: Seconds in which they must end; nothing is measured by it.
LIMIT = 300


def free_port():
    """A port that nobody listens on."""
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        return found.getsockname()[1]


def start(count, *arguments, cwd, devices=1, together=None):
    """Start ``count`` processes of Python with the arguments, and with what ``together`` makes of (port, count, i)."""
    port = free_port()
    together = as_flags if together is None else together
    flags = f"--xla_force_host_platform_device_count={devices} --xla_cpu_collective_call_terminate_timeout_seconds=300"
    started = []
    for i in range(count):
        argv = [sys.executable, *map(str, arguments), *together(port, count, i)]
        environment = {**ENVIRONMENT, "XLA_FLAGS": flags}
        pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
        started.append(subprocess.Popen(argv, cwd=cwd, env=environment, **pipes))
    return started


def as_flags(port, count, i):
    """The command's flags."""
    return ["--coordinator", f"127.0.0.1:{port}", "--processes", str(count), "--process", str(i)]


def finished(processes):
    """Wait for all; returns what each said as (status, stdout, stderr)."""
    said = []
    try:
        for one in processes:
            out, err = one.communicate(timeout=LIMIT)
            said.append((one.returncode, out, err))
    finally:
        for one in processes:
            one.kill()
    return said


def run(count, *arguments, cwd, devices=1, together=None):
    """Start them and wait."""
    return finished(start(count, *arguments, cwd=cwd, devices=devices, together=together))


HERE = os.path.dirname(__file__)
