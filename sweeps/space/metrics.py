"""Which metrics a trial reports, so that a search for any other is refused before it costs anything."""

from distill.config import TrialConfig
from distill.evaluation import LATENCY
from distill.evaluation.efficiency import BATCH_SIZES
from distill.evaluation.verification import finest_far
from distill.faces import AnyFacesSettings
from distill.faces.settings import PairFacts
from distill.training.learner import CLASSIFICATION

FACES_PER_SECOND = tuple(f"efficiency/faces_per_second_batch_{size}" for size in BATCH_SIZES)
"""Measured when a gate asks for it, on the machine of whoever promotes."""
EXPORT = ("export/onnx_bytes", "export/onnx_min_cosine", "export/onnx_mean_cosine")
"""Size of the exported file, and how its embeddings of the benchmark's faces lie to the student's."""

_VERIFICATION = ("verification_accuracy", "verification_accuracy_std", "eer", "auc")
_BY_GROUP = ("verification_accuracy", "shared_threshold_accuracy")
_FAIRNESS = tuple(
    f"fairness/{name}"
    for name in (
        *(f"{at}_threshold_{of}" for at in ("own", "shared") for of in ("mean", "std", "ser")),
        "mean_minus_std",
        "fdr",
        "ir",
        "garbe",
    )
)
_AGREEMENT = ("teacher_similarity", "teacher_mse")
_EFFICIENCY = (
    "efficiency/parameters",
    "efficiency/weight_bytes",
    "efficiency/macs",
    "efficiency/activation_bytes",
)


def reported_metrics(config: TrialConfig) -> list[str]:
    """Metrics of every epoch of a trial: what may be an objective or a constraint."""
    terms = [*config.losses_in_use(), *([CLASSIFICATION] if config.margin_in_use() else [])]
    train = ["loss", *(f"loss/{name}" for name in terms)]
    validation = _verification_metrics("validation", config.faces.pair_facts("validation"))
    if config.imitates_in_full():
        train.append("similarity")
        validation += [f"validation/{name}" for name in _AGREEMENT]
    if config.selection.pairs == "benchmark":
        validation += _verification_metrics("benchmark", config.faces.pair_facts("benchmark"))
    return [*validation, *(f"train/{name}" for name in train), *_EFFICIENCY, LATENCY]


def gate_metrics(faces: AnyFacesSettings) -> list[str]:
    """Metrics that are known of a candidate for promotion, which only then meets the benchmark."""
    benchmark = _verification_metrics("benchmark", faces.pair_facts("benchmark"))
    return [*benchmark, *_EFFICIENCY, *FACES_PER_SECOND, *EXPORT]


def changes_in_training(metric: str) -> bool:
    """Whether a metric can tell a trial's epochs apart."""
    return not metric.startswith("efficiency/")


def _verification_metrics(prefix: str, facts: PairFacts) -> list[str]:
    names = [*_VERIFICATION, *(f"{name}_{group}" for name in _BY_GROUP for group in facts.group_names)]
    if (k := finest_far(facts.num_impostors)) is not None:
        names.append(f"tar_at_far_1e-{k}")
    if len(facts.group_names) > 1:
        names += _FAIRNESS
    return [f"{prefix}/{name}" for name in names]
