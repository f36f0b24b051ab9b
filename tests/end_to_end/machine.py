"""Real sweeps, started as a user starts them: the command, in a process of its own, on a home of its own."""

import contextlib
import json
import os
import subprocess
import sys
import time
import uuid
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import psutil

SPACE = Path(__file__).parent / "spaces" / "small.yaml"
BIN = Path(sys.executable).parent
SWEEPS = (str(BIN / "sweeps"),)
MARK = "SWEEPS_TEST_MARK"
# What a machine that vanished is noticed by: after ten seconds instead of Ray's forty.
HEALTH = {
    "RAY_health_check_initial_delay_ms": "1000",
    "RAY_health_check_period_ms": "1000",
    "RAY_health_check_timeout_ms": "3000",
    "RAY_health_check_failure_threshold": "5",
}


@dataclass(frozen=True)
class RayHead:
    """A cluster that is running: where, and the environment of who may use it."""

    address: str
    environment: dict[str, str]


@dataclass(frozen=True)
class RayNodes:
    """A cluster of several nodes that is running, see `tests.end_to_end.ray_nodes`."""

    ray: RayHead
    process: subprocess.Popen[str]

    def add(self, node: dict[str, Any]) -> None:
        """Lets a node join."""
        self._ask(node)

    def lose(self, number: int) -> None:
        """Kills the raylet of a node that is not the head, counted from the first that joined."""
        self._ask(number)

    def _ask(self, what: dict[str, Any] | int) -> None:
        assert self.process.stdin is not None
        assert self.process.stdout is not None
        self.process.stdin.write(json.dumps(what) + "\n")
        self.process.stdin.flush()
        assert self.process.stdout.readline()


@contextlib.contextmanager
def nodes(*described: dict[str, Any]) -> Iterator[RayNodes]:
    """A cluster of nodes, the head first, as `ray start` would be told of them; it ends with the block."""
    # A Ray that was started in this process before would have left its own mode here.
    environment = {"RAY_AUTH_MODE": "disabled", **HEALTH}
    process = subprocess.Popen(
        [sys.executable, "-m", "tests.end_to_end.ray_nodes", json.dumps(described)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        env=os.environ | environment,
        start_new_session=True,
    )
    assert process.stdout is not None
    try:
        yield RayNodes(RayHead(process.stdout.readline().strip(), environment), process)
    finally:
        process.communicate(timeout=60)


@dataclass
class Machine:
    """A home, the processes that were started on it, and the cluster that they use unless they start one."""

    home: Path
    ray: RayHead | None = None
    mark: str = field(default_factory=lambda: uuid.uuid4().hex)

    def start(self, *arguments: str, command: tuple[str, ...] = SWEEPS) -> subprocess.Popen[str]:
        """Starts `sweeps`, or what stands in for it, on this home, in a session of its own."""
        environment = {**os.environ, MARK: self.mark}
        if self.ray is not None:
            environment |= {**self.ray.environment, "RAY_ADDRESS": self.ray.address}
        return subprocess.Popen(
            [*command, *arguments, "--home", str(self.home)],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            env=environment,
            start_new_session=True,
        )

    def run_module(self, module: str, *arguments: str) -> subprocess.CompletedProcess[str]:
        """Runs a module that stands in for `sweeps` on this home to its end."""
        return self.run(*arguments, command=(sys.executable, "-m", module))

    def run(
        self, *arguments: str, timeout: float = 400, command: tuple[str, ...] = SWEEPS
    ) -> subprocess.CompletedProcess[str]:
        """Runs `sweeps`, or what stands in for it, on this home to its end."""
        process = self.start(*arguments, command=command)
        try:
            out, err = process.communicate(timeout=timeout)
        except subprocess.TimeoutExpired:
            process.kill()
            raise
        return subprocess.CompletedProcess(arguments, process.returncode, out, err)

    def leaderboard(self, name: str) -> dict[str, Any]:
        done = self.run("leaderboard", name, "--format", "json")
        assert done.returncode == 0, done.stderr
        return json.loads(done.stdout)

    def owns(self, process: psutil.Process) -> bool:
        """Whether a process was started on this home, and lives."""
        try:
            return process.environ().get(MARK) == self.mark and process.status() != psutil.STATUS_ZOMBIE
        except (psutil.NoSuchProcess, psutil.AccessDenied):
            return False

    def processes(self) -> list[str]:
        """Command lines of everything that was started on this home and lives."""
        living = []
        for process in psutil.process_iter():
            if self.owns(process):
                with contextlib.suppress(psutil.NoSuchProcess):
                    living.append(" ".join(process.cmdline()) or process.name())
        return living

    def cluster_folders(self) -> list[Path]:
        """Where the clusters that run for it write, as their guards were told."""
        return [Path(line.split()[-1]) for line in self.processes() if "sweeps.guard" in line]

    def wait_until_quiet(self, timeout: float = 30) -> list[str]:
        """What is left of its processes after at most `timeout` seconds."""
        wait_for(lambda: not self.processes(), timeout=timeout)
        return self.processes()


def wait_for(claim: Callable[[], bool], *, timeout: float) -> bool:
    """Whether `claim` came true within `timeout` seconds."""
    deadline = time.monotonic() + timeout
    while not claim():
        if time.monotonic() > deadline:
            return False
        time.sleep(0.2)
    return True
