"""The original distillation: the student's softened class probabilities follow the teacher's.

Hinton et al., "Distilling the Knowledge in a Neural Network", NIPS 2014 workshop.
https://arxiv.org/abs/1503.02531

B: batch, C: classes, D: width of the teacher's embedding
"""

from typing import ClassVar

import torch.nn.functional as F
from pydantic import Field
from torch import Tensor

from distill.losses.base import DistillationLoss, LossContext, LossSettings, Need, require_centres
from distill.losses.class_centres import cosines_to_centres, require_logits
from distill.outputs import ModelOutputs


def hinton_kl(student_logits_BC: Tensor, teacher_logits_BC: Tensor, *, temperature: float) -> Tensor:
    """T^2 KL(teacher || student) of the class probabilities at temperature T, batch mean.

    T^2 undoes what dividing logits by T does to the size of the gradient, so that T changes which classes
    count and not how much the loss does.
    """
    student_BC = F.log_softmax(student_logits_BC / temperature, dim=1)
    teacher_BC = F.log_softmax(teacher_logits_BC.detach() / temperature, dim=1)
    return temperature**2 * F.kl_div(student_BC, teacher_BC, reduction="batchmean", log_target=True)


class HintonKL(DistillationLoss):
    """`hinton_kl` of the student's logits and the teacher's scaled cosines to its class centres."""

    centre_CD: Tensor

    def __init__(self, centre_CD: Tensor, *, scale: float, temperature: float):
        super().__init__()
        self.register_buffer("centre_CD", centre_CD, persistent=False)  # frozen: every build is given it
        self._scale = scale
        self._temperature = temperature

    def forward(
        self, *, student: ModelOutputs, teacher: ModelOutputs, labels_B: Tensor | None = None
    ) -> Tensor:
        del labels_B
        teacher_logits_BC = self._scale * cosines_to_centres(teacher.embedding, self.centre_CD)
        return hinton_kl(require_logits(student), teacher_logits_BC, temperature=self._temperature)


class HintonKLSettings(LossSettings):
    """Softened class probabilities. Student and teacher may be of different widths."""

    needs: ClassVar[frozenset[Need]] = frozenset({"classifier", "teacher_centres"})

    temperature: float = Field(default=4.0, gt=0.0)
    """What logits are divided by: the higher, the more the unlikely classes count."""
    scale: float = Field(default=64.0, gt=0.0)
    """What the teacher's cosines are multiplied with to become logits."""

    def build(self, context: LossContext) -> HintonKL:
        return HintonKL(require_centres(context), scale=self.scale, temperature=self.temperature)
