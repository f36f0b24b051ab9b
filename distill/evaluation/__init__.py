"""What a student is worth, what it costs, and what the faces it learns from tell of real people."""

from distill.evaluation.agreement import evaluate_agreement
from distill.evaluation.efficiency import measured_efficiency, static_efficiency, static_efficiency_of
from distill.evaluation.privacy import evaluate_privacy
from distill.evaluation.verification import (
    OperatingPoint,
    TenFold,
    area_under_curve,
    embed_images,
    embed_pairs,
    equal_error_rate,
    evaluate_verification,
    roc,
    tar_at_far,
    ten_fold,
)

__all__ = [
    "OperatingPoint",
    "TenFold",
    "area_under_curve",
    "embed_images",
    "embed_pairs",
    "equal_error_rate",
    "evaluate_agreement",
    "evaluate_privacy",
    "evaluate_verification",
    "measured_efficiency",
    "roc",
    "static_efficiency",
    "static_efficiency_of",
    "tar_at_far",
    "ten_fold",
]
