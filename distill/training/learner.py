"""All that is trained in a trial, as one network: several processes then share one set of gradients.

B: this process's share of the batch, D: width of the student's embedding
"""

from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext

from torch import Tensor, nn

from distill.losses import WeightedLosses
from distill.losses.classifier import MarginClassifier
from distill.maps import StageMaps
from distill.outputs import ModelOutputs

CLASSIFICATION = "classification"
"""Name of the classifier's term, whose weight is 1."""


class Learner(nn.Module):
    """A student, the head that tells classes apart where there is one, and the losses.

    Args:
        classifier: None: nothing is classified.
        compares_maps: Whether a loss looks at feature maps.
        autocast: Makes the context that the student runs in. What it puts out is compared in float32.
    """

    def __init__(
        self,
        student: nn.Module,
        *,
        classifier: MarginClassifier | None,
        losses: WeightedLosses,
        compares_maps: bool,
        autocast: Callable[[], AbstractContextManager[object]] = nullcontext,
    ):
        super().__init__()
        self.student, self.classifier, self.losses = student, classifier, losses
        self._stages = StageMaps(student) if compares_maps else None
        self._autocast = autocast

    def forward(
        self, images: Tensor, *, teacher: ModelOutputs, labels_B: Tensor | None
    ) -> tuple[Tensor, dict[str, Tensor]]:
        """Returns the student's raw embeddings (B, D), and the weighted terms by name, each of shape ()."""
        embedding_BD, maps = self._embed(images)
        terms: dict[str, Tensor] = {}
        logits_BC = None
        if self.classifier is not None:
            assert labels_B is not None
            terms[CLASSIFICATION], logits_BC = self.classifier(embedding_BD, labels_B)
        outputs = ModelOutputs(embedding=embedding_BD, logits=logits_BC, maps=maps)
        return embedding_BD, terms | self.losses(student=outputs, teacher=teacher, labels_B=labels_B)

    def _embed(self, images: Tensor) -> tuple[Tensor, tuple[Tensor, ...]]:
        stages = nullcontext() if self._stages is None else self._stages
        with self._autocast(), stages:
            embedding_BD = self.student(images)
        maps = () if self._stages is None else self._stages.maps
        return embedding_BD.float(), tuple(map_BKHW.float() for map_BKHW in maps)
