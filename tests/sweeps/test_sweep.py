"""Which names of studies are free."""

from pathlib import Path

from sweeps.home import Home
from sweeps.sweep import _free_name


def test_a_name_is_numbered_where_a_study_left_checkpoints_and_nothing_else_takes_it(tmp_path: Path) -> None:
    home = Home.at(str(tmp_path), "sqlite:///none.db", f"sqlite:///{tmp_path / 'optuna.db'}")
    home.study("tiny").trials.mkdir(parents=True)
    home.study("tiny-2").root.mkdir()  # its driver was killed before the study was made
    (tmp_path / "studies" / ".DS_Store").touch()
    assert _free_name(home, "tiny") == "tiny-2"
    assert _free_name(home, "other") == "other"
