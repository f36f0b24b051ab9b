"""Reading strangers' pickles: what is on the list, and nothing else."""

import contextlib
import io
import os
import pickle
import tracemalloc
from collections import OrderedDict
from pathlib import Path

import pytest

from distill.errors import InputError
from distill.unpickling import ForbiddenGlobalError, StandIn, load_pickle

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


@pytest.mark.parametrize(
    "content",
    [
        pytest.param(b"\x80\x03Nr\xff\xff\xff\x7f.", id="memo"),
        pytest.param(b"\x80\x05\x96" + (2**40).to_bytes(8, "little") + b"x.", id="bytearray"),
        pytest.param(b"\x80\x04\x8e" + (2**40).to_bytes(8, "little") + b"x.", id="bytes"),
    ],
)
def test_no_room_is_made_for_what_a_few_bytes_announce(content: bytes) -> None:
    tracemalloc.start()
    with contextlib.suppress(InputError):
        load(content)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < 1_000_000


def test_a_pickle_cannot_change_a_function_that_it_may_call() -> None:
    double = StandIn(lambda x: 2 * x)
    allowed = {("maths", "double"): double}
    call = b"cmaths\ndouble\n(I21\ntR."
    assert load_pickle(io.BytesIO(call), allowed=allowed, what="pack.bin") == 42
    build = b"cmaths\ndouble\n(dS'_function'\nNsb."
    with pytest.raises(InputError, match="it sets attributes of a function"):
        load_pickle(io.BytesIO(build), allowed=allowed, what="pack.bin")
