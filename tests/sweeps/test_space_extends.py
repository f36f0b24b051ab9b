"""A search-space file takes over what it does not say itself from the file that it extends."""

from pathlib import Path

import pytest

from distill.errors import InputError
from sweeps.space import SearchSpace, SpaceError, load_space, parse_space

BASE = """\
name: base
objectives: [{metric: validation/eer, direction: minimize}]
constraints: [{metric: efficiency/parameters, at_most: 250000}]
base:
  student: {name: mobilefacenet}
  method: {name: synthdistill}
  optimizer: {lr: 0.1, clip_norm: 5.0}
  training: {epochs: 4, faces_per_epoch: 1024, batch_size: 64}
parameters:
  student.width: {type: float, low: 0.25, high: 1.0, step: 0.25}
  method.resampling_coef: {type: float, low: 0.25, high: 2.0, log: true}
search: {sampler: tpe, num_trials: 12, seed: 5}
scheduler: {name: asha, grace_epochs: 2}
"""


def write(folder: Path, **files: str) -> Path:
    """Writes files by name, and says where the one called `own` is."""
    for name, text in files.items():
        (folder / f"{name}.yaml").write_text(text)
    return folder / "own.yaml"


def load(folder: Path, own: str, **files: str) -> SearchSpace:
    return load_space(str(write(folder, own=own, base=files.pop("base", BASE), **files)))


def problems(folder: Path, own: str, **files: str) -> list[str]:
    """What is wrong with a file, without its folder."""
    with pytest.raises(SpaceError) as caught:
        load(folder, own, **files)
    return [problem.replace(f"{folder}/", "") for problem in caught.value.problems]


def test_mappings_merge_and_all_else_is_replaced(tmp_path: Path) -> None:
    own = """\
extends: base.yaml
name: own
constraints: [{metric: efficiency/macs, at_most: 1000000}]
base:
  optimizer: {lr: 0.2}
parameters:
  student.width: {type: categorical, choices: [0.5]}
  seed: {type: int, low: 0, high: 3}
search: {num_trials: 3}
"""
    space = load(tmp_path, own)
    assert space.name == "own"
    assert space.objectives[0].metric == "validation/eer"
    assert [constraint.metric for constraint in space.constraints] == ["efficiency/macs"]
    assert (space.fixed("optimizer.lr"), space.fixed("optimizer.clip_norm")) == (0.2, 5.0)
    assert list(space.parameters) == ["student.width", "method.resampling_coef", "seed"]
    assert space.parameters["student.width"].ends() == (0.5,)
    assert (space.search.num_trials, space.search.seed) == (3, 5)


def test_null_drops_what_is_inherited(tmp_path: Path) -> None:
    own = """\
extends: base.yaml
base: {optimizer: {clip_norm: null}}
parameters: {student.width: null}
scheduler: null
constraints: null
"""
    space = load(tmp_path, own)
    assert space.fixed("optimizer") == {"lr": 0.1}
    assert list(space.parameters) == ["method.resampling_coef"]
    assert space.scheduler.grace_epochs is None
    assert space.constraints == ()


def test_a_file_may_extend_one_that_extends_another(tmp_path: Path) -> None:
    (tmp_path / "deep").mkdir()
    write(tmp_path / "deep", middle="extends: ../base.yaml\nname: middle\nsearch: {seed: 7}\n")
    own = "extends: deep/middle.yaml\nsearch: {num_trials: 2}\n"
    space = load(tmp_path, own)
    assert (space.name, space.search.seed, space.search.num_trials) == ("middle", 7, 2)
    assert space.search.sampler == "tpe"
    assert problems(tmp_path, own, base=BASE.replace("seed: 5", "seed: 5, sampler: 1"))[0].startswith(
        "base.yaml:12: search.sampler"
    )


def test_a_packaged_space_is_extended_by_its_name() -> None:
    space = parse_space("extends: quickstart\nname: mine\n", file="mine.yaml")
    assert space == load_space("quickstart").model_copy(update={"name": "mine"})


def test_what_is_set_on_the_command_line_comes_last(tmp_path: Path) -> None:
    path = write(tmp_path, base=BASE, own="extends: base.yaml\nsearch: {num_trials: 3}\n")
    space = load_space(str(path), overrides={"search.num_trials": "4", "student.width": "0.5"})
    assert space.search.num_trials == 4
    assert list(space.parameters) == ["method.resampling_coef"]


def test_the_written_space_stands_alone(tmp_path: Path) -> None:
    space = load(tmp_path, "extends: base.yaml\nname: own\nbase: {seed: 3}\n")
    assert parse_space(space.to_yaml(), file="space.yaml") == space
    assert "extends" not in space.to_yaml()


def test_an_inherited_parameter_may_come_to_depend_on_a_new_one(tmp_path: Path) -> None:
    own = """\
extends: base.yaml
base: {student: null}
parameters:
  student.name: {type: categorical, choices: [mobilefacenet, bridge_tiny]}
  student.width: {type: float, low: 0.5, high: 1.0, when: {student.name: mobilefacenet}}
  losses.raw_mse.weight: {type: float, ratio_of: losses.cosine.weight, low: 0.1, high: 1.0}
  losses.cosine.weight: {type: float, low: 0.1, high: 1.0}
"""
    assert list(load(tmp_path, own).parameters) == [
        "student.name",
        "student.width",
        "method.resampling_coef",
        "losses.cosine.weight",
        "losses.raw_mse.weight",
    ]


def test_mistakes_are_told_where_they_stand(tmp_path: Path) -> None:
    own = """\
extends: base.yaml
base: {optimizer: {clip_norm: -1}}
search: {num_trials: 0}
"""
    base = (
        BASE.replace("high: 2.0", "high: 0.1").replace("seed: 5", "sede: 5").replace("0.1, clip", "-1, clip")
    )
    assert problems(tmp_path, own, base=base) == [
        "own.yaml:2: base.optimizer.clip_norm must be greater than 0, got -1",
        "own.yaml:3: search.num_trials must be greater than 0, got 0",
        "base.yaml:7: base.optimizer.lr must be greater than 0, got -1",
        "base.yaml:11: parameters.method.resampling_coef.high must be above low (0.25), got 0.1",
        "base.yaml:12: search.sede is not a known key; did you mean seed?",
    ]


def test_a_key_that_is_nowhere_is_missing_from_the_file_that_was_asked_for(tmp_path: Path) -> None:
    base = BASE.replace("num_trials: 12, ", "")
    assert problems(tmp_path, "\nextends: base.yaml\n", base=base) == [
        "base.yaml:12: search.num_trials is missing"
    ]
    assert problems(tmp_path, "\nextends: base.yaml\n", base=BASE.replace("name: base\n", "")) == [
        "own.yaml:2: name is missing"
    ]


def test_two_lines_of_one_file_that_clash_are_told_of_that_file(tmp_path: Path) -> None:
    base = BASE.replace("name: base\n", "name: base\nname: again\n")
    assert problems(tmp_path, "extends: base.yaml\nsearch: {num_trials: 0}\n", base=base) == [
        "base.yaml:1: name is given twice, in lines 1 and 2",
        "own.yaml:2: search.num_trials must be greater than 0, got 0",
    ]


@pytest.mark.parametrize(
    ("own", "sentences"),
    [
        (
            "extends: 3\n",
            ["own.yaml:1: extends is refused: it must be a file's path or a packaged space's name, got 3"],
        ),
        (
            "name: own\nextends: bse.yaml\n",
            ["own.yaml:2: extends is refused: bse.yaml cannot be read: No such file or directory"],
        ),
        ("extend: base.yaml\n", ["own.yaml:1: extend is not a known key; did you mean extends?"]),
        ("extends: own.yaml\n", ["own.yaml:1: extends is refused: it leads back to own.yaml"]),
        ("extends: loop.yaml\n", ["loop.yaml:2: extends is refused: it leads back to own.yaml"]),
        ("extends: broken.yaml\n", ["broken.yaml:2: is not valid YAML"]),
        ("extends: list.yaml\n", ["list.yaml: must hold a mapping"]),
        (
            "extends: base.yaml\nparameters: {student.wdth: null}\n",
            [
                "own.yaml:2: parameters.student.wdth is null, which drops what is inherited, but no such "
                "parameter is; did you mean student.width?"
            ],
        ),
    ],
)
def test_a_file_that_cannot_be_extended_is_told_in_a_sentence(
    own: str, sentences: list[str], tmp_path: Path
) -> None:
    others = {"loop": "\nextends: own.yaml\n", "broken": "name: [a\n", "list": "- a\n"}
    found = problems(tmp_path, own, **others)
    assert len(found) == len(sentences), found
    for problem, sentence in zip(found, sentences, strict=True):
        assert problem.startswith(sentence), problem


def test_an_unknown_name_is_no_file_to_extend() -> None:
    with pytest.raises(
        SpaceError, match=r"extends is refused: no search space is called 'quikstart'.*quickstart\?"
    ):
        parse_space("extends: quikstart\n", file="mine.yaml")


def test_extending_is_not_set_on_the_command_line() -> None:
    with pytest.raises(InputError, match="--set extends=quickstart: extends is not a known key"):
        load_space("quickstart", overrides={"extends": "quickstart"})
