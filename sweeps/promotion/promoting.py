"""A promotion from its first look to its last call: select, measure, judge, register."""

import json
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from distill.config import TrialConfig
from distill.errors import InputError, RefusedError
from sweeps.home import Home, masked
from sweeps.promotion.gates import Champion, Verdict, judge, read_gate
from sweeps.promotion.measuring import Candidate, measure, on_the_same_pairs
from sweeps.promotion.registering import origin, register
from sweeps.promotion.selection import how_chosen, select
from sweeps.registry import Registry
from sweeps.space import ChampionGate, PromotionSettings, SearchSpace, gate_metrics, reported_metrics
from sweeps.space.document import parse_value
from sweeps.space.problems import dotted, problems_of
from sweeps.space.promotion import promotion_problems
from sweeps.study import load_study, read_space


@dataclass(frozen=True, kw_only=True)
class Promotion:
    """A student that went through its gates."""

    candidate: Candidate
    verdicts: tuple[Verdict, ...]
    model: str
    version: str
    alias: str
    registry_uri: str

    @property
    def uri(self) -> str:
        """What production loads."""
        return f"models:/{self.model}@{self.alias}"

    def document(self) -> dict[str, Any]:
        """As plain types, for `--json`."""
        return {
            "model": self.model,
            "version": self.version,
            "alias": self.alias,
            "uri": self.uri,
            "registry": masked(self.registry_uri),
            **_found(self.candidate, self.verdicts),
        }


@dataclass(frozen=True, kw_only=True)
class Proposal:
    """A student before its gates, measured. Nothing was written yet outside of a temporary folder."""

    home: Home
    study: str
    settings: PromotionSettings
    registry: Registry
    candidate: Candidate
    champion: Champion | None
    verdicts: tuple[Verdict, ...]
    folder: Path

    @property
    def passed(self) -> bool:
        """Whether every gate lets it through."""
        return all(verdict.passed for verdict in self.verdicts)

    def document(self) -> dict[str, Any]:
        """As plain types, for `--json`."""
        return {
            "model": self.settings.model,
            "alias": self.settings.alias,
            "passed": self.passed,
            **_found(self.candidate, self.verdicts),
        }

    def promote(self, *, why: str = "") -> Promotion:
        """Registers the student and points the alias to it.

        Args:
            why: The reason, kept with the version.

        Raises:
            RefusedError: If a gate refuses, its run is still open, or MLflow refuses. Nothing has the alias
                that had not.
        """
        number = self.candidate.row.number
        if failed := [str(verdict) for verdict in self.verdicts if not verdict.passed]:
            raise RefusedError(f"trial {number} of {self.study} is not promoted: {'; '.join(failed)}")
        self._meets_the_same_champion()
        version = register(
            self.registry,
            self.candidate,
            self.verdicts,
            origin(Registry.of(self.home), self.study, self.candidate),
            model=self.settings.model,
            alias=self.settings.alias,
            why=why,
            folder=self.folder / "model",
        )
        return Promotion(
            candidate=self.candidate,
            verdicts=self.verdicts,
            model=self.settings.model,
            version=version,
            alias=self.settings.alias,
            registry_uri=self.registry.uri,
        )

    def _meets_the_same_champion(self) -> None:
        """Refuses where gates compared with a champion that is none any more."""
        if not _compares(self.settings):
            return
        now = self.registry.aliases(self.settings.model).get(self.settings.alias)
        met = self.champion.version if self.champion else None
        if now != met:
            raise RefusedError(
                f"models:/{self.settings.model}@{self.settings.alias} became version {now} while the "
                f"candidate was compared with {f'version {met}' if met else 'none'}: promote it again"
            )


@contextmanager
def proposed(
    home: Home,
    name: str,
    *,
    trial: int | None = None,
    alias: str | None = None,
    gates: Sequence[str] = (),
    choose: str | None = None,
    to: str | None = None,
) -> Iterator[Proposal]:
    """Selects a study's best student, measures it, and asks every gate.

    Args:
        trial: Its number, in place of the rule's choice.
        alias: In place of the space's.
        gates: Further ones than the space's: `METRIC >= LIMIT`, `METRIC <= LIMIT`, or as a space has them.
        choose: In place of the space's rule, as a space has it.
        to: Address of another MLflow server, in whose registry it shall be and whose champion it meets.

    Raises:
        InputError: If the study, the trial, an option or a gate's metric does not exist.
        RefusedError: If there is no trial to choose, or the student cannot be exported or compared.
    """
    space = read_space(home, name)
    if space.promotion is None:
        raise InputError(
            f"study {name} says nothing of promotion: add `promotion: {{model: ...}}` to its space"
        )
    settings = _changed(space.promotion, alias=alias, gates=gates, choose=choose)
    registry = Registry.of(home) if to is None else Registry.on_server(to)
    row = select(load_study(home, name), space, trial=trial, rule=settings.choose)
    config = space.config(row.params, seed_offset=row.seed_offset)
    _check(settings, space, config)
    with tempfile.TemporaryDirectory(prefix="promotion-") as made:
        folder = Path(made)
        candidate = measure(
            home,
            name,
            row,
            config,
            chosen=how_chosen(space, trial=trial, rule=settings.choose),
            asked=[gate.metric for gate in settings.gates],
            folder=folder / "student",
        )
        champion = _champion(registry, settings, candidate, folder)
        yield Proposal(
            home=home,
            study=name,
            settings=settings,
            registry=registry,
            candidate=candidate,
            champion=champion,
            verdicts=judge(settings.gates, candidate, champion),
            folder=folder,
        )


def promote(
    home: Home, name: str, *, trial: int | None = None, alias: str | None = None, why: str = ""
) -> Promotion:
    """Registers a study's best student under an alias, if it passes every gate of its space.

    Raises:
        InputError: If the study or the trial does not exist.
        RefusedError: If a gate refuses. Nothing was registered.
    """
    with proposed(home, name, trial=trial, alias=alias) as proposal:
        return proposal.promote(why=why)


def _champion(
    registry: Registry, settings: PromotionSettings, candidate: Candidate, folder: Path
) -> Champion | None:
    """The present champion on the candidate's benchmark, where a gate compares with it."""
    if not _compares(settings):
        return None
    version = registry.aliases(settings.model).get(settings.alias)
    if version is None:
        return None
    student = registry.fetch(f"models:/{settings.model}/{version}", into=folder / "champion")
    return Champion(version=version, measured=on_the_same_pairs(student, candidate))


def _compares(settings: PromotionSettings) -> bool:
    """Whether a gate asks how the candidate does beside the champion."""
    return any(isinstance(gate, ChampionGate) for gate in settings.gates)


def _changed(
    settings: PromotionSettings, *, alias: str | None, gates: Sequence[str], choose: str | None
) -> PromotionSettings:
    """The space's settings with what the command line says."""
    data = settings.model_dump(mode="json", exclude_none=True)
    data["gates"] += [read_gate(text) for text in gates]
    if alias is not None:
        data["alias"] = alias
    if choose is not None:
        try:
            data["choose"] = parse_value(choose)
        except ValueError as error:
            raise InputError(f"--choose {choose!r} {error}") from error
    try:
        return PromotionSettings.model_validate_json(json.dumps(data), strict=True)
    except ValidationError as error:
        raise InputError(_sentences(problems_of(error, data, PromotionSettings))) from error


def _check(settings: PromotionSettings, space: SearchSpace, config: TrialConfig) -> None:
    """Raises InputError where a gate or a rule names a metric that is not measured."""
    problems = promotion_problems(
        settings,
        space.objectives,
        reported=reported_metrics(config),
        measured=gate_metrics(config.faces),
    )
    if sentences := _sentences(problems):
        raise InputError(sentences)


def _sentences(problems: Any) -> str:
    return "\n".join(
        f"promotion.{dotted(path).removeprefix('promotion.')} {claim}" for path, claim in problems
    )


def _found(candidate: Candidate, verdicts: Sequence[Verdict]) -> dict[str, Any]:
    return {
        "trial": candidate.row.number,
        "chosen": candidate.chosen,
        "metrics": dict(candidate.metrics),
        "teacher_metrics": dict(candidate.teacher_metrics),
        "gates": [verdict.document() for verdict in verdicts],
    }
