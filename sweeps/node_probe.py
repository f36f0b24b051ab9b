"""What is looked at on a node of the cluster.

It travels to the node as it stands, by value: this package may be missing there. So it imports nothing but
Python's own, and Ray, which runs it.
"""

import fcntl
import hashlib
import importlib.util
import os
import platform
import resource
import shutil
import time
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

PACKAGES = ("distill", "sweeps")


@dataclass(frozen=True, kw_only=True)
class SharedFile:
    """A file under the home, which the driver wrote and keeps locked, and what stands in it.

    Attributes:
        path: Where it is; with `://` in an object store, which has no locks.
    """

    path: str
    content: str

    @property
    def in_store(self) -> bool:
        """Whether it is in an object store."""
        return "://" in self.path

    def answer(self, node: str) -> str:
        """What a node writes beside it."""
        return f"{self.path}-{node}"


def read(path: str) -> str:
    """What stands in a file, be it in an object store."""
    if "://" not in path:
        return Path(path).read_text()
    from pyarrow.fs import FileSystem

    store, place = FileSystem.from_uri(path)
    with store.open_input_stream(place) as stream:
        return stream.read().decode()


def write(path: str, content: str) -> None:
    """Writes a file, be it in an object store."""
    if "://" not in path:
        Path(path).write_text(content)
        return
    from pyarrow.fs import FileSystem

    store, place = FileSystem.from_uri(path)
    with store.open_output_stream(place) as stream:
        stream.write(content.encode())


def look(node: str, shared: SharedFile) -> dict[str, Any]:
    """Looks around on this node.

    Args:
        node: Its id, for what it writes.
        shared: What it should find, and write beside.
    """
    import ray
    from ray._private.utils import get_num_cpus

    temp = ray.get_runtime_context().get_temp_dir()
    disk, memory = shutil.disk_usage(temp), shutil.disk_usage("/dev/shm")
    return {
        "versions": versions(),
        "home": home(node, shared),
        "lock": keeps_locks(shared),
        "time": time.time(),
        "cpus": get_num_cpus(),
        "omp": int(os.environ.get("OMP_NUM_THREADS") or 1),
        "files": resource.getrlimit(resource.RLIMIT_NOFILE)[0],
        "shm": memory.total,
        "temp": (temp, disk.free, disk.total),
    }


def versions() -> dict[str, str]:
    """What must be alike on all nodes. torch may be built for other hardware."""
    found = {"Python": platform.python_version(), "ray": _version("ray"), "torch": _version("torch")}
    return found | {"face-distillation-sweeps": code_digest()}


def code_digest() -> str:
    """Which code this process would import of this project; `missing` where it would find none."""
    digest = hashlib.sha256()
    for package in PACKAGES:
        spec = importlib.util.find_spec(package)
        if spec is None or not spec.submodule_search_locations:
            return "missing"
        root = Path(spec.submodule_search_locations[0])
        for path in sorted(root.rglob("*.py")):
            digest.update(str(path.relative_to(root)).encode() + b"\0" + path.read_bytes())
    return digest.hexdigest()[:12]


def home(node: str, shared: SharedFile) -> str | None:
    """Why the home is not the driver's here, or cannot be written; None when all is well."""
    try:
        if read(shared.path) != shared.content:
            return "holds another file"
        write(shared.answer(node), shared.content)
    except FileNotFoundError:
        return "is not there, or is a folder of the node's own"
    except OSError as error:
        return f"cannot be used ({error.strerror or error})"
    return None


def keeps_locks(shared: SharedFile) -> bool:
    """Whether a lock that the driver holds is one here too. A home in a store has its locks elsewhere."""
    if shared.in_store:
        return True
    try:
        with open(shared.path) as file:
            fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    except OSError:  # what `home` tells of
        pass
    return False


def _version(package: str) -> str:
    try:
        return version(package).partition("+")[0]
    except PackageNotFoundError:
        return "missing"
