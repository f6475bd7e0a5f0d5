"""Object stores for tests: one of our own that can be killed at any operation, and emulators on the loopback."""

import contextlib
import datetime
import os
import socket
import subprocess
import sys
import time

from several import free_port

from gpz_jax.runs.object_store import Found, StoreError


class Killed(BaseException):
    """The process is gone, as by SIGKILL: nothing of it may be caught."""


class Shelf:
    """A :class:`gpz_jax.runs.object_store.Store` in memory, with a clock of its own and operations that can fail.

    ``left``: operations until one fails; ``after``: whether that one is still carried out; ``error``: what it raises.
    """

    url = "s3://bucket/runs/a"

    def __init__(self):
        self.objects, self.clock = {}, 0.0
        self.left, self.after, self.error = None, False, Killed
        self.operations = 0

    @contextlib.contextmanager
    def failing(self, left, *, after=False, error=Killed):
        self.left, self.after, self.error = left, after, error
        try:
            yield
        finally:
            self.left = None

    def _do(self, work):
        self.operations += 1
        if self.left is not None:
            self.left -= 1
            if self.left < 0:
                if self.after and self.left == -1:
                    work()
                raise self.error("the network is away" if self.error is StoreError else "")
        return work()

    def _put(self, name, data):
        when = datetime.datetime.fromtimestamp(self.clock, datetime.UTC)
        self.objects[name] = (data, when)

    def names(self, folder):
        return self._do(
            lambda: {
                name: Found(len(data), when)
                for name, (data, when) in self.objects.items()
                if name.startswith(f"{folder}/")
            }
        )

    def read(self, name):
        return self._do(lambda: self.objects[name][0] if name in self.objects else None)

    def write(self, name, data):
        self._do(lambda: self._put(name, data))

    def create(self, name, data):
        def work():
            if name in self.objects:
                return self.objects[name][0] == data
            self._put(name, data)
            return True

        return self._do(work)

    def send(self, files):
        for name, path in files.items():
            self._do(lambda name=name, path=path: self._put(name, path.read_bytes()))

    def fetch(self, files):
        for name, path in files.items():
            data = self.read(name)
            if data is None:
                raise FileNotFoundError(name)
            path.write_bytes(data)

    def copy(self, name, to):
        self._do(lambda: self._put(to, self.objects[name][0]))

    def remove(self, names):
        for name in names:
            self._do(lambda name=name: self.objects.pop(name, None))


@contextlib.contextmanager
def serving(argv, **environment):
    """A server of Python on a free port of the loopback address, as ``http://…``; ``PORT`` in ``argv`` is its port."""
    port = str(free_port())
    argv = [sys.executable, *(port if word == "PORT" else word for word in argv)]
    quiet = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}
    with subprocess.Popen(argv, env={**os.environ, **environment}, **quiet) as server:
        try:
            for _ in range(600):
                assert server.poll() is None, argv
                with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", int(port)), 1):
                    break
                time.sleep(0.1)
            yield f"http://127.0.0.1:{port}"
        finally:
            server.kill()


def s3(**environment):
    """moto's S3, with conditions on writes as in the real one."""
    return serving(["-m", "moto.server", "-H", "127.0.0.1", "-p", "PORT"], **environment)


def gcs():
    """gcp-storage-emulator, which ignores conditions on writes."""
    return serving(["-m", "gcp_storage_emulator", "start", "--host", "127.0.0.1", "--port", "PORT", "--in-memory"])


def s3_environment(url):
    """What has S3's client ask this server, whatever the user's own settings are."""
    return {
        "AWS_ENDPOINT_URL": url,
        "AWS_ACCESS_KEY_ID": "testing",
        "AWS_SECRET_ACCESS_KEY": "testing",
        "AWS_DEFAULT_REGION": "us-east-1",
        "AWS_CONFIG_FILE": os.devnull,
        "AWS_SHARED_CREDENTIALS_FILE": os.devnull,
    }
