"""Two workers that share a batch see the margins that one process sees."""

from pathlib import Path

import pytest
import torch
import torch.distributed as dist
import torch.multiprocessing as mp
from torch import Tensor

from distill.losses.margins import (
    AdaFaceSettings,
    CurricularFaceSettings,
    ElasticArcPlusSettings,
    ElasticArcSettings,
    ElasticCosPlusSettings,
    ElasticCosSettings,
    MarginSettings,
)

NUM_STEPS = 3
SETTINGS: dict[str, MarginSettings] = {
    "adaface": AdaFaceSettings(),
    "curricularface": CurricularFaceSettings(),
    "elastic_arc": ElasticArcSettings(),
    "elastic_arc_plus": ElasticArcPlusSettings(),
    "elastic_cos": ElasticCosSettings(),
    "elastic_cos_plus": ElasticCosPlusSettings(),
}


def train(settings: MarginSettings, rows: slice) -> dict[str, Tensor]:
    """Some steps on these rows of batches of 8 faces and 5 classes. Returns the last logits and the state."""
    rng = torch.Generator().manual_seed(0)
    margin = settings.build()
    logits_BC = torch.empty(0)
    for _ in range(NUM_STEPS):
        cosine_BC = 2 * torch.rand(8, 5, generator=rng) - 1
        labels_B = torch.randint(5, (8,), generator=rng)
        norm_B = 60 * torch.rand(8, generator=rng)
        logits_BC = margin(cosine_BC[rows], labels_B[rows], norm_B=norm_B[rows])
    return {"logits": logits_BC, **margin.state_dict()}


def work(rank: int, folder: Path) -> None:
    dist.init_process_group("gloo", init_method=f"file://{folder / 'meeting'}", rank=rank, world_size=2)
    rows = slice(4 * rank, 4 * rank + 4)
    torch.save({name: train(settings, rows) for name, settings in SETTINGS.items()}, folder / f"{rank}.pt")
    dist.destroy_process_group()


@pytest.fixture(scope="module")
def by_rank(tmp_path_factory: pytest.TempPathFactory) -> list[dict[str, dict[str, Tensor]]]:
    folder = tmp_path_factory.mktemp("workers")
    mp.spawn(work, args=(folder,), nprocs=2)  # pyright: ignore[reportPrivateImportUsage]
    return [torch.load(folder / f"{rank}.pt") for rank in range(2)]


@pytest.mark.parametrize("name", SETTINGS)
def test_two_workers_agree_with_one(name: str, by_rank: list[dict[str, dict[str, Tensor]]]) -> None:
    alone = train(SETTINGS[name], slice(None))
    first, second = (results[name] for results in by_rank)
    torch.testing.assert_close(torch.cat([first.pop("logits"), second.pop("logits")]), alone.pop("logits"))
    assert alone
    for buffer, value in alone.items():
        torch.testing.assert_close(first[buffer], value)
        torch.testing.assert_close(second[buffer], value)
