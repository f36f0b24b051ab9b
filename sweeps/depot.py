"""A home in an object store: what its folders hold, for machines that share no disk.

An object store has no locks, no renaming and no folders, all of which a home lives by. So every machine works
in a folder of its own, and hands what others need on by the store, a snapshot a folder: the objects, named by
their contents, and last an index that names them. Whoever is killed in between leaves the snapshot before it.
"""

import errno
import fcntl
import functools
import json
import os
import shutil
import tempfile
import time
import uuid
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path

from pyarrow import fs

from distill.checkpoint import sha256_of
from distill.errors import RefusedError

INDEX = "index.json"
MARK = ".depot.json"
LOCK = ".depot.lock"
PATIENCE_S = 120.0
"""How long a store may be away, or a snapshot be replaced again and again while it is read."""
PAUSE_S = 2.0

Wanted = Callable[[str], bool]
"""Whether a file is meant, by its path in a folder."""


class StoreError(RefusedError):
    """The store cannot be read or written."""


def everything(name: str) -> bool:
    """Means every file."""
    return True


def students(name: str) -> bool:
    """Means all that a trial leaves when it is over: not the state of its training."""
    return ".pt" not in Path(name).name


@dataclass(frozen=True, kw_only=True)
class Snapshot:
    """What a folder held.

    Attributes:
        id: Of this snapshot, of which no two are alike.
        files: The SHA-256 of every file, by its path in the folder.
    """

    id: str
    files: Mapping[str, str]

    @classmethod
    def read(cls, content: bytes) -> "Snapshot":
        """Reads what `written` wrote.

        Raises:
            StoreError: If it is something else, or names a file that is not in its folder.
        """
        try:
            snapshot = cls(**json.loads(content))
            paths = [Path(name) for name in snapshot.files]
        except (TypeError, ValueError) as error:
            raise StoreError(f"an index in the home's store is not one: {error}") from None
        if any(path.is_absolute() or ".." in path.parts for path in paths):
            raise StoreError(f"an index in the home's store names files outside of its folder: {paths}")
        return snapshot

    def written(self) -> bytes:
        return json.dumps(asdict(self), indent=1, sort_keys=True).encode()

    @property
    def objects(self) -> set[str]:
        """The names of its objects, below its folder."""
        return {_object(name, digest) for name, digest in self.files.items()}


@dataclass(frozen=True)
class Depot:
    """Hands the folders of a home on from one machine to another.

    Each folder has one writer at a time: where a second takes over, the first is lost.

    Attributes:
        uri: Where in the store: `s3://BUCKET/PATH`.
        root: The home's folder on this machine, at the same path on all.
    """

    uri: str
    root: Path

    def push(self, folder: Path, wanted: Wanted = everything) -> None:
        """Hands on what a folder below the root holds now, less what is hidden there.

        Raises:
            StoreError: If the store cannot be written, for `PATIENCE_S`.
        """
        self._patiently(self._push, folder, wanted)

    def pull(self, folder: Path, wanted: Wanted = everything) -> None:
        """Takes over what another machine handed on of a folder; what this one did last is left as it is.

        Args:
            wanted: The others are left in the store, and here.

        Raises:
            StoreError: If the store cannot be read, for `PATIENCE_S`, or holds something else than it says.
        """
        self._patiently(self._take_over, folder, wanted)

    def drop(self, folder: Path, wanted: Wanted = everything) -> None:
        """Takes files away, here and in the store.

        Raises:
            StoreError: If the store cannot be written, for `PATIENCE_S`.
        """
        self._patiently(self._drop, folder, wanted)

    def folders(self, below: Path) -> list[Path]:
        """The folders below one that have a snapshot.

        Raises:
            StoreError: If the store cannot be read.
        """
        with self._told():
            store, base = self._store
            selector = fs.FileSelector(self._path(below), recursive=True, allow_not_found=True)
            indexes = [info.path for info in store.get_file_info(selector) if info.base_name == INDEX]
            return sorted(self.root / Path(path).relative_to(base).parent for path in indexes)

    def uri_of(self, folder: Path) -> str:
        """Where in the store a folder below the root is."""
        return f"{self.uri}/{folder.relative_to(self.root)}"

    def drop_path(self, path: Path) -> None:
        """Takes away what a snapshot holds of a file or folder, here and in the store.

        Raises:
            StoreError: If the store cannot be written.
        """
        above = (path, *path.parents)
        for folder in above[: above.index(self.root)]:
            if self.names(folder):
                self.drop(folder, lambda name, folder=folder: (folder / name).is_relative_to(path))
                break

    def names(self, folder: Path) -> set[str]:
        """The files that a folder's snapshot holds, by their paths in it; empty where it has none.

        Raises:
            StoreError: If the store cannot be read.
        """
        with self._told():
            snapshot = self._snapshot(folder)
        return set(snapshot.files) if snapshot is not None else set()

    def size(self, folder: Path) -> int:
        """Bytes of all that anybody put below a folder in the store.

        Raises:
            StoreError: If the store cannot be read.
        """
        with self._told():
            store, _ = self._store
            selector = fs.FileSelector(self._path(folder), recursive=True, allow_not_found=True)
            return sum(info.size or 0 for info in store.get_file_info(selector))

    def clear(self, folder: Path) -> None:
        """Takes away all that anybody put below a folder in the store.

        Raises:
            StoreError: If the store cannot be written.
        """
        with self._told():
            store, _ = self._store
            if store.get_file_info(self._path(folder)).type != fs.FileType.NotFound:
                store.delete_dir(self._path(folder))

    def _patiently(self, act: Callable[[Path, Wanted], None], folder: Path, wanted: Wanted) -> None:
        deadline = time.monotonic() + PATIENCE_S
        while True:
            try:
                with _locked(folder), self._told():
                    return act(folder, wanted)
            except StoreError:
                if time.monotonic() > deadline:
                    raise
            time.sleep(PAUSE_S)

    def _push(self, folder: Path, wanted: Wanted) -> None:
        found = {name: path for name, path in _visible(folder).items() if wanted(name)}
        snapshot = Snapshot(
            id=uuid.uuid4().hex, files={name: sha256_of(path) for name, path in found.items()}
        )
        before = self._snapshot(folder)
        there = before.objects if before else set[str]()
        for name, digest in snapshot.files.items():
            if (object_name := _object(name, digest)) not in there:
                self._put(found[name], folder, object_name)
                there.add(object_name)
        self._replace(folder, before, snapshot)
        _mark(folder, snapshot)

    def _drop(self, folder: Path, wanted: Wanted) -> None:
        before, mark = self._snapshot(folder), _marked(folder)
        for name, path in _visible(folder).items():
            if wanted(name):
                path.unlink()
        if before is None:
            return
        snapshot = Snapshot(id=uuid.uuid4().hex, files=_less(before.files, wanted))
        self._replace(folder, before, snapshot)
        if mark is not None:
            is_own = mark.id == before.id
            _mark(folder, Snapshot(id=snapshot.id if is_own else mark.id, files=_less(mark.files, wanted)))

    def _take_over(self, folder: Path, wanted: Wanted) -> None:
        snapshot, mark = self._snapshot(folder), _marked(folder)
        if snapshot is None:
            if mark is not None:  # it was handed on, and dropped elsewhere
                for path in [*_visible(folder).values(), folder / MARK]:
                    path.unlink()
            return
        names = {name for name in snapshot.files if wanted(name)}
        # Its own snapshot, beyond which this machine may have gone on.
        is_own = mark is not None and mark.id == snapshot.id
        if mark is not None and is_own:
            here = set(mark.files)
        else:
            here = {name for name in names if _holds(folder / name, snapshot.files[name])}
        with tempfile.TemporaryDirectory(dir=folder, prefix=".pull-") as fresh:
            lacking = dict(enumerate(sorted(names - here)))
            for number, name in lacking.items():
                self._get(folder, name, snapshot.files[name], Path(fresh) / str(number))
            if not is_own:
                for name, path in _visible(folder).items():
                    if wanted(name) and name not in names:
                        path.unlink()
            for number, name in lacking.items():
                (folder / name).parent.mkdir(parents=True, exist_ok=True)
                os.replace(Path(fresh) / str(number), folder / name)
        taken = {name: digest for name, digest in snapshot.files.items() if name in names | here}
        _mark(folder, Snapshot(id=snapshot.id, files=taken))

    def _replace(self, folder: Path, before: Snapshot | None, snapshot: Snapshot) -> None:
        """Puts a snapshot, whose objects are there, in the place of another."""
        store, _ = self._store
        index = self._path(folder, INDEX)
        if snapshot.files:
            with store.open_output_stream(index) as stream:
                stream.write(snapshot.written())
        elif before is not None:
            store.delete_file(index)
        for stale in (before.objects if before else set[str]()) - snapshot.objects:
            store.delete_file(self._path(folder, stale))

    def _snapshot(self, folder: Path) -> Snapshot | None:
        store, _ = self._store
        try:
            with store.open_input_stream(self._path(folder, INDEX)) as stream:
                return Snapshot.read(stream.read())
        except FileNotFoundError:
            return None

    def _put(self, path: Path, folder: Path, object_name: str) -> None:
        store, _ = self._store
        if not isinstance(store, fs.S3FileSystem):  # the others have folders that must be made
            store.create_dir(self._path(folder), recursive=True)
        with path.open("rb") as source, store.open_output_stream(self._path(folder, object_name)) as sink:
            shutil.copyfileobj(source, sink, 2**20)

    def _get(self, folder: Path, name: str, digest: str, path: Path) -> None:
        store, _ = self._store
        with (
            store.open_input_stream(self._path(folder, _object(name, digest))) as source,
            path.open("wb") as sink,
        ):
            shutil.copyfileobj(source, sink, 2**20)
        if (found := sha256_of(path)) != digest:
            raise StoreError(f"{name} of {folder} has sha256 {found} in {self.uri}, its index says {digest}")

    def _path(self, folder: Path, name: str = "") -> str:
        _, base = self._store
        return "/".join(part for part in (base, str(folder.relative_to(self.root)), name) if part)

    @property
    def _store(self) -> tuple[fs.FileSystem, str]:
        return _open(self.uri)

    @contextmanager
    def _told(self) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            if error.errno in (errno.ENOSPC, errno.EDQUOT):  # of this machine's disk
                raise
            raise StoreError(f"the home {self.uri} cannot be used: {error}") from error


@functools.cache
def _open(uri: str) -> tuple[fs.FileSystem, str]:
    return fs.FileSystem.from_uri(uri)


def _object(name: str, digest: str) -> str:
    """What a file's content is called, by which two of the same content are one."""
    return f"{digest}{Path(name).suffix}"


def is_own(path: Path) -> bool:
    """Whether a file is one that a depot keeps for itself in a folder."""
    return path.name in (MARK, LOCK)


def _holds(path: Path, digest: str) -> bool:
    return path.is_file() and sha256_of(path) == digest


def _visible(folder: Path) -> dict[str, Path]:
    """The files in a folder, but for those that are just being written, whose names begin with a dot."""
    found = {path.relative_to(folder): path for path in sorted(folder.rglob("*")) if path.is_file()}
    return {str(name): path for name, path in found.items() if not any(p[0] == "." for p in name.parts)}


def _less(files: Mapping[str, str], dropped: Wanted) -> dict[str, str]:
    return {name: digest for name, digest in files.items() if not dropped(name)}


def _marked(folder: Path) -> Snapshot | None:
    """The snapshot that this machine took over or handed on last, less what it did not want of it."""
    try:
        return Snapshot.read((folder / MARK).read_bytes())
    except FileNotFoundError:
        return None


def _mark(folder: Path, snapshot: Snapshot) -> None:
    fresh = folder / f"{MARK}.fresh"
    fresh.write_bytes(snapshot.written())
    os.replace(fresh, folder / MARK)


@contextmanager
def _locked(folder: Path) -> Iterator[None]:
    """Lets one process of this machine at a time touch a folder, which is made."""
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / LOCK).open("a") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield
