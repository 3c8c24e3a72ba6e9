"""The other end of `benchmarks.child`, or of a module like it: a contender's process, asked and waited for."""

import json
import os
import select
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import MappingProxyType
from typing import Any

ROOT = Path(__file__).parents[1]


class ContenderError(Exception):
    """A contender raised, ended or took too long; the message is one line."""


class Process:
    """Started at once; it loads while others are being started."""

    def __init__(
        self,
        contender: str,
        workload: str,
        scale: str,
        file: Path,
        log: Path,
        module: str = "benchmarks.child",
        arguments: Sequence[str] = (),
        settings: Mapping[str, str] = MappingProxyType({}),
        root: Path = ROOT,
    ) -> None:
        self.log = log
        self._log_file = log.open("wb")
        self._process = subprocess.Popen(
            [sys.executable, "-m", module, contender, workload, scale, str(file), *arguments],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self._log_file,
            cwd=root,  # whose package it takes
            env=environment(scale) | dict(settings),
        )
        self._send("hello")

    def loaded(self, limit: float) -> dict[str, Any]:
        """The next thing that it says, at first of itself once it has started."""
        return self._receive(limit)

    def ask(self, command: str, limit: float) -> dict[str, Any]:
        """The reply to one command, within `limit` seconds.

        Raises:
            ContenderError: it raised, ended or took longer, and is then stopped.
        """
        self.tell(command)
        return self._receive(limit)

    def tell(self, command: str) -> None:
        """Give one command without waiting; `loaded` waits for the reply."""
        self._send(command)

    def stop(self) -> None:
        if self._process.poll() is None:
            self._process.kill()
        self._process.wait()
        for pipe in (self._process.stdin, self._process.stdout, self._log_file):
            if pipe is not None:
                pipe.close()

    def _send(self, command: str) -> None:
        assert self._process.stdin is not None
        try:
            self._process.stdin.write(f"{command}\n".encode())
            self._process.stdin.flush()
        except OSError as error:
            raise ContenderError(self._how_it_ended()) from error

    def _receive(self, limit: float) -> dict[str, Any]:
        assert self._process.stdout is not None
        ready, _, _ = select.select([self._process.stdout], [], [], limit)
        if not ready:
            self._process.kill()
            raise ContenderError(f"took longer than {limit:.0f} s")
        line = self._process.stdout.readline()
        if not line:
            raise ContenderError(self._how_it_ended())
        reply = json.loads(line)
        if "error" in reply:
            raise ContenderError(reply["error"])
        return reply

    def _how_it_ended(self) -> str:
        status = self._process.wait()
        lines = self.log.read_text(errors="replace").strip().splitlines()
        return f"ended with status {status}: {lines[-1] if lines else 'no message'}"


def environment(scale: str) -> dict[str, str]:
    """Of contenders: no compiled code from earlier runs where times count, and a device that several can share."""
    kept = dict(os.environ)
    if scale == "full":
        kept.pop("JAX_COMPILATION_CACHE_DIR", None)
    return kept | {"XLA_PYTHON_CLIENT_PREALLOCATE": "false", "TF_CPP_MIN_LOG_LEVEL": "2"}
