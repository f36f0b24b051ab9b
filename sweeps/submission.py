"""What a sweep needs on a cluster that has this project's dependencies but not the project: one folder."""

import json
import re
import shlex
import shutil
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from importlib import metadata, util
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from distill.errors import InputError
from sweeps.home import HOME_VARIABLE, STORE, TRACKING_VARIABLE, Home
from sweeps.provenance import SUBMITTED, Provenance
from sweeps.space import SpaceError, load_space
from sweeps.space.document import parse
from sweeps.space.load import merged

PACKAGES = ("distill", "sweeps", "search_spaces")
DISTRIBUTION = "face-distillation-sweeps"
SPACE_FILE = "space.yaml"
STUDY, HOME, TRACKING = "study", "home", "tracking_uri"
"""What a job says of its sweep."""

_ABSOLUTE_PATH = re.compile(r"(?<![\w/:.~])/[^\s:,;'\")}\]]+")


@dataclass(frozen=True, kw_only=True)
class CheckedSpace:
    """A search space as it is sent.

    Attributes:
        name: The study's, unless it is given another.
        yaml: All of it, with what the command line changed.
        unchecked: What could not be checked here, a sentence each: files that are not on this machine.
    """

    name: str
    yaml: str
    unchecked: tuple[str, ...] = ()


@dataclass(frozen=True, kw_only=True)
class Submission:
    """What a cluster is to do.

    Attributes:
        study: Its name.
        space_yaml: The search space of a new study; None goes on with one.
        home: Where studies live, as the cluster's nodes see it; None: as their environment says.
        tracking_uri: MLflow's address, as the cluster's nodes see it; None: as their environment says.
    """

    study: str
    space_yaml: str | None
    home: str | None = None
    tracking_uri: str | None = None

    def __post_init__(self) -> None:
        Home.at("/").study(self.study)
        if self.home is not None and not self.home.startswith(("/", STORE)):
            raise InputError(
                f"--home must be absolute, as the cluster's nodes see it, or {STORE}BUCKET/PATH, "
                f"got {self.home!r}"
            )
        if self.tracking_uri is not None and urlsplit(self.tracking_uri).password:
            raise InputError(
                f"--tracking-uri must hold no password, which Ray's dashboard would show: set "
                f"{TRACKING_VARIABLE} in the environment of the cluster's nodes"
            )

    @property
    def entrypoint(self) -> str:
        """The job's shell command."""
        what = ["run", SPACE_FILE, "--name", self.study] if self.space_yaml else ["resume", self.study]
        places = {"--home": self.home, "--tracking-uri": self.tracking_uri}
        options = [text for name, value in places.items() if value for text in (name, value)]
        command = f"exec {shlex.join(['python', '-m', 'sweeps', *what, *options])}"
        if self.home is not None:
            return command
        # With neither, studies would lie in the job's own folder, and go with the cluster.
        lacks = f"{HOME_VARIABLE} is not set on the head node: say with --home where studies live"
        return f'test -n "${HOME_VARIABLE}" || {{ echo {shlex.quote(lacks)} >&2; exit 2; }}; {command}'

    @property
    def metadata(self) -> dict[str, str]:
        """What the job says of itself."""
        values = {STUDY: self.study, HOME: self.home, TRACKING: self.tracking_uri}
        return {name: value for name, value in values.items() if value is not None}


def check_space(source: str, *, overrides: Mapping[str, str] | None = None) -> CheckedSpace:
    """Checks a search space as far as this machine can: all of it, unless it names files that are elsewhere.

    Relative paths of files that are here become absolute, for clusters that see the same files.

    Args:
        source, overrides: As `load_space` takes them.

    Raises:
        SpaceError: If anything else is wrong with it, with one sentence for everything that is.
        InputError: If there is no such file or packaged space.
    """
    try:
        space = load_space(source, overrides=overrides)
        return CheckedSpace(name=space.name, yaml=space.to_yaml())
    except SpaceError as error:
        text = merged(source, overrides=overrides)
        elsewhere = [path for path in _ABSOLUTE_PATH.findall(text) if not Path(path).exists()]
        unchecked = tuple(s for s in error.problems if any(path in s for path in elsewhere))
        if wrong := [sentence for sentence in error.problems if sentence not in unchecked]:
            raise SpaceError(wrong) from None
    name: Any = parse(text, file=source).data["name"]
    return CheckedSpace(name=name, yaml=text, unchecked=unchecked)


def pack(submission: Submission, folder: Path) -> int:
    """Fills a folder with the code that runs here and the search space, and returns its size in bytes."""
    for package in PACKAGES:
        spec = util.find_spec(package)
        assert spec is not None
        assert spec.submodule_search_locations is not None
        place = next(iter(spec.submodule_search_locations))
        shutil.copytree(place, folder / package, ignore=shutil.ignore_patterns("__pycache__", ".*"))
    _describe_distribution(folder)
    provenance = json.dumps(asdict(Provenance.of_this_process()), indent=2)
    (folder / SUBMITTED.name).write_text(provenance)
    if submission.space_yaml is not None:
        (folder / SPACE_FILE).write_text(submission.space_yaml)
    return sum(file.stat().st_size for file in folder.rglob("*") if file.is_file())


def _describe_distribution(folder: Path) -> None:
    """Says what is installed here: its version for the record, its entry points for what looks for them."""
    try:
        here = metadata.distribution(DISTRIBUTION)
    except metadata.PackageNotFoundError:
        return
    info = folder / f"{DISTRIBUTION.replace('-', '_')}-{here.version}.dist-info"
    info.mkdir()
    for name in ("METADATA", "entry_points.txt"):
        (info / name).write_text(here.read_text(name) or "")
