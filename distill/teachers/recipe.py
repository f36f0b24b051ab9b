"""How the embedded world's teachers came to be: ArcFace on its authentic faces.

Deng et al., "ArcFace: Additive Angular Margin Loss for Deep Face Recognition", CVPR 2019.
https://arxiv.org/abs/1801.07698

B: batch, D: width of the embedding, C: identities that are told apart
"""

import hashlib
import json
import math
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import safetensors.torch
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from distill.faces import EmbeddedFacesSettings, FaceGenerator, VerificationPairs
from distill.losses.angles import widened
from distill.losses.margins.base import target_cosine, with_target
from distill.students import IResNet
from distill.teachers import embedded, specialist

NUM_IDENTITIES = 8_000
BATCH_SIZE = 128
STEPS = 3_000
SPECIALIST_NUM_IDENTITIES = 2_000
SPECIALIST_BATCH_SIZE = 64
SPECIALIST_STEPS = 1_000
REPORT_EVERY_STEPS = 100
LR = 3e-3
WEIGHT_DECAY = 5e-4
SCALE = 32.0
MARGIN_RAD = 0.3
WARMUP_SHARE = 0.05

Evaluate = Callable[[nn.Module, VerificationPairs], dict[str, float]]
Report = Callable[[int, float], None]


@dataclass(frozen=True, kw_only=True)
class Recipe:
    """What sets one teacher of the embedded world apart from another.

    Attributes:
        name: Whom it makes; also the stem of the two files.
        build: Makes the network, with fresh weights.
        source: Where the code of the network is.
        embedding_dim: D.
        input_px: Side of the faces that it learns from.
        identities_C: The people to tell apart, as classes of the world's training faces.
        people: Whom that makes, in words.
        batch_size: Faces a step.
        command: What trains it again, less `--seed`.
    """

    name: str
    build: Callable[[], IResNet]
    source: str
    embedding_dim: int
    input_px: int
    identities_C: Tensor
    people: str
    batch_size: int
    command: str


def arcface_logits(
    embedding_BD: Tensor, centre_CD: Tensor, classes_B: Tensor, *, scale: float, margin_rad: float
) -> Tensor:
    """Scaled cosines to every centre, of shape (B, C), the true one's angle widened by the margin."""
    cosine_BC = F.normalize(embedding_BD) @ F.normalize(centre_CD).T
    target_B = widened(target_cosine(cosine_BC, classes_B), margin_rad)
    return scale * with_target(cosine_BC, classes_B, target_B)


def train_embedded_teacher(
    out_dir: Path,
    *,
    seed: int = 0,
    steps: int = STEPS,
    evaluate: Evaluate,
    report: Report = lambda step, loss: None,
) -> Path:
    """Trains the teacher from scratch; writes `embedded.safetensors` and its card `embedded.json`.

    The same seed on the same machine with as many threads writes the same weights.

    Args:
        out_dir: Where the two files go; made if it does not exist.
        evaluate: Metrics of a network on pairs, by name, for the card.
        report: Called every `REPORT_EVERY_STEPS` steps with the step and the mean loss since the last call.

    Returns:
        The path of the weights.
    """
    recipe = Recipe(
        name="embedded",
        build=embedded.embedded_network,
        source="distill/teachers/embedded.py",
        embedding_dim=embedded.EMBEDDING_DIM,
        input_px=embedded.INPUT_PX,
        identities_C=torch.arange(NUM_IDENTITIES),
        people=f"{NUM_IDENTITIES} identities",
        batch_size=BATCH_SIZE,
        command="distill teacher --out DIR",
    )
    return _make(recipe, out_dir, seed=seed, steps=steps, evaluate=evaluate, report=report)


def train_specialist_teacher(
    out_dir: Path,
    *,
    group: specialist.Group,
    seed: int = 0,
    steps: int = SPECIALIST_STEPS,
    evaluate: Evaluate,
    report: Report = lambda step, loss: None,
) -> Path:
    """Trains the specialist of one group from scratch; writes `specialist_<group>.safetensors` and card.

    It is `train_embedded_teacher`, of a smaller network and on people of that group alone.
    """
    recipe = Recipe(
        name=specialist.specialist_name(group),
        build=specialist.specialist_network,
        source="distill/teachers/specialist.py",
        embedding_dim=specialist.EMBEDDING_DIM,
        input_px=specialist.INPUT_PX,
        identities_C=identities_of(group),
        people=f"The first {SPECIALIST_NUM_IDENTITIES} identities of {group}",
        batch_size=SPECIALIST_BATCH_SIZE,
        command=f"distill teacher --out DIR --specialist {group}",
    )
    return _make(recipe, out_dir, seed=seed, steps=steps, evaluate=evaluate, report=report)


def identities_of(group: specialist.Group) -> Tensor:
    """The first people of a group among the training faces, as classes in rising order; int64."""
    faces = EmbeddedFacesSettings(domain="authentic", size_px=specialist.INPUT_PX).generator()
    # A group is at least a tenth of the world.
    groups = faces.group_of_classes(torch.arange(20 * SPECIALIST_NUM_IDENTITIES))
    members = (groups == faces.group_names.index(group)).nonzero().squeeze(1)
    return members[:SPECIALIST_NUM_IDENTITIES]


def _make(
    recipe: Recipe, out_dir: Path, *, seed: int, steps: int, evaluate: Evaluate, report: Report
) -> Path:
    """Trains by a recipe; writes weights and card."""
    out_dir.mkdir(parents=True, exist_ok=True)
    faces = EmbeddedFacesSettings(domain="authentic", size_px=recipe.input_px)
    generator = faces.generator()
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        network = _train(recipe, generator, steps=steps, report=report)

    path = out_dir / f"{recipe.name}.safetensors"
    weights = {name: tensor.contiguous() for name, tensor in network.state_dict().items()}
    path.write_bytes(safetensors.torch.save(weights))
    card = {
        "name": recipe.name,
        "claim": "Demonstrates the system on drawn faces. Says nothing about real ones.",
        "network": f"IResNet, see {recipe.source}",
        "parameters": sum(parameter.numel() for parameter in network.parameters()),
        "embedding_dim": recipe.embedding_dim,
        "input_px": recipe.input_px,
        "data": f"{recipe.people} of the embedded world's authentic domain, drawn as needed",
        "data_digest": generator.digest,
        "recipe": {
            "loss": "ArcFace",
            "scale": SCALE,
            "margin_rad": MARGIN_RAD,
            "optimizer": "AdamW",
            "lr": LR,
            "weight_decay": WEIGHT_DECAY,
            "schedule": f"cosine to 0 after a warm-up of {WARMUP_SHARE:.0%}",
            "steps": steps,
            "batch_size": recipe.batch_size,
            "augmentation": "horizontal flips",
        },
        "seed": seed,
        "torch": torch.__version__,
        "command": f"{recipe.command} --seed {seed}",
        "metrics": evaluate(network, faces.validation_pairs()) | evaluate(network, faces.benchmark_pairs()),
        "sha256": hashlib.sha256(path.read_bytes()).hexdigest(),
    }
    path.with_suffix(".json").write_text(json.dumps(card, indent=2) + "\n", encoding="utf-8")
    return path


def _train(recipe: Recipe, generator: FaceGenerator, *, steps: int, report: Report) -> IResNet:
    network = recipe.build()
    num_identities, batch_size = len(recipe.identities_C), recipe.batch_size
    centre_CD = nn.Parameter(0.05 * torch.randn(num_identities, recipe.embedding_dim))
    optimizer = torch.optim.AdamW([*network.parameters(), centre_CD], lr=LR, weight_decay=WEIGHT_DECAY)
    warmup_steps = max(1, round(WARMUP_SHARE * steps))
    schedule = torch.optim.lr_scheduler.LambdaLR(
        optimizer, lambda step: min((step + 1) / warmup_steps, (1 + math.cos(math.pi * step / steps)) / 2)
    )
    loss_sum = 0.0
    for step in range(1, steps + 1):
        classes_B = torch.randint(num_identities, (batch_size,))
        with torch.no_grad():
            z_BZ = torch.randn(batch_size, generator.z_dim)
            w_BW = generator.mapping(z_BZ, classes_B=recipe.identities_C[classes_B])
            images = generator.synthesis(w_BW, noise_B=torch.rand(batch_size))
            images = torch.where(torch.rand(batch_size, 1, 1, 1) < 0.5, images, images.flip(3))
        # Images whose channels lie together make training half as fast again on a CPU.
        embedding_BD = network(images.contiguous(memory_format=torch.channels_last))
        logits_BC = arcface_logits(embedding_BD, centre_CD, classes_B, scale=SCALE, margin_rad=MARGIN_RAD)
        loss = F.cross_entropy(logits_BC, classes_B)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        schedule.step()
        loss_sum += loss.item()
        if step % REPORT_EVERY_STEPS == 0:
            report(step, loss_sum / REPORT_EVERY_STEPS)
            loss_sum = 0.0
    return network.eval()
