"""Losses on class centres see the whole batch: two workers, each with half of it, make what one makes."""

from pathlib import Path

import pytest
import torch
import torch.distributed as dist
import torch.nn.functional as F
from torch import Tensor
from torch.multiprocessing.spawn import spawn

from distill.losses import DistillationLoss, LossContext
from distill.losses.adadistill import AdaDistillSettings
from distill.losses.margin_distillation import MarginDistillationSettings
from distill.outputs import ModelOutputs

NUM_WORKERS = 2
BATCH, DIM, CLASSES = 8, 6, 5
LABELS = torch.tensor([[0, 1, 1, 2, 1, 0, 3, 3], [1, 4, 0, 0, 0, 1, 2, 3]])
"""Of two steps. Classes recur within a worker's half of a batch and across halves."""

Result = dict[str, Tensor]


def random(seed: int, *shape: int) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def losses() -> dict[str, DistillationLoss]:
    context = LossContext(
        student_dim=DIM,
        teacher_dim=DIM,
        num_classes=CLASSES,
        teacher_centre_CD=F.normalize(random(9, CLASSES, DIM)),
    )
    return {
        "adadistill": AdaDistillSettings(scale=8.0).build(context),
        "margin_distillation": MarginDistillationSettings(scale=8.0).build(context),
    }


def two_steps(rows: slice) -> Result:
    """Each loss of two steps on some rows of the batches, and AdaDistill's centres after each."""
    results: Result = {}
    for name, loss_fn in losses().items():
        for step, labels in enumerate(LABELS):
            results[f"{name} {step}"] = loss_fn(
                student=ModelOutputs(embedding=random(step, BATCH, DIM)[rows]),
                teacher=ModelOutputs(embedding=random(step + 5, BATCH, DIM)[rows]),
                labels_B=labels[rows],
            )
            results |= {f"{key} {step}": value.clone() for key, value in loss_fn.state_dict().items()}
    return results


def work(rank: int, directory: Path) -> None:
    """One worker's share, saved as `<rank>.pt`."""
    dist.init_process_group(
        "gloo", init_method=f"file://{directory / 'rendezvous'}", rank=rank, world_size=NUM_WORKERS
    )
    share = BATCH // NUM_WORKERS
    torch.save(two_steps(slice(rank * share, (rank + 1) * share)), directory / f"{rank}.pt")
    dist.destroy_process_group()


@pytest.fixture(scope="module")
def shares(tmp_path_factory: pytest.TempPathFactory) -> list[Result]:
    directory = tmp_path_factory.mktemp("workers")
    spawn(work, args=(directory,), nprocs=NUM_WORKERS)
    return [torch.load(directory / f"{rank}.pt") for rank in range(NUM_WORKERS)]


@pytest.fixture(scope="module")
def whole() -> Result:
    return two_steps(slice(None))


@pytest.mark.parametrize("step", [0, 1])
def test_all_workers_have_the_centres_of_the_whole_batch(
    step: int, shares: list[Result], whole: Result
) -> None:
    centres = [share[f"centre_CD {step}"] for share in shares]
    torch.testing.assert_close(centres[0], centres[1], rtol=0, atol=0)
    torch.testing.assert_close(centres[0], whole[f"centre_CD {step}"])


@pytest.mark.parametrize("step", [0, 1])
@pytest.mark.parametrize("name", ["adadistill", "margin_distillation"])
def test_the_mean_over_workers_is_the_loss_of_the_whole_batch(
    name: str, step: int, shares: list[Result], whole: Result
) -> None:
    mean = (shares[0][f"{name} {step}"] + shares[1][f"{name} {step}"]) / 2
    torch.testing.assert_close(mean, whole[f"{name} {step}"])


def test_workers_that_kept_to_themselves_would_be_found_out(whole: Result) -> None:
    halves = [two_steps(slice(0, 4)), two_steps(slice(4, 8))]
    assert not torch.allclose(halves[0]["centre_CD 1"], halves[1]["centre_CD 1"])
    for name in ("adadistill 1", "margin_distillation 0", "margin_distillation 1"):
        mean = (halves[0][name] + halves[1][name]) / 2
        assert not torch.allclose(mean, whole[name], rtol=1e-3)
