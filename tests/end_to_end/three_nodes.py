"""A Ray cluster of three nodes on one machine, as apart as three machines are.

Each node has a network namespace with an address of its own, a process namespace that ends as a whole, and
a disk of its own at `OWN`. None of them sees this project's code, which reaches them as a user's does. They
share a folder, mounted at `SHARED`, and the network, on which the laptop has the address `LAPTOP`. All of it
ends with the processes that hold it.
"""

import contextlib
import os
import secrets
import shlex
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import psutil

import distill
import search_spaces
import sweeps
from tests.end_to_end.machine import BIN, HEALTH, wait_for

SHARED = Path("/mnt")
"""Where the nodes see the folder that they share."""
OWN = Path("/media")
"""Where each node has what is its own: Ray's files, and what is temporary."""
LAPTOP = "10.77.0.1"
HEAD = "10.77.0.2"
GCS_PORT, DASHBOARD_PORT = 6379, 8265
CPUS_PER_NODE = 1
START_TIMEOUT_S = 120
TOKEN = secrets.token_hex(32)
OBJECT_STORE_BYTES = 80 * 2**20

UNSHARE = ("unshare", "--net", "--uts", "--mount", "--pid", "--fork", "--kill-child", "--mount-proc")


def why_not() -> str | None:
    """What this machine lacks for namespaces of its own; None when it has it all."""
    if missing := [tool for tool in ("ip", "unshare", "nsenter", "mount") if shutil.which(tool) is None]:
        return f"namespaces need {', '.join(missing)}: apt-get install iproute2 util-linux mount"
    tried = subprocess.run(
        [*UNSHARE, "ip", "link", "add", "try", "type", "bridge"],
        capture_output=True,
        text=True,
    )
    return f"namespaces are not to be had here: {tried.stderr.strip()}" if tried.returncode else None


@dataclass
class Node:
    """One machine: the process that holds its namespaces, and its address."""

    name: str
    address: str
    process: subprocess.Popen[str]
    log: Path

    def worker(self) -> psutil.Process | None:
        """A worker of a trial that runs on it."""
        for process in self.processes():
            with contextlib.suppress(psutil.Error):  # it has ended meanwhile
                if "RayTrainWorker" in " ".join(process.cmdline()):
                    return process
        return None

    def lose(self) -> None:
        """Kills its raylet, with which every process of it goes."""
        next(process for process in self.processes() if process.name() == "raylet").kill()
        self.process.wait(timeout=30)

    def end(self) -> None:
        """Ends every process of it."""
        self.process.kill()
        self.process.wait(timeout=30)

    def processes(self) -> list[psutil.Process]:
        """All that runs on it."""
        return psutil.Process(self.process.pid).children(recursive=True)


@dataclass
class ThreeNodes:
    """The running cluster.

    Attributes:
        shared: The folder that the nodes share, as this process sees it.
        known: What is set in the environment of every command on the laptop.
    """

    shared: Path
    folder: Path
    lan: subprocess.Popen[bytes]
    nodes: list[Node] = field(default_factory=list)
    servers: list[subprocess.Popen[bytes]] = field(default_factory=list)
    known: dict[str, str] = field(default_factory=dict)

    @property
    def within(self) -> tuple[str, ...]:
        """What begins a command that runs on the nodes' network."""
        return ("nsenter", f"--net=/proc/{self.lan.pid}/ns/net")

    @property
    def dashboard(self) -> str:
        """Where jobs are submitted."""
        return f"http://{HEAD}:{DASHBOARD_PORT}"

    def on_laptop(self, command: list[str], **environment: str) -> list[str]:
        """A command as it runs on the laptop, which is on the nodes' network and has their token."""
        settings = [f"{name}={value}" for name, value in {**token(), **self.known, **environment}.items()]
        return [*self.within, "env", *settings, *command]

    def sweeps(
        self, *arguments: str, timeout: float = 300, **environment: str
    ) -> subprocess.CompletedProcess[str]:
        """Runs `sweeps` on the laptop to its end."""
        command = self.on_laptop([str(BIN / "sweeps"), *arguments], **environment)
        return subprocess.run(
            command, capture_output=True, text=True, timeout=timeout, stdin=subprocess.DEVNULL
        )

    def serve(self, command: list[str]) -> None:
        """Starts a server on the laptop, where the nodes reach it at `LAPTOP`."""
        with (self.folder / f"{Path(command[0]).name}.log").open("wb") as log:
            server = subprocess.Popen(
                self.on_laptop(command), stdout=log, stderr=subprocess.STDOUT, start_new_session=True
            )
        self.servers.append(server)

    def answers(self, url: str) -> bool:
        """Whether a server answers the laptop."""
        ask = "import sys, urllib.request; urllib.request.urlopen(sys.argv[1], timeout=10)"
        command = self.on_laptop([sys.executable, "-c", ask, url])
        return subprocess.run(command, capture_output=True).returncode == 0

    def start(self, **environment: str) -> None:
        """Starts a head and two more nodes.

        Args:
            environment: Of the nodes, beside their token.
        """
        self.start_node("head", HEAD, **environment)
        self.wait_until_up(1)
        self.start_node("second", "10.77.0.3", **environment)
        self.start_node("third", "10.77.0.4", **environment)
        self.wait_until_up(3)

    def start_node(self, name: str, address: str, **environment: str) -> Node:
        """Starts a node, the first one as the head."""
        where = f"--port={GCS_PORT} --dashboard-host={address} --dashboard-port={DASHBOARD_PORT} --head"
        if address != HEAD:
            where = f"--address={HEAD}:{GCS_PORT}"
        ray_start = (
            f"{BIN}/ray start {where} --node-ip-address={address} --num-cpus={CPUS_PER_NODE} "
            f"--temp-dir={OWN}/ray --object-store-memory={OBJECT_STORE_BYTES} --disable-usage-stats --block"
        )
        here = {place for module in (distill, sweeps, search_spaces) for place in module.__path__}
        hosts = self.folder / f"{name}.hosts"
        hosts.write_text(f"127.0.0.1 localhost\n127.0.1.1 {name}\n")  # as Debian's installer leaves it
        script = [
            "read -r _",  # the network is there
            "ip link set lo up",
            f"hostname {name}",
            f"mount --bind {shlex.quote(str(hosts))} /etc/hosts",
            f"mount --bind {shlex.quote(str(self.shared))} {SHARED}",
            *(f"mount -t tmpfs tmpfs {shlex.quote(folder)}" for folder in sorted(here | _installed())),
            "mount -t tmpfs tmpfs /dev/shm",
            f"mount -t tmpfs tmpfs {OWN}",
            "mount -t tmpfs tmpfs /var/tmp",
            f"cd {OWN}",
            f"exec {ray_start}",
        ]
        log = self.folder / f"{name}.log"
        with log.open("w") as output:
            process = subprocess.Popen(
                [*UNSHARE, "sh", "-ec", "\n".join(script)],
                stdin=subprocess.PIPE,
                stdout=output,
                stderr=subprocess.STDOUT,
                text=True,
                env=_node_environment() | environment,
            )
        node = Node(name=name, address=address, process=process, log=log)
        self.nodes.append(node)
        wait_for(lambda: _net(process.pid) != _net(os.getpid()), timeout=10)
        self.set_up("link", "add", name, "type", "veth", "peer", "name", "eth0", "netns", str(process.pid))
        self.set_up("link", "set", name, "master", "lan", "up")
        inside = ["nsenter", f"--net=/proc/{process.pid}/ns/net", "ip"]
        subprocess.run([*inside, "address", "add", f"{address}/24", "dev", "eth0"], check=True)
        subprocess.run([*inside, "link", "set", "eth0", "up"], check=True)
        assert process.stdin is not None
        process.stdin.write("\n")
        process.stdin.close()
        return node

    def wait_until_up(self, num_nodes: int) -> None:
        """Waits until so many nodes are alive."""
        ask = [sys.executable, "-c", _COUNT_NODES, self.dashboard]

        def up() -> bool:
            dead = [node for node in self.nodes if node.process.poll() is not None]
            assert not dead, "\n".join(node.log.read_text() for node in dead)
            done = subprocess.run(self.on_laptop(ask), capture_output=True, text=True)
            return done.returncode == 0 and int(done.stdout) >= num_nodes

        assert wait_for(up, timeout=START_TIMEOUT_S), "\n".join(node.log.read_text() for node in self.nodes)

    def set_up(self, *arguments: str) -> None:
        """Runs `ip` on the laptop."""
        subprocess.run([*self.within, "ip", *arguments], check=True)


def a_worker(*nodes: Node) -> tuple[Node, psutil.Process]:
    """A node that trains, and a trial's worker on it.

    It is waited for: one look may fall between two trials, or miss a process that is just being renamed.
    """
    found: list[tuple[Node, psutil.Process]] = []

    def seen() -> bool:
        found.extend((node, worker) for node in nodes if (worker := node.worker()) is not None)
        return bool(found)

    assert wait_for(seen, timeout=60), "no trial's worker runs on any of these nodes"
    return found[0]


_COUNT_NODES = """
import json, sys, os, urllib.request
request = urllib.request.Request(sys.argv[1] + "/nodes?view=summary")
request.add_header("Authorization", "Bearer " + os.environ["RAY_AUTH_TOKEN"])
summary = json.load(urllib.request.urlopen(request, timeout=10))["data"]["summary"]
print(sum(node["raylet"].get("state") == "ALIVE" for node in summary))
"""


def token() -> dict[str, str]:
    """The environment of who may use the cluster."""
    return {"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN": TOKEN}


@contextmanager
def network(folder: Path) -> Iterator[ThreeNodes]:
    """The laptop's network, on which nothing runs yet; whatever is started on it is ended.

    Args:
        folder: For logs and for what the nodes share.
    """
    shared = folder / "shared"
    shared.mkdir()
    lan = subprocess.Popen(["unshare", "--net", "sleep", "infinity"])
    cluster = ThreeNodes(shared=shared, folder=folder, lan=lan)
    try:
        wait_for(lambda: _net(lan.pid) != _net(os.getpid()), timeout=10)
        cluster.set_up("link", "add", "lan", "type", "bridge")
        cluster.set_up("address", "add", f"{LAPTOP}/24", "dev", "lan")
        cluster.set_up("link", "set", "lan", "up")
        cluster.set_up("link", "set", "lo", "up")
        yield cluster
    finally:
        for node in reversed(cluster.nodes):
            node.end()
        for server in cluster.servers:
            os.killpg(server.pid, signal.SIGKILL)
            server.wait()
        lan.kill()
        lan.wait()


def _net(pid: int) -> str:
    """The network namespace of a process."""
    return os.readlink(f"/proc/{pid}/ns/net")


def _installed() -> set[str]:
    """Where the nodes' Python would find this project's packages by itself."""
    ask = (
        "from importlib.util import find_spec\n"
        "for name in ('distill', 'sweeps', 'search_spaces'):\n"
        "    print(*find_spec(name).submodule_search_locations)"
    )
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    done = subprocess.run(
        [sys.executable, "-P", "-c", ask], capture_output=True, text=True, cwd="/", env=environment
    )
    return set(done.stdout.split()) if done.returncode == 0 else set()


def _node_environment() -> dict[str, str]:
    """What a machine's own environment holds: nothing of the laptop's."""
    return {
        **token(),
        **HEALTH,
        "PATH": f"{BIN}:/usr/sbin:/usr/bin:/sbin:/bin",
        "HOME": str(OWN),
        "TMPDIR": str(OWN),
        "LANG": "C.UTF-8",
        "OMP_NUM_THREADS": "1",
        "MLFLOW_DISABLE_TELEMETRY": "true",
    }
