"""The pairs that the champion gets most wrong, as faces.

P: verification pairs
"""

from torch import Tensor

from sweeps.pages.content import Content, Picture
from sweeps.pages.faces import Pair, draw_pairs, height_inches
from sweeps.pages.knowledge import Knowledge, Measured
from sweeps.pages.style import draw

NUM_PAIRS = 9


def pairs(known: Knowledge) -> Content:
    """Two people whom the champion finds most alike, and single people on whom it finds it least."""
    measured = known.measured
    is_genuine_P = measured.pairs.is_genuine_P
    kinds = (
        ("hardest_impostors", "Two people, most alike", ~is_genuine_P, True),
        ("hardest_genuine", "One person, least alike", is_genuine_P, False),
    )
    return Content(
        text=[f"Of the {measured.description}, those that mislead the champion most."],
        pictures=[
            _picture(measured, _first(measured.champion_P, among_P, highest=highest), name=name, kind=kind)
            for name, kind, among_P, highest in kinds
            if among_P.any()
        ],
    )


def _first(similarity_P: Tensor, among_P: Tensor, *, highest: bool) -> list[int]:
    candidates = among_P.nonzero().squeeze(1)
    order = similarity_P[candidates].argsort(descending=highest, stable=True)
    return candidates[order][:NUM_PAIRS].tolist()


def _picture(measured: Measured, chosen: list[int], *, name: str, kind: str) -> Picture:
    faces = measured.pairs
    shown = [
        Pair(
            left=faces.images_NCHW[faces.left_P[pair]],
            right=faces.images_NCHW[faces.right_P[pair]],
            text=f"{measured.champion_P[pair]:.2f}  (teacher {measured.teacher_P[pair]:.2f})",
        )
        for pair in chosen
    ]
    return draw(
        name,
        lambda figure: draw_pairs(figure, shown),
        height_inches=height_inches(len(shown)),
        alt=f"{kind}: {len(chosen)} pairs of faces, the first with a similarity of "
        f"{measured.champion_P[chosen[0]]:.2f}.",
        caption=f"{kind}: the champion's cosine under each pair, and the teacher's in brackets.",
    )
