"""A table, CSV or Parquet, with the columns path, identity and, where it is known, group.

N: images, C: identities
"""

import os
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import torch
from pyarrow import csv

from distill.errors import InputError
from distill.faces.stored.files import FileStore
from distill.faces.stored.identified import Identified

REQUIRED = ("path", "identity")


def open_manifest(path: Path, *, size_px: int, max_corrupt_share: float) -> Identified:
    """Reads a manifest. Its rows may come in any order: the images are ordered by identity and path.

    Paths are relative to the manifest's folder. Other columns are ignored.

    Args:
        path: A `.csv` or `.parquet` file.
        size_px, max_corrupt_share: As `EncodedStore`.

    Raises:
        InputError: If it cannot be read, lacks a column or a value, names an image twice, or tells several
            groups of an identity.
    """
    table = read_columns(path, required=REQUIRED, optional=("group",))
    _check_unique(path, table["path"])
    table = table.sort_by([("identity", "ascending"), ("path", "ascending")]).combine_chunks()
    # Ordered as they are, identities are numbered by their first appearance.
    names_C, label_N = _numbered(table["identity"])
    groups = None
    if "group" in table.column_names:
        groups = _groups(path, table["group"], label_N=label_N, names_C=names_C)
    store = FileStore(
        source=path,
        root=path.parent,
        path_N=pa.array([os.fsencode(name) for name in table["path"].to_pylist()], pa.large_binary()),
        label_N=torch.from_numpy(label_N),
        size_px=size_px,
        max_corrupt_share=max_corrupt_share,
    )
    return Identified(images=store, label_N=torch.from_numpy(label_N), identities=names_C, groups=groups)


def read_columns(path: Path, *, required: tuple[str, ...], optional: tuple[str, ...] = ()) -> pa.Table:
    """Reads columns as text.

    Args:
        path: A `.parquet` file, or a CSV file of any other name.
        required: Columns that it must have.
        optional: Columns that are read where it has them.

    Raises:
        InputError: If it cannot be read, lacks a column, has no row, or one with an empty value.
    """
    try:
        present = _column_names(path)
        wanted = [name for name in required + optional if name in present]
        if not set(required) <= set(wanted):
            raise InputError(
                f"{path} must have the columns {' and '.join(required)}, got {', '.join(present)[:80]}"
            )
        table = _read_text(path, wanted)
    except (OSError, pa.ArrowException) as error:
        reason = str(error).splitlines()[0]
        raise InputError(f"{path} cannot be read as a table ({reason})") from error
    if not table.num_rows:
        raise InputError(f"{path} has no row")
    for name in wanted:
        row = table[name].fill_null("").index("").as_py()
        if row >= 0:
            raise InputError(f"{path} must tell the {name} in every row, row {row + 1:,} does not")
    return table


def _column_names(path: Path) -> list[str]:
    if path.suffix.lower() == ".parquet":
        return pq.read_schema(path).names
    with csv.open_csv(path) as reader:
        return reader.schema.names


def _read_text(path: Path, columns: list[str]) -> pa.Table:
    text = pa.schema([(name, pa.large_string()) for name in columns])
    if path.suffix.lower() == ".parquet":
        return pq.read_table(path, columns=columns).select(columns).cast(text)
    options = csv.ConvertOptions(include_columns=columns, column_types=text)
    return csv.read_csv(path, convert_options=options)


def _check_unique(path: Path, path_N: pa.ChunkedArray) -> None:
    if len(path_N.unique()) == len(path_N):
        return
    repeated = next(found["values"] for found in path_N.value_counts().to_pylist() if found["counts"] > 1)
    raise InputError(f"{path} must name every image once, got {repeated} more often")


def _numbered(text_N: pa.ChunkedArray) -> tuple[tuple[str, ...], np.ndarray]:
    """The distinct values, in the order in which they first appear, and the number of each row's, int64."""
    encoded = pa.concat_arrays(text_N.chunks).dictionary_encode()
    return tuple(encoded.dictionary.to_pylist()), encoded.indices.to_numpy().astype(np.int64)


def _groups(
    path: Path, group_N: pa.ChunkedArray, *, label_N: np.ndarray, names_C: tuple[str, ...]
) -> tuple[str, ...]:
    """The group of each identity."""
    names_G, number_N = _numbered(group_N)
    first_C = np.searchsorted(label_N, np.arange(len(names_C)))
    number_C = number_N[first_C]
    for label in label_N[number_N != number_C[label_N]][:1]:
        raise InputError(f"{path} must tell one group of each identity, got several of {names_C[label]}")
    return tuple(names_G[number] for number in number_C)
