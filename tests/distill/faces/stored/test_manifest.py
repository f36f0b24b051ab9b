"""Manifests, as CSV and as Parquet."""

import random
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch

from distill.errors import InputError
from distill.faces.stored.identified import Identified
from distill.faces.stored.manifest import open_manifest
from tests.distill.faces.stored.writer import jpeg

ROWS = [
    {"path": "faces/3.jpg", "identity": "007", "group": "west"},
    {"path": "faces/1.jpg", "identity": "007", "group": "west"},
    {"path": "faces/a, b.jpg", "identity": "12", "group": "east"},
    {"path": "faces/2.jpg", "identity": "Zoë", "group": "west"},
]
ORDERED = ["faces/1.jpg", "faces/3.jpg", "faces/a, b.jpg", "faces/2.jpg"]


def write(path: Path, rows: list[dict[str, str]]) -> Path:
    if path.suffix == ".parquet":
        pq.write_table(pa.Table.from_pylist(rows), path)
    else:
        lines = [",".join(rows[0]), *(",".join(f'"{value}"' for value in row.values()) for row in rows)]
        path.write_text("\n".join(lines) + "\n", encoding="utf-8")
    return path


def opened(path: Path) -> Identified:
    return open_manifest(path, size_px=16, max_corrupt_share=0.0)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "faces").mkdir()
    for seed, row in enumerate(ROWS):
        (tmp_path / row["path"]).write_bytes(jpeg(seed))
    return tmp_path


@pytest.mark.parametrize("suffix", [".csv", ".parquet"])
def test_rows_may_come_in_any_order(folder: Path, suffix: str) -> None:
    before = opened(write(folder / f"faces{suffix}", ROWS))
    for seed in range(4):
        rows = random.Random(seed).sample(ROWS, len(ROWS))
        found = opened(write(folder / f"faces{suffix}", rows))
        assert [found.images.name_of(index) for index in range(4)] == ORDERED
        assert found.label_N.tolist() == [0, 0, 1, 2]
        assert found.label_N.dtype == torch.int64
        assert found.identities == ("007", "12", "Zoë")
        assert found.groups == ("west", "east", "west")
        assert found.images.digest == before.images.digest
    assert before.images.read(torch.arange(4))[1].all()
    assert before.images.encoded(3) == (folder / "faces/2.jpg").read_bytes()


def test_groups_are_optional_and_other_columns_are_ignored(folder: Path) -> None:
    rows = [{"age": "", "identity": row["identity"], "path": row["path"]} for row in ROWS]
    for name in ("faces.csv", "faces.parquet"):
        assert opened(write(folder / name, rows)).groups is None


def test_an_absolute_path_stays_what_it_is(folder: Path, tmp_path_factory: pytest.TempPathFactory) -> None:
    elsewhere = tmp_path_factory.mktemp("elsewhere")
    rows = [{**row, "path": str(folder / row["path"])} for row in ROWS]
    assert opened(write(elsewhere / "faces.csv", rows)).images.read(torch.arange(4))[1].all()


def test_parquet_may_hold_numbers_and_categories(folder: Path) -> None:
    table = pa.table(
        {
            "identity": pa.array([7, 7, 12, 3]),
            "group": pa.array(["w", "w", "e", "w"]).dictionary_encode(),
            "path": pa.array([row["path"] for row in ROWS]),
        }
    )
    pq.write_table(table, folder / "faces.parquet")
    found = opened(folder / "faces.parquet")
    assert found.identities == ("12", "3", "7")
    assert found.groups == ("e", "w", "w")


def test_the_digest_sees_identities_and_sizes(folder: Path) -> None:
    digests = [opened(write(folder / "faces.csv", ROWS)).images.digest]
    digests.append(
        opened(
            write(folder / "faces.csv", [*ROWS[:3], {**ROWS[3], "identity": "12", "group": "east"}])
        ).images.digest
    )
    (folder / "faces/2.jpg").write_bytes(jpeg(3) + bytes(4))
    digests.append(opened(write(folder / "faces.csv", ROWS)).images.digest)
    (folder / "faces/2.jpg").unlink()
    digests.append(opened(write(folder / "faces.csv", ROWS)).images.digest)
    assert len(set(digests)) == 4


@pytest.mark.parametrize("suffix", [".csv", ".parquet"])
@pytest.mark.parametrize(
    ("rows", "message"),
    [
        (
            [{"file": "a.jpg", "identity": "1"}],
            r"must have the columns path and identity, got file, identity",
        ),
        ([{**ROWS[0], "identity": ""}], r"must tell the identity in every row, row 1 does not"),
        ([ROWS[0], {**ROWS[1], "group": ""}], r"must tell the group in every row, row 2 does not"),
        ([ROWS[0], ROWS[1], ROWS[0]], r"must name every image once, got faces/3\.jpg more often"),
        (
            [ROWS[0], {**ROWS[1], "group": "east"}],
            r"must tell one group of each identity, got several of 007",
        ),
    ],
)
def test_what_is_wrong_with_a_manifest_is_told_in_one_sentence(
    tmp_path: Path, suffix: str, rows: list[dict[str, str]], message: str
) -> None:
    path = write(tmp_path / f"faces{suffix}", rows)
    with pytest.raises(InputError, match=rf"^{path} {message}$"):
        opened(path)


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("faces.csv", b"", r"cannot be read as a table \(Empty CSV file\)"),
        ("faces.csv", b"path,identity\n", "has no row"),
        ("faces.csv", b"path,identity\na.jpg,1,2\n", r"cannot be read as a table \(CSV parse error"),
        ("faces.csv", b"path,identity\n\xff\xfe.jpg,1\n", r"cannot be read as a table \(.*UTF8"),
        ("faces.parquet", b"path,identity\n", r"cannot be read as a table \("),
        ("faces.parquet", b"", r"cannot be read as a table \("),
    ],
)
def test_a_file_that_is_no_table_is_told_in_one_sentence(
    tmp_path: Path, name: str, content: bytes, message: str
) -> None:
    (tmp_path / name).write_bytes(content)
    with pytest.raises(InputError, match=message) as error:
        opened(tmp_path / name)
    assert "\n" not in str(error.value)
