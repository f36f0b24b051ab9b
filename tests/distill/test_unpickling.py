"""Reading strangers' pickles: what is on the list, and nothing else."""

import io
import os
import pickle
from collections import OrderedDict
from pathlib import Path

import pytest

from distill.errors import InputError
from distill.unpickling import ForbiddenGlobalError, load_pickle

ALLOWED = {("collections", "OrderedDict"): OrderedDict}


def load(content: bytes, **options: object) -> object:
    return load_pickle(io.BytesIO(content), allowed=ALLOWED, what="pack.bin", **options)  # pyright: ignore[reportArgumentType]


class Attack:
    """Runs a command when it is unpickled as pickles usually are."""

    def __init__(self, call: object, *arguments: object):
        self._reduced = (call, arguments)

    def __reduce__(self) -> tuple[object, ...]:
        return self._reduced


def test_plain_values_and_what_is_allowed_come_back() -> None:
    value = ([b"\xff\xd8", True], OrderedDict(a=1))
    assert load(pickle.dumps(value)) == value


@pytest.mark.parametrize("protocol", range(pickle.HIGHEST_PROTOCOL + 1))
def test_a_command_is_named_and_not_run(protocol: int, tmp_path: Path) -> None:
    trace = tmp_path / "trace"
    content = pickle.dumps([Attack(os.system, f"touch {trace}")], protocol=protocol)
    with pytest.raises(ForbiddenGlobalError, match=r"pack.bin is refused: it asks for (posix|nt).system"):
        load(content)
    assert not trace.exists()


@pytest.mark.parametrize("name", ["eval", "exec", "getattr", "__import__", "open"])
def test_builtins_are_not_on_the_list(name: str) -> None:
    with pytest.raises(ForbiddenGlobalError, match=f"it asks for builtins.{name}"):
        load(f"cbuiltins\n{name}\n.".encode())


def test_an_attribute_of_what_is_allowed_is_another_global() -> None:
    content = pickle.PROTO + b"\x04" + b"\x8c\x0bcollections" + b"\x8c\x14OrderedDict.fromkeys" + b"\x93."
    with pytest.raises(ForbiddenGlobalError, match=r"collections\.OrderedDict\.fromkeys"):
        load(content)


def test_nothing_outside_is_looked_up_unless_told() -> None:
    content = b"Ptensor-0\n."
    with pytest.raises(InputError, match="refers to something outside of itself"):
        load(content)
    assert load(content, persistent_load=lambda pid: f"found {pid}") == "found tensor-0"


@pytest.mark.parametrize("content", [b"", pickle.dumps([1, 2])[:-1], b"\xff\xd8\xff", b"hello world"])
def test_what_is_no_pickle_is_told_in_one_sentence(content: bytes) -> None:
    with pytest.raises(InputError, match=r"pack\.bin is cut short or no readable pickle") as error:
        load(content)
    assert "\n" not in str(error.value)
