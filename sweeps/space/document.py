"""Reading a search-space file: YAML in which every value remembers where it stands.

The YAML is that of version 1.2's core schema, since 1.1 surprises people who write settings: there `1e-3` is
text, `off` is false and `010` is eight.
"""

import re
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any

import yaml

from sweeps.space.problems import KeyPath, Problem, shown


class _Loader(yaml.SafeLoader):
    yaml_implicit_resolvers = {}  # noqa: RUF012 - pyyaml's own name for its table, filled below


class _Dumper(yaml.SafeDumper):
    yaml_implicit_resolvers = {}  # noqa: RUF012 - quotes exactly what `_Loader` would not read as text

    def ignore_aliases(self, data: Any) -> bool:
        return True


_NUMBER_STARTS = list("-+.0123456789")
_RESOLVERS = (
    ("null", r"~|null|Null|NULL|", [*"~nN", ""]),
    ("bool", r"true|True|TRUE|false|False|FALSE", list("tTfF")),
    ("int", r"[-+]?(0|[1-9][0-9_]*)", _NUMBER_STARTS),
    (
        "float",
        r"[-+]?([0-9][0-9_]*\.[0-9_]*|\.[0-9]+)([eE][-+]?[0-9]+)?|[-+]?[0-9]+[eE][-+]?[0-9]+"
        r"|[-+]?\.(inf|Inf|INF)|\.(nan|NaN|NAN)",
        _NUMBER_STARTS,
    ),
)
for _kind, _pattern, _starts in _RESOLVERS:
    for _class in (_Loader, _Dumper):
        _class.add_implicit_resolver(f"tag:yaml.org,2002:{_kind}", re.compile(f"^(?:{_pattern})$"), _starts)


@dataclass
class Document:
    """A parsed file.

    Attributes:
        file: What messages call it.
        data: Its content, in plain types. Empty when the file could not be read.
        places: Where each value comes from: `quickstart.yaml:12`, or `--set search.num_trials=4`.
        problems: What is wrong with the YAML itself.
        inherited: What is wrong with that of the files that it extends, in sentences.
    """

    file: str
    data: dict[str, Any] = field(default_factory=dict)
    places: dict[KeyPath, str] = field(default_factory=dict)
    problems: list[Problem] = field(default_factory=list)
    inherited: list[str] = field(default_factory=list)

    @property
    def is_unreadable(self) -> bool:
        """Whether there is nothing to be checked: it is no YAML, or extends what is none."""
        return bool(self.problems or self.inherited) and not self.data

    def sentences(self, problems: Iterable[Problem]) -> list[str]:
        """The problems in the order of the file, each once, with the place of its value."""
        order = {path: index for index, path in enumerate(self.places)}
        located = [(self._nearest_place(problem.path), problem) for problem in problems]
        located.sort(key=lambda pair: order.get(pair[0], -1))
        sentences = (f"{self.places.get(path, self.file)}: {problem.sentence}" for path, problem in located)
        return list(dict.fromkeys(sentences))

    def _nearest_place(self, path: KeyPath) -> KeyPath:
        heads = (path[:length] for length in range(len(path), -1, -1))
        return next((head for head in heads if head in self.places), ())


def parse(text: str, *, file: str) -> Document:
    """Parses a file's YAML. What is wrong with it is collected, not raised."""
    document = Document(file=file)
    try:
        root = yaml.compose(text, Loader=_Loader)
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        document.places[()] = f"{file}:{mark.line + 1}" if mark else file
        reason = ", ".join(filter(None, (error.problem, error.context)))
        document.problems.append(Problem((), f"is not valid YAML: {reason}"))
        return document
    except yaml.YAMLError as error:
        document.problems.append(Problem((), f"is not valid YAML: {str(error).splitlines()[0]}"))
        return document
    if not isinstance(root, yaml.MappingNode):
        document.problems.append(Problem((), "must hold a mapping with the keys name, objectives and search"))
        return document
    document.data = _Reader(document).value(root, ())
    return document


def parse_value(text: str) -> Any:
    """Reads the right-hand side of a `--set`.

    Raises:
        ValueError: If it is not YAML, with the reason.
    """
    document = parse(f"value: {text}", file="")
    if document.problems:
        raise ValueError(document.problems[0].claim)
    return document.data["value"]


def dump(data: dict[str, Any]) -> str:
    """Writes YAML that `parse` reads back as the same data."""
    return yaml.dump(data, Dumper=_Dumper, sort_keys=False, width=110, allow_unicode=True)


class _Reader:
    """Turns YAML's nodes into plain types, and notes their places and problems in a document."""

    def __init__(self, document: Document):
        self._document = document
        self._scalars = _Loader("")
        self._open: list[yaml.Node] = []

    def value(self, node: yaml.Node, path: KeyPath) -> Any:
        self._document.places.setdefault(path, self._place(node))
        if isinstance(node, yaml.ScalarNode):
            return self._scalar(node, path)
        if node in self._open:
            self._problem(path, "is an alias of something that holds it")
            return None
        self._open.append(node)
        if isinstance(node, yaml.MappingNode):
            value = self._mapping(node, path)
        else:
            value = [self.value(item, (*path, index)) for index, item in enumerate(node.value)]
        self._open.pop()
        return value

    def _scalar(self, node: yaml.ScalarNode, path: KeyPath) -> Any:
        try:
            value = self._scalars.construct_object(node)
        except (yaml.YAMLError, ValueError):
            value = None
            self._problem(path, f"cannot be read: {node.value!r} as {node.tag}")
        if not isinstance(value, str | int | float | bool | None):
            self._problem(path, f"must be text, a number, true, false or null, got {shown(value)}")
            return None
        return value

    def _mapping(self, node: yaml.MappingNode, path: KeyPath) -> dict[str, Any]:
        mapping: dict[str, Any] = {}
        for key_node, value_node in node.value:
            key = key_node.value if isinstance(key_node, yaml.ScalarNode) else None
            if key is None:
                self._problem(path, "has a key that is not text")
                continue
            inner = (*path, key)
            if key in mapping:
                lines = (self._document.places[inner].rpartition(":")[2], key_node.start_mark.line + 1)
                self._problem(inner, "is given twice, in lines {} and {}".format(*lines))
                continue
            self._document.places[inner] = self._place(key_node)
            mapping[key] = self.value(value_node, inner)
        return mapping

    def _problem(self, path: KeyPath, claim: str) -> None:
        self._document.problems.append(Problem(path, claim))

    def _place(self, node: yaml.Node) -> str:
        return f"{self._document.file}:{node.start_mark.line + 1}"
