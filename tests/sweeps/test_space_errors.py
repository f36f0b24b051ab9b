"""What is wrong with a search-space file is said in full: place, path, what is allowed, what was given."""

from pathlib import Path
from typing import get_args

import pytest

from distill.errors import InputError
from distill.students import AnyStudentSettings
from sweeps.space import SpaceError, load_space, parse_space

EVERY_STUDENT = ", ".join(
    kind.model_fields["name"].default for kind in get_args(get_args(AnyStudentSettings)[0])
)
GOOD = """\
name: study
objectives:
  - {metric: validation/verification_accuracy, direction: maximize}
constraints:
  - {metric: efficiency/parameters, at_most: 250000}
base:
  method: {name: synthdistill}
  training: {epochs: 4, faces_per_epoch: 1024, batch_size: 64}
parameters:
  student.name: {type: categorical, choices: [bridge_tiny, mobilefacenet]}
  student.width: {type: float, low: 0.5, high: 1.0, when: {student.name: mobilefacenet}}
  optimizer.lr: {type: float, low: 1e-4, high: 1e-2, log: true}
  schedule.step_epochs: {type: int, low: 2, high: 8, step: 2}
search: {sampler: tpe, num_trials: 4, seed: 0}
scheduler: {name: asha, grace_epochs: 1, reduction_factor: 3}
resources: {workers_per_trial: 1, cpus_per_worker: 1, gpus_per_worker: 0}
promotion:
  model: face-student
  gates: [{metric: benchmark/verification_accuracy, at_least: 0.9}]
"""

LR = "{type: float, low: 1e-4, high: 1e-2, log: true}"
WIDTH = "{type: float, low: 0.5, high: 1.0, when: {student.name: mobilefacenet}}"
STEPS = "{type: int, low: 2, high: 8, step: 2}"
STUDENTS = "{type: categorical, choices: [bridge_tiny, mobilefacenet]}"

BAD = [
    # keys
    ("name: study", "nam: study", ["1: name is missing", "1: nam is not a known key; did you mean name?"]),
    ("seed: 0}", "sede: 0}", ["14: search.sede is not a known key; did you mean seed?"]),
    ("log: true}", "logg: true}", ["12: parameters.optimizer.lr.logg is not a known key; did you mean log?"]),
    ("  model: face-student\n", "", ["17: promotion.model is missing"]),
    ("num_trials: 4, ", "", ["14: search.num_trials is missing"]),
    (
        "name: study\n",
        "name: study\nname: again\n",
        ["1: name is given twice, in lines 1 and 2"],
    ),
    # types
    ("name: study", "name: 7", ["1: name must be text, got 7"]),
    ("num_trials: 4", "num_trials: 4.5", ["14: search.num_trials must be a whole number, got 4.5"]),
    ("num_trials: 4", "num_trials: 0", ["14: search.num_trials must be greater than 0, got 0"]),
    ("low: 1e-4", "low: '1e-4'", ["12: parameters.optimizer.lr.low must be a number, got '1e-4'"]),
    ("high: 1e-2", "high: .inf", ["12: parameters.optimizer.lr.high must be a finite number, got inf"]),
    ("low: 2,", "low: 2.5,", ["13: parameters.schedule.step_epochs.low must be a whole number, got 2.5"]),
    (
        "high: 1e-2, log: true",
        "high: 1e-2, log: yes",
        ["12: parameters.optimizer.lr.log must be true or false, got 'yes'"],
    ),
    (
        "type: float, low: 1e-4",
        "type: flaot, low: 1e-4",
        [
            "12: parameters.optimizer.lr.type must be one of float, int, categorical, got 'flaot'; "
            "did you mean float?"
        ],
    ),
    (
        "{metric: validation/verification_accuracy, direction: maximize}",
        "{metric: validation/verification_accuracy, direction: max}",
        [
            "3: objectives[0].direction must be one of maximize, minimize, got 'max'",
        ],
    ),
    (
        "sampler: tpe",
        "sampler: tpee",
        [
            "14: search.sampler must be one of tpe, random, grid, qmc, gp, nsgaii, nsgaiii, cmaes, "
            "got 'tpee'; did you mean tpe?",
        ],
    ),
    (
        "name: asha",
        "name: ashaa",
        [
            "15: scheduler.name must be one of asha, hyperband, median, pbt, none, got 'ashaa'; "
            "did you mean asha?"
        ],
    ),
    (
        "name: study",
        "name: a/b",
        ["1: name must be up to 64 letters, digits, '.', '_' and '-', no sign first, got 'a/b'"],
    ),
    # ranges
    ("high: 1e-2", "high: 1e-5", ["12: parameters.optimizer.lr.high must be above low (0.0001), got 1e-05"]),
    ("low: 1e-4", "low: 0", ["12: parameters.optimizer.lr.log needs low above 0, got 0.0"]),
    ("log: true}", "step: -0.1}", ["12: parameters.optimizer.lr.step must be greater than 0, got -0.1"]),
    (
        "log: true}",
        "log: true, step: 0.1}",
        ["12: parameters.optimizer.lr.step cannot be combined with log, got 0.1"],
    ),
    (
        "step: 2}",
        "step: 4}",
        ["13: parameters.schedule.step_epochs.step must lead from low to high in whole steps, got 4"],
    ),
    (
        "choices: [bridge_tiny, mobilefacenet]",
        "choices: []",
        ["10: parameters.student.name.choices must not be empty"],
    ),
    (
        "choices: [bridge_tiny, mobilefacenet]",
        "choices: [mobilefacenet, mobilefacenet]",
        ["10: parameters.student.name.choices must name each choice once, got 'mobilefacenet' twice"],
    ),
    # conditions
    (
        "when: {student.name: mobilefacenet}",
        "when: {student.nam: mobilefacenet}",
        [
            "11: parameters.student.width.when.student.nam is neither a parameter nor fixed in base; "
            "did you mean student.name?"
        ],
    ),
    (
        "when: {student.name: mobilefacenet}",
        "when: {student.name: mobilefacenets}",
        [
            "11: parameters.student.width.when.student.name must be among the choices of student.name "
            "(bridge_tiny, mobilefacenet), got 'mobilefacenets'"
        ],
    ),
    (
        "when: {student.name: mobilefacenet}",
        "when: {optimizer.lr: 0.1}",
        ["11: parameters.student.width.when.optimizer.lr must be declared before student.width"],
    ),
    (
        STEPS,
        "{type: int, low: 2, high: 8, when: {optimizer.lr: 0.1}}",
        ["13: parameters.schedule.step_epochs.when.optimizer.lr must be categorical, is float"],
    ),
    (
        ", when: {student.name: mobilefacenet}",
        "",
        [
            "11: parameters.student.width exists only where student.name is mobilefacenet: "
            "add when: {student.name: [mobilefacenet]}"
        ],
    ),
    (
        f"  student.name: {STUDENTS}\n  student.width: {WIDTH}\n",
        "  student.width: {type: float, low: 0.5, high: 1.0}\n",
        [
            "10: parameters.student.width needs student.name in base or among the parameters, "
            "since it decides which settings exist"
        ],
    ),
    (
        STEPS,
        "{type: int, low: 2, high: 8, when: {method.name: bridge}}",
        ["13: parameters.schedule.step_epochs exists in no trial, since its conditions never hold together"],
    ),
    # names of settings
    (
        "optimizer.lr:",
        "optimizer.lrr:",
        ["12: parameters.optimizer.lrr is not a setting of a trial; did you mean optimizer.lr?"],
    ),
    (
        f"optimizer.lr: {LR}",
        f"optimizer: {LR}",
        [
            "12: parameters.optimizer is a group of settings: search one of them "
            "(name, lr, weight_decay, betas, momentum, clip_norm)"
        ],
    ),
    (
        "optimizer.lr:",
        "selection.metric:",
        [
            "12: parameters.selection.metric must not be searched: "
            "the first objective picks each trial's best epoch"
        ],
    ),
    # base, and what a trial allows
    (
        "method: {name: synthdistill}",
        "method: {name: synthdistil}",
        [
            "7: base.method.name must be one of synthdistill, sface, fair_kd, bridge, got 'synthdistil'; "
            "did you mean synthdistill?"
        ],
    ),
    (
        "batch_size: 64",
        "batch_sise: 64",
        ["8: base.training.batch_sise is not a known key; did you mean batch_size?"],
    ),
    (
        "faces_per_epoch: 1024",
        "faces_per_epoch: 10",
        ["8: base.training is refused: faces_per_epoch must be at least batch_size (64), got 10"],
    ),
    (
        "base:\n",
        "base:\n  selection: {metric: train/loss}\n",
        ["7: base.selection must not be set: the first objective picks each trial's best epoch"],
    ),
    (
        "base:\n",
        "base:\n  optimizer: {lr: 0.1}\n",
        ["13: parameters.optimizer.lr is fixed in base as well, to 0.1: remove it from one of them"],
    ),
    (
        "low: 0.5, high: 1.0",
        "low: 0.5, high: 9.0",
        ["11: parameters.student.width must be less than or equal to 2, got 9.0"],
    ),
    (
        "[bridge_tiny, mobilefacenet]",
        "[bridge_tinny, mobilefacenet]",
        [
            f"10: parameters.student.name must be one of {EVERY_STUDENT}, "
            "got 'bridge_tinny'; did you mean bridge_tiny?"
        ],
    ),
    (
        f"schedule.step_epochs: {STEPS}",
        "training.batch_size: {type: categorical, choices: [64, 2048]}",
        [
            "13: parameters.training.batch_size is fixed in base as well, to 64: remove it from one of them",
        ],
    ),
    # metrics
    (
        "validation/verification_accuracy,",
        "validation/verification_acuracy,",
        [
            "3: objectives[0].metric must be a metric that is reported, "
            "got 'validation/verification_acuracy'; did you mean validation/verification_accuracy?"
        ],
    ),
    (
        "- {metric: validation/verification_accuracy, direction: maximize}",
        "- {metric: benchmark/eer, direction: minimize}",
        [
            "3: objectives[0].metric must not be of the benchmark, which is for what was selected, "
            "got 'benchmark/eer'"
        ],
    ),
    (
        "{metric: validation/verification_accuracy, direction: maximize}",
        "{metric: efficiency/macs, direction: minimize}",
        [
            "3: objectives[0].metric must change in training, since it picks each trial's best epoch, "
            "got 'efficiency/macs'"
        ],
    ),
    (
        "  - {metric: validation/verification_accuracy, direction: maximize}\n",
        "  - {metric: validation/eer, direction: minimize}\n" * 2,
        ["4: objectives[1].metric is an objective already, got 'validation/eer' twice"],
    ),
    (
        "  - {metric: validation/verification_accuracy, direction: maximize}\n",
        "  []\n",
        ["2: objectives must not be empty"],
    ),
    (", at_most: 250000", "", ["5: constraints[0] must have one of at_most and at_least"]),
    (
        ", at_most: 250000",
        ", at_most: 2, at_least: 1",
        ["5: constraints[0] must have one of at_most and at_least"],
    ),
    (
        "metric: benchmark/verification_accuracy",
        "metric: validation/verification_accuracy",
        [
            "19: promotion.gates[0].metric must be a metric that is reported, "
            "got 'validation/verification_accuracy'; did you mean benchmark/verification_accuracy?"
        ],
    ),
    # how it is run
    (
        "grace_epochs: 1",
        "grace_epochs: 4",
        ["8: base.training.epochs must be above scheduler.grace_epochs (4) for asha to stop anything, got 4"],
    ),
    (
        "workers_per_trial: 1",
        "workers_per_trial: 3",
        ["8: base.training.batch_size must be a multiple of resources.workers_per_trial (3), got 64"],
    ),
    (
        "gpus_per_worker: 0}",
        "gpus_per_worker: 1.5}",
        ["16: resources.gpus_per_worker must be whole above 1, got 1.5"],
    ),
    (
        "gpus_per_worker: 0}",
        "max_concurrent: many}",
        ["16: resources.max_concurrent must be a whole number or 'auto', got 'many'"],
    ),
    (
        "sampler: tpe",
        "sampler: grid",
        [
            "11: parameters.student.width needs a step, since the sampler is grid",
            "12: parameters.optimizer.lr needs a step, since the sampler is grid",
        ],
    ),
    (
        "sampler: tpe",
        "sampler: gp",
        ["14: search.sampler must be one for conditions, such as tpe, since student.width has one, got gp"],
    ),
    (
        "model: face-student",
        "model: face/student",
        ["18: promotion.model must be a name without / and :, got 'face/student'"],
    ),
    (
        "model: face-student",
        "model: face-student\n  alias: v1",
        [
            "19: promotion.alias must be of letters, digits, - and _, but not latest or a version like v1, "
            "got 'v1'"
        ],
    ),
    # samplers
    (
        "sampler: tpe",
        "sampler: qmc",
        ["14: search.sampler must be one for conditions, such as tpe, since student.width has one, got qmc"],
    ),
    (
        "sampler: tpe",
        "warm_start: a/b",
        [
            "14: search.warm_start must be up to 64 letters, digits, '.', '_' and '-', no sign first, "
            "got 'a/b'"
        ],
    ),
    # points that are tried first
    (
        "seed: 0}",
        "enqueue: [{optimizer.l: 1e-3}]}",
        ["14: search.enqueue[0].optimizer.l is not a parameter; did you mean optimizer.lr?"],
    ),
    (
        "seed: 0}",
        "enqueue: [{}, {optimizer.lr: fast}]}",
        ["14: search.enqueue[1].optimizer.lr must be a number, got 'fast'"],
    ),
    (
        "seed: 0}",
        "enqueue: [{optimizer.lr: 0.1}]}",
        ["14: search.enqueue[0].optimizer.lr must be from 0.0001 to 0.01, got 0.1"],
    ),
    (
        "seed: 0}",
        "enqueue: [{schedule.step_epochs: 2.0}]}",
        ["14: search.enqueue[0].schedule.step_epochs must be a whole number, got 2.0"],
    ),
    (
        "seed: 0}",
        "enqueue: [{schedule.step_epochs: 5}]}",
        ["14: search.enqueue[0].schedule.step_epochs must be whole steps above low (2), got 5"],
    ),
    (
        "seed: 0}",
        "enqueue: [{student.name: mobilefacenets}]}",
        [
            "14: search.enqueue[0].student.name must be among its choices (bridge_tiny, mobilefacenet), "
            "got 'mobilefacenets'"
        ],
    ),
    (
        "seed: 0}",
        "enqueue: [{student.width: 0.5}]}",
        [
            "14: search.enqueue[0].student.width exists only where student.name is mobilefacenet, "
            "which the point leaves out"
        ],
    ),
    (
        "seed: 0}",
        "enqueue: [{student.name: bridge_tiny, student.width: 0.5}]}",
        [
            "14: search.enqueue[0].student.width exists only where student.name is mobilefacenet, "
            "got 'bridge_tiny'"
        ],
    ),
    (
        "num_trials: 4, seed: 0}",
        "num_trials: 1, enqueue: [{optimizer.lr: 1e-3}, {optimizer.lr: 2e-3}]}",
        ["14: search.enqueue must hold at most search.num_trials (1) points, got 2"],
    ),
    # schedulers, seeds and budgets
    (
        "name: asha",
        "name: hyperband",
        [
            "8: base.training.epochs must be at least 9, where the last of scheduler.brackets (3) begins to "
            "stop, got 4"
        ],
    ),
    (
        "name: asha, grace_epochs: 1",
        "name: median, grace_epochs: 4",
        [
            "8: base.training.epochs must be above scheduler.grace_epochs (4) for median to stop anything, "
            "got 4"
        ],
    ),
    (
        "promotion:\n",
        "confirm: {top: 5}\npromotion:\n",
        ["17: confirm.top must be at most search.num_trials (4), got 5"],
    ),
    (
        "promotion:\n",
        "budget: {hours: 2.5, target: 0.9, gpu_hours: 4}\npromotion:\n",
        ["17: budget.gpu_hours must be left out where resources.gpus_per_worker is 0, got 4.0"],
    ),
    (
        "promotion:\n",
        "budget: {hours: 0}\npromotion:\n",
        ["17: budget.hours must be greater than 0, got 0"],
    ),
    # YAML
    ("name: study", "name: [study", ["2: is not valid YAML"]),
]


@pytest.mark.parametrize(("old", "new", "sentences"), BAD, ids=[new.strip()[:50] for _, new, _ in BAD])
def test_each_mistake_is_one_sentence(old: str, new: str, sentences: list[str]) -> None:
    assert old in GOOD
    with pytest.raises(SpaceError) as caught:
        parse_space(GOOD.replace(old, new, 1), file="study.yaml")
    problems = caught.value.problems
    assert len(problems) == len(sentences), problems
    for problem, sentence in zip(problems, sentences, strict=True):
        assert problem.startswith(f"study.yaml:{sentence}"), problem


PLAIN = """\
name: study
objectives: [{metric: validation/verification_accuracy, direction: maximize}]
base:
  method: {name: synthdistill}
  training: {epochs: 4, faces_per_epoch: 1024, batch_size: 64}
parameters:
  optimizer.lr: {type: float, low: 1e-4, high: 1e-2, log: true}
  losses.cosine.weight: {type: float, low: 0.1, high: 1.0}
  method.resampling_coef: {type: float, low: 0.1, high: 1.0}
search: {sampler: tpe, num_trials: 4, seed: 0}
scheduler: {name: none}
"""
TWO_OBJECTIVES = (
    "[{metric: validation/eer, direction: minimize}, {metric: efficiency/latency_ms, direction: minimize}]"
)
CANNOT_CHANGE = "cannot change in training, as pbt asks: only numbers of optimizer, margin and method can"
CLASHES = [
    # what cannot be met by one line is met by several, as --set would
    ({"search.sampler": "cmaes"}, "objectives", TWO_OBJECTIVES, ["must be one for several objectives"]),
    (
        {"search.sampler": "cmaes"},
        "constraints",
        "[{metric: efficiency/latency_ms, at_most: 3}]",
        ["must be one that learns from constraints, such as tpe, got cmaes"],
    ),
    (
        {"search.sampler": "cmaes"},
        "parameters.optimizer.lr",
        "{type: categorical, choices: [1e-3, 1e-2]}",
        ["must be one for choices, such as tpe, since optimizer.lr has some, got cmaes"],
    ),
    (
        {"search.sampler": "cmaes"},
        "parameters",
        "{}",
        ["must not be cmaes where no parameter is a number to be drawn"],
    ),
    (
        {"search.sampler": "cmaes", "base.optimizer.lr": "0.1"},
        "parameters",
        "{losses.cosine.weight: {type: float, ratio_of: optimizer.lr, low: 2, high: 2}}",
        ["must not be cmaes where no parameter is a number to be drawn"],
    ),
    (
        {"search.sampler": "grid", "parameters": "{seed: {type: int, low: 1, high: 4}}"},
        "search.enqueue",
        "[{seed: 2}]",
        ["search.enqueue must be left out where the sampler is grid, which tries every point once"],
    ),
    (
        {"search.sampler": "grid", "parameters": "{seed: {type: int, low: 1, high: 4}}"},
        "search.warm_start",
        "other",
        ["search.warm_start must be left out where the sampler is grid, which learns nothing from other"],
    ),
    (
        {"parameters": "{seed: {type: int, low: 1, high: 4}}"},
        "search.repeats",
        "2",
        ["parameters.seed must not be searched, since search.repeats (2) trains with further seeds"],
    ),
    (
        {"parameters": "{seed: {type: int, low: 1, high: 4}}"},
        "confirm",
        "{top: 1}",
        ["parameters.seed must not be searched, since confirm trains with further seeds"],
    ),
    ({"scheduler.name": "pbt"}, "objectives", TWO_OBJECTIVES, ["scheduler.name must not be pbt for several"]),
    (
        {"scheduler.name": "pbt"},
        "parameters",
        "{}",
        ["must not be pbt where there are no parameters to change"],
    ),
    (
        {"scheduler.name": "pbt"},
        "parameters.student.width",
        "{type: float, low: 0.5, high: 1.0}",
        [f"parameters.student.width {CANNOT_CHANGE}", "parameters.student.width needs student.name in base"],
    ),
    (
        {"scheduler.name": "pbt"},
        "parameters.optimizer.name",
        "{type: categorical, choices: [adam, sgd]}",
        [f"parameters.optimizer.name {CANNOT_CHANGE}"],
    ),
    (
        {"scheduler.name": "pbt"},
        "parameters.losses.cosine.weight.low",
        "0",
        [
            f"parameters.losses.cosine.weight {CANNOT_CHANGE}",
            "parameters.losses.cosine.weight must not be 0.0: a weight must be above 0",
        ],
    ),
    (
        {"scheduler.name": "pbt"},
        "parameters.training.epochs",
        "{type: int, low: 4, high: 8}",
        [
            f"parameters.training.epochs {CANNOT_CHANGE}",
            "parameters.training.epochs is fixed in base as well",
        ],
    ),
    (
        {"scheduler.name": "pbt", "resources.workers_per_trial": "2"},
        "search.repeats",
        "2",
        [
            "resources.workers_per_trial must be 1 where the scheduler is pbt, which changes trials in place",
            "search.repeats must be 1 where the scheduler is pbt, which changes points, got 2",
        ],
    ),
    (
        {"scheduler.name": "pbt"},
        "resources.max_concurrent",
        "2",
        ["must be auto where the scheduler is pbt, whose trials are all begun at once, got 2"],
    ),
    ({"scheduler.name": "pbt"}, "confirm", "{}", ["confirm must be left out where the scheduler is pbt"]),
    (
        {"scheduler.name": "pbt"},
        "scheduler.perturb_epochs",
        "4",
        ["base.training.epochs must be above scheduler.perturb_epochs (4) for pbt to change anything, got 4"],
    ),
    (
        {
            "scheduler.name": "pbt",
            "parameters.optimizer.weight_decay": "{type: categorical, choices: [0.0, 0.1]}",
        },
        "parameters.optimizer.momentum",
        "{type: float, low: 0.5, high: 0.9, when: {optimizer.weight_decay: 0.1}}",
        ["parameters.optimizer.momentum.when must be left out where the scheduler is pbt"],
    ),
    (
        {},
        "objectives",
        "[{metric: efficiency/latency_ms, direction: minimize}]",
        ["objectives[0].metric must change in training"],
    ),
]


@pytest.mark.parametrize(("others", "name", "value", "sentences"), CLASHES)
def test_settings_of_the_search_that_clash_are_told_each_in_a_sentence(
    others: dict[str, str], name: str, value: str, sentences: list[str]
) -> None:
    with pytest.raises(SpaceError) as caught:
        parse_space(PLAIN, file="study.yaml", overrides={**others, name: value})
    assert len(caught.value.problems) == len(sentences), caught.value.problems
    for sentence in sentences:
        assert any(sentence in problem for problem in caught.value.problems), caught.value.problems


@pytest.mark.parametrize(
    "overrides",
    [
        {"scheduler.name": "pbt"},
        {
            "scheduler.name": "pbt",
            "parameters.method.resampling_coef": "{type: categorical, choices: [0.5, 1]}",
        },
        {"scheduler.name": "median"},
        {"scheduler.name": "hyperband", "scheduler.brackets": "2"},
        {"scheduler.name": "asha", "objectives": TWO_OBJECTIVES, "search.sampler": "nsgaiii"},
        {"search.sampler": "cmaes", "search.repeats": "3", "confirm": "{top: 2, seeds: 3}"},
        {"search.sampler": "nsgaii"},
        {"search.enqueue": "[{optimizer.lr: 0.001}, {}]", "search.warm_start": "other"},
        {"constraints": "[{metric: efficiency/latency_ms, at_most: 3}]"},
        {"budget": "{hours: 1, target: 0.9, gpu_hours: 3}", "resources.gpus_per_worker": "0.5"},
        {"resources": "{custom_per_worker: {disk: 1}, timeout_minutes: 3, retries: 0}"},
    ],
)
def test_what_serves_is_not_refused(overrides: dict[str, str]) -> None:
    assert parse_space(PLAIN, file="study.yaml", overrides=overrides)


def test_a_first_point_that_is_no_trial_is_refused() -> None:
    text = GOOD.replace(
        "training: {epochs: 4, faces_per_epoch: 1024, batch_size: 64}", "training: {epochs: 4}"
    )
    text = text.replace(
        f"schedule.step_epochs: {STEPS}",
        "method.resampling: {type: categorical, choices: [adaptive_w, constant_w, off]}\n"
        "  training.faces_per_epoch: {type: categorical, choices: [512, 100, 512.5]}\n"
        "  training.batch_size: {type: categorical, choices: [64, 128, 64.5]}",
    ).replace("seed: 0}", "seed: 0, enqueue: [{training.faces_per_epoch: 100, training.batch_size: 128}]}")
    with pytest.raises(SpaceError) as caught:
        parse_space(text, file="study.yaml")
    assert caught.value.problems[-1] == (
        "study.yaml:16: search.enqueue[0] is refused: faces_per_epoch must be at least batch_size (128), "
        "got 100"
    )


def test_a_grid_of_which_a_parameter_could_not_be_read_is_not_counted() -> None:
    text = PLAIN.replace("sampler: tpe, num_trials: 4", "sampler: grid, num_trials: 4").replace(
        "1e-2, log", "1e-2, lug"
    )
    text = text.replace("low: 0.1, high: 1.0}", "low: 0.1, high: 0.3, step: 0.2}", 1)
    with pytest.raises(SpaceError) as caught:
        parse_space(text, file="study.yaml")
    assert [problem.partition(": ")[2] for problem in caught.value.problems] == [
        "parameters.optimizer.lr.lug is not a known key; did you mean log?",
        "parameters.method.resampling_coef needs a step, since the sampler is grid",
    ]
    with pytest.raises(SpaceError) as caught:
        parse_space(text.replace("high: 1.0}", "high: 1.0, step: 0.9}"), file="study.yaml")
    assert len(caught.value.problems) == 1


def test_what_depends_on_a_setting_that_could_not_be_read_is_no_mistake() -> None:
    text = GOOD.replace("num_trials: 4", "num_trial: 4").replace("gpus_per_worker: 0", "gpus: 0.5")
    text = text.replace("name: asha, grace_epochs: 1", "name: ashaa, grace_epochs: 9")
    with pytest.raises(SpaceError) as caught:
        parse_space(f"{text}confirm: {{top: 3}}\nbudget: {{gpu_hours: 3}}\n", file="study.yaml")
    assert [problem.split(" ")[1] for problem in caught.value.problems] == [
        "search.num_trials",
        "search.num_trial",
        "scheduler.name",
        "resources.gpus",
    ]


def test_the_file_that_the_mistakes_are_put_into_is_right() -> None:
    assert parse_space(GOOD, file="study.yaml").name == "study"


def test_every_mistake_is_reported_at_once() -> None:
    text = (
        GOOD.replace("sampler: tpe", "sampler: tpee")
        .replace("high: 1e-2", "high: 0")
        .replace("gpus_per_worker: 0", "gpus: 0")
        .replace("epochs: 4", "epoch: 4")
        .replace("benchmark/", "benchmrk/")
        .replace("student.width:", "student.widht:")
    )
    with pytest.raises(SpaceError) as caught:
        parse_space(text, file="study.yaml")
    paths = [problem.split(": ", 1)[1].split(" ")[0] for problem in caught.value.problems]
    assert sorted(paths) == [
        "base.training.epoch",
        "parameters.optimizer.lr.high",
        "parameters.student.widht",
        "promotion.gates[0].metric",
        "resources.gpus",
        "search.sampler",
    ]


def test_a_condition_on_a_parameter_that_could_not_be_read_is_no_mistake_of_its_own() -> None:
    with pytest.raises(SpaceError) as caught:
        parse_space(GOOD.replace("type: categorical", "type: choice"), file="study.yaml")
    assert [problem.split(" ")[1] for problem in caught.value.problems] == ["parameters.student.name.type"]


def test_two_ranges_that_clash_at_their_ends_are_found() -> None:
    text = GOOD.replace(
        "training: {epochs: 4, faces_per_epoch: 1024, batch_size: 64}", "training: {epochs: 4}"
    ).replace(
        f"schedule.step_epochs: {STEPS}",
        "training.faces_per_epoch: {type: int, low: 256, high: 4096}\n"
        "  training.batch_size: {type: categorical, choices: [64, 512]}",
    )
    with pytest.raises(
        SpaceError,
        match=r"faces_per_epoch must not be 256: faces_per_epoch must be at least batch_size \(512\)",
    ):
        parse_space(text, file="study.yaml")


def test_a_file_that_is_no_mapping_is_refused() -> None:
    with pytest.raises(SpaceError, match=r"^list\.yaml: must hold a mapping"):
        parse_space("- a\n- b\n", file="list.yaml")


def test_an_empty_mapping_lacks_its_required_keys() -> None:
    with pytest.raises(SpaceError) as caught:
        parse_space("{}", file="x.yaml")
    assert caught.value.problems == [
        "x.yaml:1: name is missing",
        "x.yaml:1: objectives is missing",
        "x.yaml:1: search is missing",
    ]


def test_a_value_that_holds_itself_is_refused() -> None:
    with pytest.raises(SpaceError, match="is an alias of something that holds it"):
        parse_space(f"{GOOD}description: &a [*a]\n", file="study.yaml")


def test_yaml_tags_make_no_python_objects() -> None:
    with pytest.raises(SpaceError, match="description cannot be read"):
        parse_space(f"{GOOD}description: !!python/object/apply:os.system ls\n", file="study.yaml")


def test_an_unknown_name_lists_the_packaged_spaces_and_the_nearest() -> None:
    with pytest.raises(
        InputError,
        match=r"'quikstart': packaged are architecture, .*, quickstart, .*; did you mean quickstart\?",
    ):
        load_space("quikstart")


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"missing\.yaml cannot be read: No such file or directory"):
        load_space(str(tmp_path / "missing.yaml"))
