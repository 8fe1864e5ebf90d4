"""`bisync run` as a process of its own, for tests: started, killed, frozen, stopped, always by its process id."""

import contextlib
import os
import pathlib
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator

from bisync.errors import BisyncError

END_S = 30.0  # for the process to end once it was told to
LOG_SHOWN = 2_500  # characters at the end of its log, in an error


class EngineProcess:
    """One process that runs a job. Its log goes to a file, after what is in it already."""

    def __init__(self, job_file: pathlib.Path, log: pathlib.Path) -> None:
        """Start it; does not wait for anything."""
        self.log = log
        with open(log, "ab") as out:
            words = [sys.executable, "-m", "bisync", "run", str(job_file)]
            self.process = subprocess.Popen(words, stdin=subprocess.DEVNULL, stdout=out, stderr=out)

    def __repr__(self) -> str:
        return f"<EngineProcess {self.process.pid} {self.process.poll()}>"

    @property
    def running(self) -> bool:
        """Has it not ended yet?"""
        return self.process.poll() is None

    @property
    def log_end(self) -> str:
        """The end of its log."""
        return self.log.read_text(errors="replace")[-LOG_SHOWN:]

    @property
    def resident_bytes(self) -> int:
        """The memory that it uses now (RSS). Raises OSError where the system has no /proc, or it has ended."""
        return self._memory("VmRSS:")

    @property
    def peak_bytes(self) -> int:
        """The most memory that it has used so far. Raises as `resident_bytes` does."""
        return self._memory("VmHWM:")

    def _memory(self, name: str) -> int:
        status = pathlib.Path(f"/proc/{self.process.pid}/status").read_text()
        line = next((line for line in status.splitlines() if line.startswith(name)), None)
        if line is None:
            raise ProcessLookupError(f"process {self.process.pid} has ended")
        return int(line.split()[1]) * 1024

    def check(self) -> bool:
        """It runs. Raises BisyncError where it ended by itself."""
        if not self.running:
            status = self.process.returncode
            raise BisyncError(f"the engine ended by itself with exit status {status}", why=self.log_end.strip())
        return True

    def kill(self) -> None:
        """End it as a crash does (SIGKILL). Nothing where it has ended."""
        if self.running:
            self.process.kill()
        self.process.wait(END_S)

    def stop(self) -> None:
        """End it properly (SIGTERM). Raises BisyncError where it does not exit with 0.

        One that is so young that it has not said a word may end by the signal itself, as any program does that is only
        being loaded.
        """
        self.check()
        young = not self.log_end
        self.process.terminate()
        self.ends(0, *[-signal.SIGTERM] * young)

    def ends(self, *statuses: int) -> None:
        """Wait for its end. Raises BisyncError where its exit status is none of these, or it does not end."""
        try:
            found = self.process.wait(END_S)
        except subprocess.TimeoutExpired:
            raise BisyncError(f"the engine has not ended after {END_S:g} s", why=self.log_end.strip()) from None
        if found not in statuses:
            raise BisyncError(f"the engine's exit status is {found}, not {statuses[0]}", why=self.log_end.strip())

    def freeze(self, seconds: float, halted: threading.Event) -> None:
        """Freeze it for that long, or until `halted` is set."""
        with self.frozen():
            halted.wait(seconds)

    @contextlib.contextmanager
    def frozen(self) -> Iterator[None]:
        """Freeze it for the block (SIGSTOP, SIGCONT). Where the system tells, it stands still when the block begins."""
        self.process.send_signal(signal.SIGSTOP)
        if self.running and hasattr(os, "waitid"):  # a Mac has none
            os.waitid(os.P_PID, self.process.pid, os.WSTOPPED | os.WEXITED | os.WNOWAIT)
        try:
            yield
        finally:
            self.process.send_signal(signal.SIGCONT)
