"""Pairs that text files list over folders of images: LFW's form, CSV, and RFW's layout."""

import csv
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from distill.errors import InputError
from distill.evaluation import evaluate_verification
from distill.faces import VerificationPairs
from distill.faces.packs import PairsSettings
from distill.faces.pairs import NUM_FOLDS
from distill.students import BridgeTinySettings
from tests.distill.faces.packs.pictures import encoded, picture

Row = tuple[str, ...]
SIZE = 16


def draw_people(folder: Path, people: list[str], *, images: int = 2, extension: str = "jpg") -> None:
    """Pictures `name/name_0001.jpg` and so on, each of its own."""
    format = {"jpg": "JPEG"}.get(extension, extension.upper())
    for person in people:
        (folder / person).mkdir(parents=True)
        for number in range(1, images + 1):
            seed = sum(f"{person}{number}".encode()) * 31 + number
            path = folder / person / f"{person}_{number:04d}.{extension}"
            path.write_bytes(encoded(picture(seed, size=(SIZE, SIZE)), format))


def rows_of(people: list[str]) -> list[Row]:
    """For each person in turn a genuine pair, and an impostor pair with the next one."""
    rows: list[Row] = []
    for person, stranger in zip(people, [*people[1:], people[0]], strict=True):
        rows += [(person, "1", "2"), (person, "2", stranger, "1")]
    return rows


def write_rows(path: Path, rows: list[Row], *, parted_by: str = "\t", header: str = "") -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(header + "".join(parted_by.join(row) + "\n" for row in rows))
    return path


def write_rfw(folder: Path, sizes: dict[str, int]) -> dict[str, list[Row]]:
    """A folder in RFW's layout, with so many people in each group, and twice as many pairs."""
    listed = {}
    for group, number in sizes.items():
        people = [f"m.{group.lower()[:2]}{k:02d}" for k in range(number)]
        draw_people(folder / "data" / group, people)
        listed[group] = rows_of(people)
        write_rows(folder / "txts" / group / f"{group}_pairs.txt", listed[group])
    return listed


def pixels(path: Path) -> list[int]:
    with Image.open(path) as image:
        return np.array(image.convert("RGB")).transpose(2, 0, 1).flatten().tolist()


def assert_shows(pairs: VerificationPairs, place: int, left: Path, right: Path, is_genuine: bool) -> None:
    sides = (int(pairs.left_P[place]), int(pairs.right_P[place]))
    for side, path in zip(sides, (left, right), strict=True):
        assert pairs.images_NCHW[side].flatten().tolist() == pixels(path)
    assert bool(pairs.is_genuine_P[place]) == is_genuine


@pytest.fixture(scope="module")
def rfw(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, list[Row]]]:
    folder = tmp_path_factory.mktemp("rfw")
    return folder, write_rfw(folder, {"Indian": 10, "African": 20, "East Asian": 15})


@pytest.fixture(scope="module")
def rfw_pairs(rfw: tuple[Path, dict[str, list[Row]]]) -> VerificationPairs:
    return PairsSettings(path=rfw[0]).load(name="benchmark", size_px=SIZE)


@pytest.fixture
def people(tmp_path: Path) -> list[str]:
    names = [f"Person_{k}" for k in range(6)]
    draw_people(tmp_path / "images", names)
    return names


def test_groups_of_rfw_are_named_as_metrics_are(rfw_pairs: VerificationPairs) -> None:
    assert rfw_pairs.group_names == ("african", "east_asian", "indian")
    assert torch.bincount(rfw_pairs.group_P).tolist() == [40, 30, 20]


def test_facts_of_rfw(rfw: tuple[Path, dict[str, list[Row]]]) -> None:
    facts = PairsSettings(path=rfw[0]).facts()
    assert facts.group_names == ("african", "east_asian", "indian")
    assert facts.num_impostors == 45


def test_each_fold_of_all_pairs_is_that_fold_of_every_group(rfw_pairs: VerificationPairs) -> None:
    for groups in rfw_pairs.group_P.view(NUM_FOLDS, -1):
        assert groups.tolist() == [0] * 4 + [1] * 3 + [2] * 2


def test_pairs_of_a_group_keep_their_order(
    rfw: tuple[Path, dict[str, list[Row]]], rfw_pairs: VerificationPairs
) -> None:
    folder, listed = rfw
    for number, group in enumerate(("African", "East Asian", "Indian")):
        places = (rfw_pairs.group_P == number).nonzero().squeeze(1).tolist()
        for place, row in zip(places, listed[group], strict=True):
            (left, n1), (right, n2) = (row[:2], (row[0], row[2])) if len(row) == 3 else (row[:2], row[2:])
            images = [
                folder / "data" / group / name / f"{name}_000{n}.jpg" for name, n in ((left, n1), (right, n2))
            ]
            assert_shows(rfw_pairs, place, images[0], images[1], len(row) == 3)


def test_people_of_rfw_are_known(rfw_pairs: VerificationPairs) -> None:
    people = rfw_pairs.people()
    assert torch.equal(people[rfw_pairs.left_P] == people[rfw_pairs.right_P], rfw_pairs.is_genuine_P)
    assert len(people) == 2 * 45
    assert len(people.unique()) == 45


def test_a_group_is_judged_as_if_it_were_alone(
    rfw: tuple[Path, dict[str, list[Row]]], rfw_pairs: VerificationPairs
) -> None:
    torch.manual_seed(0)
    network = BridgeTinySettings().build(embedding_dim=16, size_px=SIZE)
    together = evaluate_verification(network, rfw_pairs, prefix="all")
    for group, name in (("African", "african"), ("East Asian", "east_asian"), ("Indian", "indian")):
        listing = rfw[0] / "txts" / group / f"{group}_pairs.txt"
        alone = PairsSettings(path=rfw[0] / "data" / group, pairs=listing).load(name="one", size_px=SIZE)
        assert alone.group_names == ()
        accuracy = evaluate_verification(network, alone, prefix="one")["one/verification_accuracy"]
        assert together[f"all/verification_accuracy_{name}"] == accuracy


def test_folds_of_odd_sizes_are_off_by_less_than_three_pairs_a_group(tmp_path: Path) -> None:
    write_rfw(tmp_path, {"a": 7, "b": 11, "c": 8})
    pairs = PairsSettings(path=tmp_path).load(name="benchmark", size_px=SIZE)
    fold_P = torch.cat(
        [torch.full((len(part),), k) for k, part in enumerate(torch.arange(52).tensor_split(10))]
    )
    own_P = torch.empty_like(fold_P)
    for group in range(3):
        members = (pairs.group_P == group).nonzero().squeeze(1)
        for fold, part in enumerate(members.tensor_split(10)):
            own_P[part] = fold
    assert (own_P.diff() >= 0).all()
    for fold in range(1, 10):
        assert abs(int((own_P < fold).sum()) - int((fold_P < fold).sum())) < 3 * 3


@pytest.mark.parametrize("header", ["", "10\t300\n", "6\n", "\ufeff"])
@pytest.mark.parametrize("parted_by", ["\t", " "])
def test_a_list_in_the_form_of_lfw_is_read(
    header: str, parted_by: str, people: list[str], tmp_path: Path
) -> None:
    rows = rows_of(people)
    listing = write_rows(tmp_path / "pairs.txt", rows, parted_by=parted_by, header=header)
    settings = PairsSettings(path=tmp_path / "images", pairs=listing)
    pairs = settings.load(name="benchmark", size_px=SIZE)
    assert (settings.facts().group_names, settings.facts().num_impostors) == ((), 6)
    assert pairs.is_genuine_P.tolist() == [True, False] * 6
    assert len(pairs.images_NCHW) == 12
    assert torch.equal(pairs.people()[pairs.left_P] == pairs.people()[pairs.right_P], pairs.is_genuine_P)
    person = tmp_path / "images" / "Person_0"
    stranger = tmp_path / "images" / "Person_1" / "Person_1_0001.jpg"
    assert_shows(pairs, 0, person / "Person_0_0001.jpg", person / "Person_0_0002.jpg", True)
    assert_shows(pairs, 1, person / "Person_0_0002.jpg", stranger, False)


def test_windows_lines_and_names_with_blanks_are_read(tmp_path: Path) -> None:
    names = [f"Person {k}" for k in range(6)]
    draw_people(tmp_path / "images", names, extension="png")
    listing = tmp_path / "pairs.txt"
    listing.write_bytes("\r\n".join("\t".join(row) for row in rows_of(names)).encode())
    assert PairsSettings(path=tmp_path / "images", pairs=listing).facts().num_impostors == 6


def csv_rows(people: list[str]) -> list[list[str]]:
    rows = []
    for number, row in enumerate(rows_of(people)):
        left = f"{row[0]}/{row[0]}_000{row[1]}.jpg"
        right = (
            f"{row[-2] if len(row) == 4 else row[0]}/{row[-2] if len(row) == 4 else row[0]}_000{row[-1]}.jpg"
        )
        rows.append([left, right, ("1", "0", "True", "false")[number % 4]])
    return rows


def write_csv(path: Path, rows: list[list[str]]) -> Path:
    with path.open("w", newline="") as stream:
        csv.writer(stream).writerows(rows)
    return path


def test_a_csv_is_read(people: list[str], tmp_path: Path) -> None:
    rows = csv_rows(people)
    listing = write_csv(tmp_path / "pairs.csv", [["left", "right", "genuine"], *rows])
    pairs = PairsSettings(path=tmp_path / "images", pairs=listing).load(name="benchmark", size_px=SIZE)
    assert pairs.identity_N is None
    assert pairs.group_names == ()
    for place, (left, right, _) in enumerate(rows):
        assert_shows(pairs, place, tmp_path / "images" / left, tmp_path / "images" / right, place % 2 == 0)


def test_columns_of_a_csv_may_be_in_any_order_and_name_groups(tmp_path: Path) -> None:
    names = [f"p{k}" for k in range(10)]
    draw_people(tmp_path / "images", names)
    rows = [
        [answer, ("East Asian", "white")[number // 2 % 2], right, left]
        for number, (left, right, answer) in enumerate(csv_rows(names))
    ]
    listing = write_csv(tmp_path / "pairs.csv", [["genuine", "group", "right", "left"], *rows])
    settings = PairsSettings(path=tmp_path / "images", pairs=listing)
    pairs = settings.load(name="benchmark", size_px=SIZE)
    assert settings.facts().group_names == pairs.group_names == ("east_asian", "white")
    assert pairs.group_P.tolist() == [0, 1] * 10
    asian = [row for row in rows if row[1] == "East Asian"]
    for place, (answer, _, right, left) in enumerate(asian):
        folder = tmp_path / "images"
        assert_shows(pairs, 2 * place, folder / left, folder / right, answer in ("1", "True"))


@pytest.mark.parametrize(
    ("line", "reason"),
    [
        ("Person_0\t1", "line 13 of .* must be `name n1 n2`"),
        ("Person_0\t1\tPerson_1\t1\t1", "line 13 of .* must be"),
        ("Person_0\t1\tPerson_0\t2", "of two people"),
        ("Person_0\tone\t2", "names the image 'one' of 'Person_0'"),
        ("Person_0\t1\t" + "9" * 5000, "which is no number of a person"),
        ("../images\t1\t2", "names the image '1' of '../images'"),
        ("..\t1\t2", r"names the image '1' of '\.\.'"),
        ("Person_0\t1\t3", r"names image 3 of Person_0, and there is no Person_0_0003\.jpg in .*/Person_0"),
        ("Nobody\t1\t2", "names image 1 of Nobody"),
        ("N" * 300 + "\t1\t2", "and there is no NNN"),
    ],
)
def test_a_wrong_line_is_told(line: str, reason: str, people: list[str], tmp_path: Path) -> None:
    listing = write_rows(tmp_path / "pairs.txt", [*rows_of(people), (line,)])
    with pytest.raises(InputError, match=reason) as error:
        PairsSettings(path=tmp_path / "images", pairs=listing).facts()
    assert str(listing) in str(error.value)


@pytest.mark.parametrize(
    ("header", "row", "reason"),
    [
        ("left,right,genuine", "Person_0/Person_0_0001.jpg,Person_1/Person_1_0001.jpg,maybe", "line 2 of"),
        ("left,right,genuine", "Person_0/Person_0_0001.jpg,1", "line 2 of .* must hold left,right,genuine"),
        ("left,right,genuine", "a,b,1,more", "line 2 of"),
        ("left,right,genuine,group", "a,b,1,", "line 2 of"),
        ("left,right,genuine", "/etc/passwd,b,1", "must be a path inside of"),
        ("left,right,genuine", "../images/Person_0/Person_0_0001.jpg,b,1", "must be a path inside of"),
        ("left,right,genuine", "none.jpg,b,1", "none.jpg, and there is no such image"),
        (
            "left,right,genuine,fold",
            "a,b,1,3",
            "must have the columns left, right, genuine and perhaps group",
        ),
        ("left,right,genuine,left", "a,b,1,a", "must have the columns"),
    ],
)
def test_a_wrong_csv_is_told(header: str, row: str, reason: str, people: list[str], tmp_path: Path) -> None:
    listing = tmp_path / "pairs.csv"
    listing.write_text(f"{header}\n{row}\n")
    with pytest.raises(InputError, match=reason) as error:
        PairsSettings(path=tmp_path / "images", pairs=listing).facts()
    assert str(listing) in str(error.value)
    assert "\n" not in str(error.value)


def test_an_image_that_is_damaged_is_named(people: list[str], tmp_path: Path) -> None:
    listing = write_rows(tmp_path / "pairs.txt", rows_of(people))
    damaged = tmp_path / "images" / "Person_3" / "Person_3_0002.jpg"
    damaged.write_bytes(damaged.read_bytes()[:-100])
    with pytest.raises(InputError, match=r"Person_3_0002\.jpg cannot be decoded \("):
        PairsSettings(path=tmp_path / "images", pairs=listing).load(name="benchmark", size_px=SIZE)
