"""A sheet of faces of the embedded world, to look at: a row is a person, a column is a photograph."""

from pathlib import Path

import torch
from PIL import Image, ImageDraw, ImageFont
from torch import Tensor

from distill.errors import InputError
from distill.faces.embedded import DOMAINS, EmbeddedFaces
from distill.faces.pixels import as_bytes

PAPER = (250, 249, 246)
INK = (52, 50, 48)
PALE_INK = (140, 136, 130)
MIN_CELL_PX = 96
GAP_PX = 3
MARGIN_PX = 28
HEAD_PX = 64
LABEL_PX = 84
CAPTIONS = {
    "authentic": "stands for photographs",
    "synthetic": "stands for what a generator trained on photographs gives",
}


def contact_sheet(*, size_px: int, num_identities: int, num_columns: int, seed: int) -> Image.Image:
    """Draws both domains side by side, from the same identities and the same z.

    Args:
        size_px: Side of the faces; small ones are shown enlarged, pixel by pixel.
        seed: Chooses people and photographs.
    """
    cell_px = size_px * -(-MIN_CELL_PX // size_px)
    panel_px = num_columns * (cell_px + GAP_PX) - GAP_PX
    width = 2 * (MARGIN_PX + panel_px) + LABEL_PX + MARGIN_PX
    height = HEAD_PX + num_identities * (cell_px + GAP_PX) - GAP_PX + MARGIN_PX
    sheet = Image.new("RGB", (width, height), PAPER)
    draw = ImageDraw.Draw(sheet)
    large, small = ImageFont.load_default(20), ImageFont.load_default(13)
    for panel, domain in enumerate(DOMAINS):
        left = MARGIN_PX + LABEL_PX + panel * (panel_px + MARGIN_PX)
        draw.text((left, 14), domain, fill=INK, font=large)
        draw.text((left, 40), CAPTIONS[domain], fill=PALE_INK, font=small)
        faces = EmbeddedFaces(domain=domain, size_px=size_px)
        classes, images = _sittings(faces, num_identities=num_identities, num_columns=num_columns, seed=seed)
        for row in range(num_identities):
            top = HEAD_PX + row * (cell_px + GAP_PX)
            if panel == 0:
                group = faces.group_names[int(faces.group_of_classes(classes[row : row + 1]))]
                draw.text((MARGIN_PX, top + cell_px // 2 - 18), f"person {row + 1}", fill=INK, font=small)
                draw.text((MARGIN_PX, top + cell_px // 2), group, fill=PALE_INK, font=small)
            for column in range(num_columns):
                face = Image.fromarray(images[row, column].permute(1, 2, 0).numpy())
                enlarged = face.resize((cell_px, cell_px), Image.Resampling.NEAREST)
                sheet.paste(enlarged, (left + column * (cell_px + GAP_PX), top))
    return sheet


def write_contact_sheet(
    path: Path, *, size_px: int, num_identities: int, num_columns: int, seed: int
) -> None:
    """Writes a contact sheet as a PNG file.

    Raises:
        InputError: If there would be no face on it, or a size that the world does not draw.
    """
    if min(num_identities, num_columns) < 1:
        raise InputError(f"identities and columns must be at least 1, got {num_identities} and {num_columns}")
    if not 16 <= size_px <= 112:
        raise InputError(f"size must lie between 16 and 112 px, got {size_px}")
    sheet = contact_sheet(size_px=size_px, num_identities=num_identities, num_columns=num_columns, seed=seed)
    sheet.save(path, format="PNG")


@torch.no_grad()
def _sittings(
    faces: EmbeddedFaces, *, num_identities: int, num_columns: int, seed: int
) -> tuple[Tensor, Tensor]:
    """Classes of shape (R,), the groups taking turns, and faces of shape (R, C, 3, H, H), uint8."""
    authentic = EmbeddedFaces(domain="authentic", size_px=faces.size_px)
    rng = torch.Generator().manual_seed(seed)
    candidates = torch.randint(faces.num_classes, (64 * num_identities,), generator=rng)
    groups = authentic.group_of_classes(candidates)
    turns = [
        candidates[groups == row % len(faces.group_names)][row // len(faces.group_names)]
        for row in range(num_identities)
    ]
    classes = torch.stack(turns)
    num_faces = num_identities * num_columns
    z = torch.randn(num_faces, faces.z_dim, generator=rng)
    w = faces.mapping(z, classes_B=classes.repeat_interleave(num_columns))
    images = as_bytes(faces.synthesis(w, noise_B=torch.rand(num_faces, generator=rng)))
    return classes, images.view(num_identities, num_columns, *images.shape[1:])
