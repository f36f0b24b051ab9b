"""What a student is worth, what it costs, and what the faces it learns from tell of real people."""

from distill.evaluation.agreement import evaluate_agreement
from distill.evaluation.bootstrap import (
    Interval,
    bootstrap,
    identity_weights,
    percentile_interval,
    weighted_accuracy,
    weighted_tar_at_far,
)
from distill.evaluation.efficiency import measured_efficiency, static_efficiency, static_efficiency_of
from distill.evaluation.fairness import (
    FairnessComparison,
    FairnessReport,
    NoiseFloor,
    compare_fairness,
    evaluate_fairness,
    fairness_report,
    noise_floor,
)
from distill.evaluation.identification import (
    OpenSetPoint,
    evaluate_identification,
    rank_accuracy,
    tpir_at_fpir,
)
from distill.evaluation.pairs import evaluate_pairs
from distill.evaluation.privacy import evaluate_privacy
from distill.evaluation.verification import (
    OperatingPoint,
    TenFold,
    area_under_curve,
    det,
    embed_images,
    embed_pairs,
    equal_error_rate,
    evaluate_verification,
    pair_similarity,
    roc,
    tar_at_far,
    ten_fold,
    verification_metrics,
)

__all__ = [
    "FairnessComparison",
    "FairnessReport",
    "Interval",
    "NoiseFloor",
    "OpenSetPoint",
    "OperatingPoint",
    "TenFold",
    "area_under_curve",
    "bootstrap",
    "compare_fairness",
    "det",
    "embed_images",
    "embed_pairs",
    "equal_error_rate",
    "evaluate_agreement",
    "evaluate_fairness",
    "evaluate_identification",
    "evaluate_pairs",
    "evaluate_privacy",
    "evaluate_verification",
    "fairness_report",
    "identity_weights",
    "measured_efficiency",
    "noise_floor",
    "pair_similarity",
    "percentile_interval",
    "rank_accuracy",
    "roc",
    "static_efficiency",
    "static_efficiency_of",
    "tar_at_far",
    "ten_fold",
    "tpir_at_fpir",
    "verification_metrics",
    "weighted_accuracy",
    "weighted_tar_at_far",
]
