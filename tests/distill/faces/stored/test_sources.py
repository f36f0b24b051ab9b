"""Which kind a source is, groups from a file, parts of sets, and several sets as one."""

import pickle
from pathlib import Path

import pytest
import torch
from pydantic import ValidationError

from distill.errors import InputError
from distill.faces import LabelledFaces
from distill.faces.stored import SourceSettings, corrupt_images, mix, open_source, subset
from tests.distill.faces.stored.writer import jpeg, write_with_header


def write_folder(root: Path, sizes: dict[str, int], *, seed: int = 0) -> Path:
    for identity, size in sizes.items():
        (root / identity).mkdir(parents=True)
        for k in range(size):
            (root / identity / f"{k}.jpg").write_bytes(jpeg(seed + 100 * len(identity) + k))
    return root


def write_pack(path: Path, sizes: tuple[int, ...]) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    write_with_header(path, [[jpeg(50 * identity + k) for k in range(n)] for identity, n in enumerate(sizes)])
    return path


def in_memory(sizes: list[int], *, group_names: tuple[str, ...] = (), seed: int = 0) -> LabelledFaces:
    """Random images; identities take turns in the groups."""
    label_N = torch.repeat_interleave(torch.arange(len(sizes)), torch.tensor(sizes))
    rng = torch.Generator().manual_seed(seed)
    return LabelledFaces(
        images=torch.randint(256, (len(label_N), 3, 4, 4), generator=rng, dtype=torch.uint8),
        label_N=label_N,
        group_N=label_N % max(len(group_names), 1),
        authentic_N=torch.full((len(label_N),), False),
        group_names=group_names,
    )


def all_of(faces: LabelledFaces) -> torch.Tensor:
    images, index_N = faces.read(torch.arange(len(faces)))
    assert torch.equal(index_N, torch.arange(len(faces)))
    return images


def test_every_kind_of_source_is_found_by_its_path(tmp_path: Path) -> None:
    pack = write_pack(tmp_path / "pack" / "train.rec", (2, 1))
    folder = write_folder(tmp_path / "folder", {"a": 2, "b": 1})
    (folder / "faces.csv").write_text("path,identity\na/0.jpg,x\na/1.jpg,x\nb/0.jpg,y\n")
    for path in (pack, pack.parent, folder, folder / "faces.csv"):
        faces = open_source(SourceSettings(path=path), size_px=16)
        assert faces.label_N.tolist() == [0, 0, 1]
        assert faces.group_N.tolist() == [0, 0, 0]
        assert faces.group_names == ()
        assert faces.authentic_N.all()
        assert all_of(faces).shape == (3, 3, 16, 16)


def test_a_source_may_say_that_its_images_were_generated(tmp_path: Path) -> None:
    settings = SourceSettings(path=write_folder(tmp_path, {"a": 2}), authentic=False)
    assert not open_source(settings, size_px=16).authentic_N.any()


def touch(path: Path) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(b"")
    return path


@pytest.mark.parametrize(
    ("name", "files", "message"),
    [
        ("none.rec", [], "does not exist"),
        ("train.idx", ["train.idx"], "is the index of a pack, whose .rec file is to be named"),
        ("lfw.bin", ["lfw.bin"], "is a verification pack, which has pairs and no identities"),
        ("faces.tar", ["faces.tar"], "is an archive, which must be unpacked"),
        ("1.JPG", ["1.JPG"], "is a single image"),
        ("faces.txt", ["faces.txt"], "is none of these"),
        ("pack", ["pack/b.rec", "pack/a.rec"], "has no train.rec: name a.rec itself"),
        ("lmdb", ["lmdb/data.mdb", "lmdb/lock.mdb"], "is an LMDB database"),
        ("pack", ["pack/train.idx"], "has a train.idx without its train.rec"),
        ("flat", ["flat/1.jpg", "flat/2.jpg"], "has images that are in no identity's folder"),
        ("empty", ["empty/notes.txt"], "holds no folder of images"),
        ("train.rec", ["train.rec"], "train.rec is empty"),
    ],
)
def test_what_is_no_source_is_told_by_what_it_looks_like(
    tmp_path: Path, name: str, files: list[str], message: str
) -> None:
    for file in files:
        touch(tmp_path / file)
    with pytest.raises(InputError) as error:
        open_source(SourceSettings(path=tmp_path / name), size_px=16)
    assert message in str(error.value)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    "values", [{"share": 0}, {"share": 1.5}, {"max_corrupt_share": 1}, {"max_corrupt_share": -0.1}]
)
def test_settings_out_of_range_are_refused(values: dict[str, float]) -> None:
    with pytest.raises(ValidationError, match=next(iter(values))):
        SourceSettings.model_validate({"path": "x.rec", **values})


def test_groups_come_from_a_file_and_are_ordered_by_name(tmp_path: Path) -> None:
    folder = write_folder(tmp_path / "faces", {"a": 1, "b": 2, "c": 1})
    (tmp_path / "groups.csv").write_text("identity,group\nc,west\nb,east\na,west\nstranger,north\n")
    faces = open_source(SourceSettings(path=folder, groups=tmp_path / "groups.csv"), size_px=16)
    assert faces.group_names == ("east", "west")
    assert faces.group_N.tolist() == [1, 0, 0, 1]
    assert faces.group_N.dtype == torch.int64


def test_identities_of_a_pack_are_known_by_their_numbers(tmp_path: Path) -> None:
    pack = write_pack(tmp_path / "train.rec", (1, 0, 2))
    (tmp_path / "groups.csv").write_text("identity,group\n0,a\n1,b\n2,c\n")
    faces = open_source(SourceSettings(path=pack, groups=tmp_path / "groups.csv"), size_px=16)
    assert faces.group_names == ("a", "c")
    assert faces.group_N.tolist() == [0, 1, 1]


def test_groups_of_a_manifest_need_no_file(tmp_path: Path) -> None:
    write_folder(tmp_path, {"a": 2})
    (tmp_path / "faces.csv").write_text("path,identity,group\na/0.jpg,x,west\na/1.jpg,y,east\n")
    faces = open_source(SourceSettings(path=tmp_path / "faces.csv"), size_px=16)
    assert (faces.group_names, faces.group_N.tolist()) == (("east", "west"), [1, 0])
    touch(tmp_path / "groups.csv")
    with pytest.raises(InputError, match=r"groups must be unset where .*faces\.csv has a column group"):
        open_source(SourceSettings(path=tmp_path / "faces.csv", groups=tmp_path / "groups.csv"), size_px=16)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("identity,group\nb,east\n", "got none of 2 of the 3 identities, the first of them a"),
        (
            "identity,group\na,east\nb,east\nb,west\nc,east\n",
            "must tell one group of each identity, got several of b",
        ),
        ("person,group\na,east\n", "must have the columns identity and group, got person, group"),
        ("identity,group\na,\n", "must tell the group in every row, row 1 does not"),
    ],
)
def test_a_mapping_that_lacks_something_is_told_in_one_sentence(
    tmp_path: Path, text: str, message: str
) -> None:
    folder = write_folder(tmp_path / "faces", {"a": 1, "b": 1, "c": 1})
    (tmp_path / "groups.csv").write_text(text)
    with pytest.raises(InputError, match=message):
        open_source(SourceSettings(path=folder, groups=tmp_path / "groups.csv"), size_px=16)


def test_a_subset_numbers_the_classes_that_are_left(tmp_path: Path) -> None:
    whole = open_source(SourceSettings(path=write_pack(tmp_path / "train.rec", (2, 3, 1))), size_px=16)
    keep_N = torch.tensor([False, False, True, False, True, True])
    part = subset(whole, keep_N)
    assert part.label_N.tolist() == [0, 0, 1]
    torch.testing.assert_close(all_of(part), all_of(whole)[keep_N])
    assert part.digest != whole.digest
    assert part.digest == subset(whole, keep_N).digest
    torch.testing.assert_close(all_of(pickle.loads(pickle.dumps(part))), all_of(part))


def test_a_subset_of_images_in_memory_copies_none() -> None:
    whole = in_memory([2, 2], group_names=("a", "b"))
    part = subset(whole, torch.tensor([False, True, True, True]))
    before = all_of(part)
    assert isinstance(whole.images, torch.Tensor)
    torch.testing.assert_close(before, whole.images[1:])
    whole.images[1] ^= 255
    assert not torch.equal(all_of(part)[0], before[0])
    assert (part.group_N.tolist(), part.group_names) == ([0, 1, 1], ("a", "b"))


def test_an_expected_batch_reaches_the_store_behind_a_view(tmp_path: Path) -> None:
    pack = open_source(SourceSettings(path=write_pack(tmp_path / "train.rec", (4, 4))), size_px=16)
    views = mix([subset(pack, torch.arange(8) % 2 == 0), in_memory_like(pack)], [None, None])
    asked = []
    assert not isinstance(pack.images, torch.Tensor)
    pack.images.encoded = lambda index, encoded=pack.images.encoded: asked.append(index) or encoded(index)  # type: ignore
    assert not isinstance(views.images, torch.Tensor)
    index_B = torch.tensor([3, 5, 0])
    views.images.expect(index_B)
    views.read(index_B)
    assert sorted(asked) == [0, 6]


def in_memory_like(faces: LabelledFaces) -> LabelledFaces:
    return LabelledFaces(
        images=all_of(faces),
        label_N=faces.label_N,
        group_N=faces.group_N,
        authentic_N=~faces.authentic_N,
        group_names=faces.group_names,
    )


def test_a_subset_of_nothing_is_refused() -> None:
    with pytest.raises(ValueError, match="keep_N must keep an image, got none"):
        subset(in_memory([2]), torch.tensor([False, False]))


def test_a_mix_numbers_classes_on_and_reads_each_image_from_its_own_part(tmp_path: Path) -> None:
    parts = [
        open_source(SourceSettings(path=write_pack(tmp_path / "train.rec", (2, 1))), size_px=16),
        open_source(
            SourceSettings(path=write_folder(tmp_path / "f", {"a": 1, "b": 2}, seed=7), authentic=False),
            size_px=16,
        ),
    ]
    parts.append(in_memory_like(parts[1]))
    mixed = mix(parts, [None] * 3)
    assert mixed.label_N.tolist() == [0, 0, 1, 2, 3, 3, 4, 5, 5]
    assert mixed.num_classes == 6
    assert mixed.authentic_N.tolist() == [True] * 3 + [False] * 3 + [True] * 3
    whole = torch.cat([all_of(part) for part in parts])
    torch.testing.assert_close(all_of(mixed), whole)
    index_B = torch.tensor([8, 0, 3, 3, 1, 5, 6])
    torch.testing.assert_close(mixed.read(index_B)[0], whole[index_B])
    assert mixed.digest == mix(parts, [None] * 3).digest != mix(parts[:2], [None] * 2).digest


def test_a_mix_tells_unreadable_images_of_all_its_parts(tmp_path: Path) -> None:
    first, second = (write_folder(tmp_path / name, {"a": 4, "b": 4}) for name in ("one", "two"))
    (first / "a" / "1.jpg").write_bytes(b"damaged")
    parts = [
        open_source(SourceSettings(path=path, max_corrupt_share=0.5), size_px=16) for path in (first, second)
    ]
    mixed = mix([subset(parts[0], torch.ones(8, dtype=torch.bool)), parts[1]], [None, None])
    _, index_B = mixed.read(torch.tensor([1, 9]))
    assert index_B.tolist() == [2, 9]
    found = corrupt_images(mixed.images)
    assert (found.count, found.num_read) == (1, 3)
    assert found.names[0].startswith("a/1.jpg (")
    assert corrupt_images(torch.zeros(1)).count == 0


def test_group_names_of_a_mix_are_united() -> None:
    mixed = mix(
        [in_memory([1, 1], group_names=("b", "d")), in_memory([1, 1, 1], group_names=("a", "b", "c"))],
        [None, None],
    )
    assert mixed.group_names == ("a", "b", "c", "d")
    assert mixed.group_N.tolist() == [1, 3, 0, 1, 2]


def test_a_mix_of_one_is_the_set_itself() -> None:
    faces = in_memory([3, 2])
    assert mix([faces], [None]) is faces
    assert mix([faces], [1.0]) is faces


@pytest.mark.parametrize(
    "shares", [(0.5, 0.5), (0.25, 0.75), (0.9, 0.1), (0.2, 0.3, 0.5), (1 / 3, 1 / 3, 1 / 3)]
)
@pytest.mark.parametrize("seed", range(3))
def test_a_mix_holds_its_shares_within_one_identity_and_uses_all_it_can(
    shares: tuple[float, ...], seed: int
) -> None:
    rng = torch.Generator().manual_seed(seed)
    parts = [
        in_memory(torch.randint(1, 9, (number,), generator=rng).tolist(), seed=number)
        for number in (60, 45, 80)[: len(shares)]
    ]
    mixed = mix(parts, shares)
    # As many images as the scarcest source allows.
    total = min(len(part) / share for part, share in zip(parts, shares, strict=True))
    left_out = []
    pixels = all_of(mixed).flatten(1)
    for part, share in zip(parts, shares, strict=True):
        is_kept_N = (all_of(part).flatten(1)[:, None] == pixels).all(2).any(1)
        assert abs(int(is_kept_N.sum()) - share * total) <= 4  # half of the largest identity
        assert not torch.isin(part.label_N[is_kept_N], part.label_N[~is_kept_N]).any()
        left_out.append(int((~is_kept_N).sum()))
    assert 0 in left_out
    assert len(mixed) == sum(map(len, parts)) - sum(left_out)
    assert mixed.label_N.unique().tolist() == list(range(mixed.num_classes))
    assert mix(parts, shares).digest == mixed.digest


@pytest.mark.parametrize(
    ("shares", "message"),
    [
        ([0.5, None], "share must be set for every source or for none, got 1 of 2"),
        ([0.5, 0.4], r"share must sum to 1 over all sources, got 0\.5 \+ 0\.4"),
        ([0.5, 0.500002], "share must sum to 1"),
    ],
)
def test_shares_that_make_no_whole_are_refused(shares: list[float | None], message: str) -> None:
    with pytest.raises(InputError, match=message):
        mix([in_memory([1]), in_memory([1])], shares)


def test_groups_of_some_sources_only_are_refused() -> None:
    with pytest.raises(InputError, match=r"groups must be told by every source .* source 2 tells none"):
        mix([in_memory([1], group_names=("a",)), in_memory([1])], [None, None])
