"""Claims of the contact sheet."""

from pathlib import Path

import pytest
from PIL import Image

from distill.errors import InputError
from distill.faces.sheet import contact_sheet, write_contact_sheet


def test_the_same_seed_draws_the_same_sheet() -> None:
    sheets = [contact_sheet(size_px=16, num_identities=2, num_columns=2, seed=seed) for seed in (3, 3, 4)]
    assert sheets[0].tobytes() == sheets[1].tobytes()
    assert sheets[0].tobytes() != sheets[2].tobytes()


def test_the_sheet_is_written_as_a_png_file(tmp_path: Path) -> None:
    path = tmp_path / "sheet.png"
    write_contact_sheet(path, size_px=32, num_identities=3, num_columns=2, seed=0)
    with Image.open(path) as image:
        assert image.format == "PNG"
        assert image.width > 4 * 96
        assert image.height > 3 * 96


@pytest.mark.parametrize(
    ("size_px", "num_columns", "message"),
    [
        (15, 2, "size must lie between 16 and 112 px, got 15"),
        (32, 0, "identities and columns must be at least 1"),
    ],
)
def test_an_impossible_sheet_is_refused(tmp_path: Path, size_px: int, num_columns: int, message: str) -> None:
    with pytest.raises(InputError, match=message):
        write_contact_sheet(
            tmp_path / "sheet.png", size_px=size_px, num_identities=2, num_columns=num_columns, seed=0
        )
