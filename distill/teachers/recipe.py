"""How the embedded world's teacher came to be: ArcFace on its authentic faces.

Deng et al., "ArcFace: Additive Angular Margin Loss for Deep Face Recognition", CVPR 2019.
https://arxiv.org/abs/1801.07698

B: batch, D: width of the embedding, C: identities that are told apart
"""

import hashlib
import json
import math
from collections.abc import Callable
from pathlib import Path

import safetensors.torch
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from distill.faces import EmbeddedFacesSettings, FaceGenerator, VerificationPairs
from distill.losses.angles import widened
from distill.students import IResNet
from distill.teachers.embedded import EMBEDDING_DIM, INPUT_PX, SHIPPED_WEIGHTS, embedded_network

NUM_IDENTITIES = 8_000
BATCH_SIZE = 128
STEPS = 3_000
REPORT_EVERY_STEPS = 100
LR = 3e-3
WEIGHT_DECAY = 5e-4
SCALE = 32.0
MARGIN_RAD = 0.3
WARMUP_SHARE = 0.05


def arcface_logits(
    embedding_BD: Tensor, centre_CD: Tensor, classes_B: Tensor, *, scale: float, margin_rad: float
) -> Tensor:
    """Scaled cosines to every centre, of shape (B, C), the true one's angle widened by the margin."""
    cosine_BC = F.normalize(embedding_BD) @ F.normalize(centre_CD).T
    true_B = cosine_BC.gather(1, classes_B[:, None])[:, 0]
    return scale * cosine_BC.scatter(1, classes_B[:, None], widened(true_B, margin_rad)[:, None])


def train_embedded_teacher(
    out_dir: Path,
    *,
    seed: int = 0,
    steps: int = STEPS,
    evaluate: Callable[[nn.Module, VerificationPairs], dict[str, float]],
    report: Callable[[int, float], None] = lambda step, loss: None,
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
    out_dir.mkdir(parents=True, exist_ok=True)
    faces = EmbeddedFacesSettings(domain="authentic", size_px=INPUT_PX)
    generator = faces.generator()
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        network = _train(generator, steps=steps, report=report)

    path = out_dir / SHIPPED_WEIGHTS.name
    weights = {name: tensor.contiguous() for name, tensor in network.state_dict().items()}
    path.write_bytes(safetensors.torch.save(weights))
    card = {
        "name": "embedded",
        "claim": "Demonstrates the system on drawn faces. Says nothing about real ones.",
        "network": "IResNet, see distill/teachers/embedded.py",
        "parameters": sum(parameter.numel() for parameter in network.parameters()),
        "embedding_dim": EMBEDDING_DIM,
        "input_px": INPUT_PX,
        "data": f"{NUM_IDENTITIES} identities of the embedded world's authentic domain, drawn as needed",
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
            "batch_size": BATCH_SIZE,
            "augmentation": "horizontal flips",
        },
        "seed": seed,
        "torch": torch.__version__,
        "command": f"distill teacher --out DIR --seed {seed}",
        "metrics": evaluate(network, faces.validation()) | evaluate(network, faces.benchmark()),
        "sha256": hashlib.sha256(path.read_bytes()).hexdigest(),
    }
    path.with_suffix(".json").write_text(json.dumps(card, indent=2) + "\n", encoding="utf-8")
    return path


def _train(generator: FaceGenerator, *, steps: int, report: Callable[[int, float], None]) -> IResNet:
    network = embedded_network()
    centre_CD = nn.Parameter(0.05 * torch.randn(NUM_IDENTITIES, EMBEDDING_DIM))
    optimizer = torch.optim.AdamW([*network.parameters(), centre_CD], lr=LR, weight_decay=WEIGHT_DECAY)
    warmup_steps = max(1, round(WARMUP_SHARE * steps))
    schedule = torch.optim.lr_scheduler.LambdaLR(
        optimizer, lambda step: min((step + 1) / warmup_steps, (1 + math.cos(math.pi * step / steps)) / 2)
    )
    loss_sum = 0.0
    for step in range(1, steps + 1):
        classes_B = torch.randint(NUM_IDENTITIES, (BATCH_SIZE,))
        with torch.no_grad():
            w_BW = generator.mapping(torch.randn(BATCH_SIZE, generator.z_dim), classes_B=classes_B)
            images = generator.synthesis(w_BW, noise_B=torch.rand(BATCH_SIZE))
            images = torch.where(torch.rand(BATCH_SIZE, 1, 1, 1) < 0.5, images, images.flip(3))
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
