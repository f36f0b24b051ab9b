"""Draws faces of the embedded world: one method a layer, from the background to the sensor's noise.

Everything is an implicit shape on the pixel grid whose edge is as wide as a pixel, so a face looks the same
at 16 and at 112 px. Only operations that are rounded alike wherever a pixel lies in memory reach the picture
(no exp, no sine), so a face does not depend on what else is in its batch.

Lengths are in half image sides, x to the right, y downwards. X, Y: upright coordinates around the head's
centre. U, V: the same on the turned face, where eyes, nose and mouth stay put. A distance to a shape is
positive inside.

B: batch, H: side in pixels. Planes have shape (B, 1, H, H); a face's numbers have shape (B, 1, 1, 1).
"""

from types import SimpleNamespace

import torch
import torch.nn.functional as F
from torch import Tensor

from distill.faces.factors import MAX_BLUR

# fmt: off
SKIN = ((0.93, 0.77, 0.68), (0.87, 0.67, 0.54), (0.74, 0.52, 0.38), (0.55, 0.36, 0.25), (0.33, 0.21, 0.16))
HAIR = (
    (0.07, 0.06, 0.07), (0.19, 0.12, 0.09), (0.36, 0.22, 0.13), (0.60, 0.41, 0.22), (0.82, 0.66, 0.40),
    (0.74, 0.72, 0.70),
)
IRIS = (
    (0.20, 0.11, 0.06), (0.38, 0.22, 0.10), (0.46, 0.38, 0.16), (0.30, 0.46, 0.30), (0.26, 0.47, 0.68),
    (0.52, 0.60, 0.68),
)
CLOTHING = (
    (0.15, 0.18, 0.27), (0.55, 0.16, 0.18), (0.88, 0.86, 0.82), (0.20, 0.40, 0.38), (0.80, 0.58, 0.22),
    (0.30, 0.24, 0.40), (0.12, 0.12, 0.13),
)
BACKGROUND = (
    (0.80, 0.83, 0.86), (0.42, 0.55, 0.66), (0.24, 0.33, 0.30), (0.66, 0.62, 0.50), (0.78, 0.55, 0.45),
    (0.33, 0.28, 0.36), (0.13, 0.14, 0.17), (0.90, 0.88, 0.84),
)
# fmt: on


class Portrait:
    """A batch of faces being painted.

    Args:
        factors: One attribute a factor of `factors.FACTORS`, each of shape (B, 1, 1, 1).
        size_px: Side of the images.
        artefacts: Whether to leave the traces of a generator: a smeared, over-saturated picture with a faint
            grid and a droplet.
    """

    def __init__(self, factors: SimpleNamespace, *, size_px: int, artefacts: bool):
        self.factors, self.size_px, self.artefacts = factors, size_px, artefacts
        f = factors
        axis = (torch.arange(size_px, device=f.roll.device, dtype=torch.float32) + 0.5) * (2 / size_px) - 1
        self.x, self.y = axis.view(1, 1, 1, -1), axis.view(1, 1, -1, 1)
        self.px = 2 / (size_px * f.scale)
        # Rotation to second order in the angle; the angles are small.
        cos_roll, sin_roll = (1 - f.roll * f.roll / 2) / f.scale, f.roll / f.scale
        x, y = self.x - f.shift_x, self.y - f.shift_y
        if artefacts:
            x, y = x + 0.016 * wave(2.1 * y + 3 * f.background), y + 0.016 * wave(1.7 * x + 3 * f.clothing)
        self.X, self.Y = cos_roll * x + sin_roll * y, cos_roll * y - sin_roll * x
        self._turn_head()

    def _turn_head(self) -> None:
        """Places U, V and the shading normal by turning an ellipsoid by yaw and pitch."""
        f = self.factors
        self.across, self.down = self.X / f.head_width, self.Y / f.head_length
        squared = self.across.square() + self.down.square()
        self.depth = (1 - squared).clamp_(min=0).sqrt_()
        self.U = ((1 - f.yaw * f.yaw / 2) * self.across - f.yaw * self.depth) * f.head_width
        self.V = ((1 - f.pitch * f.pitch / 2) * self.down - f.pitch * self.depth) * f.head_length
        self.mirrored = self.U.abs()
        below = self.down.clamp(min=0)
        below_2 = below.square()
        chin_x = self.X - 0.10 * f.yaw * below_2
        width = f.head_width * (1 - f.jaw_taper * below_2)
        lower = torch.lerp(below_2, below_2.square(), f.jaw_square)
        upper = (self.Y.clamp(max=0) / 0.74).square_()
        self.head = (1 - ((chin_x / width).square_() + lower + upper).sqrt_()) * 0.6

    def draw(self) -> Tensor:
        """Returns the faces without sensor noise, of shape (B, 3, H, H), in [0, 1]."""
        self.paint_background()
        self.paint_hair_behind()
        self.paint_neck_and_clothing()
        self.paint_ears()
        self.paint_skin()
        self.paint_eyes()
        self.paint_brows()
        self.paint_nostrils()
        self.paint_mouth()
        self.paint_beard()
        self.paint_hair_in_front()
        self.paint_mask()
        self.paint_glasses()
        self.paint_obstacle()
        self.light()
        if self.artefacts:
            self.leave_artefacts()
        self.blur()
        return self.canvas.clamp_(0, 1)

    # ---- primitives -------------------------------------------------------------------------------------

    def inside(self, distance: Tensor, softness: float = 0.0) -> Tensor:
        """Coverage of each pixel by a shape, in [0, 1]. Overwrites `distance`."""
        return distance.div_(self.px + softness).add_(0.5).clamp_(0, 1)

    def between(self, above: Tensor, below: Tensor) -> Tensor:
        """Coverage by the band that is inside two edges. Exact where it is thinner than a pixel."""
        return self.inside(above).add_(self.inside(below)).sub_(1).clamp_(min=0)

    def stroke(self, distance: Tensor, half_width: Tensor | float) -> Tensor:
        """Coverage by a line along distance 0. One thinner than a pixel pales instead of vanishing."""
        drawn = torch.maximum(torch.as_tensor(half_width, device=distance.device), self.px / 2)
        return self.inside(drawn - distance.abs()).mul_(half_width / drawn)

    def ellipse(self, x: Tensor, y: Tensor, radius_x: Tensor | float, radius_y: Tensor | float) -> Tensor:
        """Distance to an ellipse around the origin of x, y; exact on circles."""
        radius = torch.minimum(torch.as_tensor(radius_x), torch.as_tensor(radius_y))
        return (1 - ((x / radius_x).square_() + (y / radius_y).square_()).sqrt_()) * radius

    def tint(self, red: float, green: float, blue: float) -> Tensor:
        """A constant colour or factor of colours, of shape (1, 3, 1, 1)."""
        return torch.tensor((red, green, blue), device=self.px.device).view(1, 3, 1, 1)

    def paint(self, colour: Tensor, coverage: Tensor) -> None:
        """Lays a colour, of shape (B, 3, 1, 1) or (B, 3, H, H), over the canvas."""
        self.canvas.lerp_(colour, coverage)

    # ---- layers -----------------------------------------------------------------------------------------

    def paint_background(self) -> None:
        f = self.factors
        near, far = ramp(BACKGROUND, f.background), ramp(BACKGROUND, scattered(f.background, 3.7))
        slope = ((self.y + f.background_angle * self.x) * 0.35 + 0.5).clamp_(0, 1)
        self.canvas = torch.lerp(near, far * 0.8, slope)
        for k in (1, 2, 3):
            x = self.x - 2 * scattered(f.background, 7.3 * k) + 1
            y = self.y - 2 * scattered(f.background_angle, 5.9 * k) + 1
            spot = self.inside(self.ellipse(x, y, 0.18 * k, 0.18 * k), 0.10)
            self.paint(far * 0.5 + 0.45, spot.mul_(0.35))

    def paint_hair_behind(self) -> None:
        f = self.factors
        self.hair_colour = ramp(HAIR, f.hair_tone) * (
            1 + f.hair_red.square() * (1.05 - f.hair_tone) * self.tint(0.45, -0.10, -0.35)
        )
        self.curl = wave(2.9 * self.Y + 2.3 * self.X.abs() + 0.2) * (0.045 * f.hair_curl)
        strands = wave((self.X - f.hair_part) / (self.Y + 1.9) * 22 + 9 * self.curl)
        self.strands = strands.mul_((0.03 / self.px).clamp(max=1) * 0.08)
        cap = self.ellipse(self.X, self.Y + 0.04, f.head_width + f.hair_volume, 0.74 + f.hair_volume)
        side = f.head_width + 0.8 * f.hair_volume + self.curl - self.X.abs()
        curtain = torch.minimum(torch.minimum(side, f.hair_length - self.Y), self.Y + 0.2)
        shape = torch.maximum(cap + self.curl, curtain)
        # Short hair narrows towards the ears; long hair falls straight.
        self.trim = f.hair_length.clamp(min=0.08) - self.Y
        self.trim -= (self.X.abs() - 0.88 * f.head_width).clamp(min=0) * (1.6 - 2 * f.hair_length).clamp(
            0, 1.6
        )
        shape = torch.minimum(shape, self.trim)
        self.paint(self.hair_colour * (0.62 + self.strands), self.inside(shape, 0.01))

    def paint_neck_and_clothing(self) -> None:
        f = self.factors
        warmth = f.skin_warmth * self.tint(0.03, 0.0, -0.05)
        self.skin_colour = ramp(SKIN, f.skin_tone) * (1 + warmth)
        under_chin = ((self.Y - f.head_length) * 2.2 + 0.3).clamp_(0, 1)
        neck = torch.minimum(0.34 - self.X.abs() + 0.2 * under_chin.square(), self.Y)
        self.paint(self.skin_colour * (0.55 + 0.3 * under_chin), self.inside(neck))
        cloth = ramp(CLOTHING, f.clothing)
        shoulders = self.ellipse(self.X, self.Y - 1.55, 1.15, 0.68)
        collar = self.ellipse(self.X, self.Y - 0.80, 0.36, 0.22)
        folds = wave(self.X * 1.1 + self.Y * 0.6) * 0.06 + 0.95
        self.paint(cloth * folds, self.inside(torch.minimum(shoulders, -collar)))

    def paint_ears(self) -> None:
        f = self.factors
        x = self.X.abs() + 0.05 * f.yaw * self.X.sign() - f.head_width
        y = self.Y - f.eye_height - 0.10
        ear = self.ellipse(x, y, f.ear_size, 1.7 * f.ear_size)
        hollow = self.inside(ear - 0.35 * f.ear_size, 0.03)
        self.paint(self.skin_colour * (0.92 - 0.28 * hollow), self.inside(ear))

    def paint_skin(self) -> None:
        """The head in one go: its colour times everything that shades it."""
        f = self.factors
        shade = (f.light_x * self.across).add_(f.light_y * self.down).add_(0.16 * self.depth).add_(0.92)
        eye_x = self.mirrored - f.eye_spacing
        shade -= 0.13 * bump(eye_x, self.V - f.eye_height + 0.02, 1.7 * f.eye_width, 0.13)
        # The nose: a ridge lit from one side, a tip, wings and the shadow beneath.
        tip = f.eye_height + f.nose_length
        along = ((self.V - f.eye_height) / f.nose_length).clamp_(0, 1)
        nose_x = self.U - 0.20 * f.yaw * along.square()
        ridge = bump(
            nose_x, self.V - (f.eye_height + tip) / 2, 0.06 + 0.5 * f.nose_width * along, 0.66 * f.nose_length
        )
        shade += ridge * (0.06 + 0.07 * f.nose_bridge)
        flank = bump(nose_x.abs() - f.nose_width * (0.45 + 0.55 * along), self.V - tip + 0.08, 0.07, 0.24)
        shade -= flank * (0.10 + 0.06 * f.nose_bridge - 0.5 * f.light_x * nose_x.sign())
        shade += 0.13 * bump(nose_x, self.V - tip + 0.04, 0.05, 0.06)
        shade -= 0.20 * bump(nose_x, self.V - tip - 0.035, 1.3 * f.nose_width, 0.05)
        self.nose_x, self.nose_tip, self.mouth_y = nose_x, tip, tip + f.mouth_drop
        # Cheeks, the folds beside the mouth, the hollow under the lip, the chin.
        shade += 0.06 * bump(self.mirrored - 0.30, self.V - tip + 0.06, 0.18, 0.16)
        fold_x = self.mirrored - f.nose_width - 0.06 - 0.45 * (self.V - tip)
        fold = self.stroke(fold_x, 0.012) * bump(self.mirrored - 0.18, self.V - tip - 0.08, 0.22, 0.17)
        shade -= fold * (0.30 * f.wrinkles * f.wrinkles + 0.10 * f.smile.clamp(min=0))
        lines = self.stroke(wave(7.0 * (self.V - f.eye_height + 0.30)) * 0.03, 0.004)
        shade -= (
            lines * bump(self.U, self.V - f.eye_height + 0.30, 0.32, 0.12) * (0.25 * f.wrinkles * f.wrinkles)
        )
        shade -= 0.13 * bump(self.U, self.V - self.mouth_y - f.lower_lip - 0.055, 0.16, 0.06)
        shade += 0.06 * bump(self.U, self.V - self.mouth_y - 0.24, 0.13, 0.10)
        # Light that has passed through skin is red: shadows lose blue first.
        skin = self.skin_colour * (1 + (shade - 1) * self.tint(0.85, 1.05, 1.15))
        blush = bump(self.mirrored - 0.30, self.V - tip + 0.05, 0.20, 0.17)
        skin *= 1 + blush * self.tint(0.03, -0.05, -0.04)
        self.on_head = self.inside(self.head.clone())
        self.paint(skin, self.on_head)
        specks = wave(9.3 * self.U + 4.1 * self.V) * wave(10.7 * self.V - 3.3 * self.U)
        specks += wave(5.9 * self.U - 7.7 * self.V + 0.3) * wave(4.3 * self.U + 6.1 * self.V) * 0.7
        where = bump(self.U, self.V - tip + 0.10, 0.46, 0.20) * self.inside(specks - 0.75, 0.4)
        self.paint(self.skin_colour * self.tint(0.72, 0.58, 0.50), where * (0.9 * degree(f.freckles, 0.40)))
        mole = self.inside(self.ellipse(self.U - f.mole_x, self.V - f.mole_y, 0.024, 0.024), 0.005)
        self.paint(
            self.skin_colour * self.tint(0.42, 0.30, 0.26),
            mole * (1.8 * degree(f.mole, 0.5)).clamp(max=0.9),
        )

    def paint_eyes(self) -> None:
        f = self.factors
        x = self.mirrored - f.eye_spacing
        y = self.V - f.eye_height + f.eye_slant * x
        arc = (1 - (x / f.eye_width).square_()).clamp_(min=-1)
        lid = y + f.eye_opening * f.eyelids * arc
        lower_lid = 0.72 * f.eye_opening * arc - y
        eye = self.between(lid.clone(), lower_lid.clone())
        self.paint(self.tint(0.94, 0.92, 0.91) * (0.62 + 6 * lid.clamp(0, 0.06)), eye)
        gaze_x = x - 0.3 * f.gaze * f.eye_width * self.U.sign()
        radius = 0.052
        iris = self.ellipse(gaze_x, y + 0.006, radius, radius)
        iris_colour = ramp(IRIS, f.eye_tone) * (0.75 + 5 * (y + 0.03).clamp(0, 0.09))
        self.paint(iris_colour, self.inside(iris.clone()).mul_(eye))
        self.paint(iris_colour * 0.35, self.stroke(iris, 0.006).mul_(eye))
        self.paint(self.canvas * 0.12, self.inside(iris - 0.029).mul_(eye))
        glint = self.inside(self.ellipse(gaze_x + 0.016 * self.U.sign(), y + 0.026, 0.013, 0.013))
        self.paint(torch.ones_like(iris_colour), glint.mul_(eye).mul_(0.9))
        dark = self.skin_colour * self.tint(0.22, 0.16, 0.15)
        near = self.inside(0.012 + f.eye_width - x.abs())
        lashes = self.stroke(lid.clone(), 0.010 + 0.05 * x.clamp(0, 0.12)).mul_(near)
        self.paint(dark, lashes.mul_(0.9))
        crease = self.stroke(lid + 0.034, 0.005).mul_(near)
        self.paint(self.skin_colour * 0.55, crease.mul_(0.55))
        self.paint(self.skin_colour * 0.5, self.stroke(lower_lid, 0.004).mul_(near).mul_(0.6))

    def paint_brows(self) -> None:
        f = self.factors
        x = self.mirrored - f.eye_spacing - 0.01
        y = self.V - f.eye_height + f.brow_height + f.brow_raise + f.brow_slant * x - f.brow_arch * x.square()
        taper = (1 - (x / 0.165).square_()).clamp_(min=0).mul_(1.15 - 2.5 * x)
        brow = self.stroke(y, f.brow_thickness).mul_(taper.clamp_(0, 1))
        self.paint(self.hair_colour * 0.62 + self.skin_colour * 0.06, brow.mul_(0.92))

    def paint_nostrils(self) -> None:
        f = self.factors
        y = self.V - self.nose_tip - 0.012
        side = self.nose_x.abs()
        hole = self.ellipse(
            side - 0.50 * f.nose_width, y - 0.12 * (side - 0.5 * f.nose_width), 0.36 * f.nose_width, 0.015
        )
        self.paint(self.skin_colour * self.tint(0.42, 0.28, 0.25), self.inside(hole, 0.018).mul_(0.85))
        wing = self.ellipse(side - 0.64 * f.nose_width, y + 0.022, 0.46 * f.nose_width, 0.050)
        outer = self.inside(side - 0.74 * f.nose_width, 0.06)
        self.paint(
            self.skin_colour * self.tint(0.55, 0.45, 0.42), self.stroke(wing, 0.008).mul_(outer).mul_(0.55)
        )
        under = self.stroke(y - 0.012 + 0.5 * side.square() / f.nose_width, 0.006).mul_(
            self.inside(0.5 * f.nose_width - side, 0.03)
        )
        self.paint(self.skin_colour * self.tint(0.60, 0.48, 0.45), under.mul_(0.45))

    def paint_mouth(self) -> None:
        f = self.factors
        width = f.mouth_width * (1 + 0.18 * f.smile)
        x = (self.U - 0.06 * f.yaw) / width
        arc = (1 - x.square()).clamp_(min=-0.4)
        y = self.V - self.mouth_y + 0.05 * f.smile * (x.square() - 0.35)
        gap = 0.055 * f.mouth_open.clamp(min=0) * arc
        bow = 1 - 0.32 * (1 - (x / 0.30).square_()).clamp_(min=0)
        upper = self.between(y + f.upper_lip * arc * bow, gap - y).mul_(self.on_head)
        lower = self.between(y + gap, f.lower_lip * arc + gap - y).mul_(self.on_head)
        lip = self.skin_colour * (self.tint(0.86, 0.60, 0.58) + f.lip_red * self.tint(0.08, -0.22, -0.16))
        self.paint(lip * 0.86, upper)
        self.paint(lip * (1.02 + 0.12 * bump(x, y - gap - 0.4 * f.lower_lip, 0.5, 0.03)), lower)
        mouth = self.between(gap - y - 0.002, gap + y - 0.002).mul_(self.on_head)
        teeth = self.inside(0.035 - (y + gap))
        self.paint(self.tint(0.28, 0.09, 0.09) + teeth * self.tint(0.60, 0.76, 0.74), mouth)
        line = self.stroke(y, 0.006).mul_(self.inside(width * arc)).mul_(1 - mouth)
        self.paint(lip * 0.38, line.mul_(0.85))

    def paint_beard(self) -> None:
        f = self.factors
        strength = 0.95 * degree(f.beard, 0.40).sqrt()
        jaw = self.V - self.mouth_y + 0.12 + 0.30 * (0.36 - self.mirrored).clamp(min=-0.3)
        bare_lips = -self.ellipse(self.U, self.V - self.mouth_y, 1.08 * f.mouth_width, 0.085)
        moustache = self.ellipse(self.U, self.V - self.nose_tip - 0.085, 1.2 * f.mouth_width, 0.045)
        region = torch.maximum(torch.minimum(jaw, bare_lips), moustache)
        stubble = self.inside(region, 0.10).mul_(self.on_head).mul_(1 + 1.5 * self.strands)
        self.paint(self.hair_colour * 0.58 + self.skin_colour * 0.12, stubble.mul_(strength).clamp_(max=0.9))

    def paint_hair_in_front(self) -> None:
        f = self.factors
        fringe = present(f.hair_fringe, 0.35)
        arch_x = self.U - f.hair_part * (1 - 0.6 * fringe)
        ragged = (wave(9.0 * self.U + 2 * f.hair_part) + wave(5.3 * self.U)) * 0.011 + self.curl
        hairline = (
            f.hairline
            + 0.19 * fringe * (2 - f.hair_fringe)
            + f.hair_arch * (1 - 0.7 * fringe) * arch_x.square().clamp_(max=0.17)
        )
        scalp = self.ellipse(self.X, self.Y + 0.04, f.head_width + f.hair_volume, 0.74 + f.hair_volume)
        front = torch.minimum(scalp + self.curl, hairline + ragged - self.V)
        front = torch.minimum(front, torch.minimum(self.trim, 0.22 - self.Y))
        long = f.hair_length - 0.08 - self.Y
        side = torch.minimum(
            self.X.abs() - 0.90 * f.head_width - 0.02, f.head_width + 0.8 * f.hair_volume - self.X.abs()
        )
        front = torch.maximum(front, torch.minimum(torch.minimum(side + self.curl, long), self.Y + 0.3))
        shadow = self.inside(front + 0.045, 0.08).mul_(self.on_head)
        self.paint(self.canvas * 0.72, shadow.mul_(0.8))
        crown = self.X.square() + (self.Y + 0.1).square() - 0.42
        sheen = (1 - (crown * 4).square_()).clamp_(min=0).mul_(0.20) + 0.17 * f.light_x * self.across
        self.paint(self.hair_colour * (0.92 + sheen + self.strands), self.inside(front, 0.012))

    def paint_mask(self) -> None:
        f = self.factors
        top = self.V - (f.eye_height + 0.52 * f.nose_length) - 0.55 * self.U.square()
        region = torch.minimum(top, self.head + 0.03)
        pleats = wave(3.2 * self.V) * 0.05 + 0.93 + 0.25 * f.light_x * self.across
        shown = present(f.mask, 0.07)
        cloth = torch.lerp(self.tint(0.80, 0.88, 0.92), self.tint(0.42, 0.60, 0.70), degree(f.mask, 0.07))
        strap = self.stroke(self.V - self.nose_tip + 0.06 + 0.1 * self.mirrored, 0.010).mul_(self.on_head)
        self.paint(cloth, strap.mul_(shown))
        self.paint(cloth * pleats, self.inside(region).mul_(shown))

    def paint_glasses(self) -> None:
        f = self.factors
        shown = present(f.glasses, 0.16)
        dark = present(f.glasses, 0.05)
        x, y = self.mirrored - f.eye_spacing - 0.01, self.V - f.eye_height - 0.015
        lens = 0.145 - ((x / 1.15).square_().square_() + (y * 1.25).square_().square_()).sqrt_().sqrt_()
        rim = ramp(CLOTHING, scattered(f.glasses, 9.0)) * 0.55
        tinted = self.inside(lens.clone()).mul_(0.10 + 0.82 * dark)
        self.paint(rim * 0.35 + 0.06 * (1 - dark), tinted.mul_(shown))
        bridge = self.stroke(y + 0.03, 0.010) * self.inside(0.10 - self.mirrored)
        arm = self.stroke(y + 0.02, 0.012) * self.inside(x - 0.15) * self.on_head
        frame = torch.maximum(self.stroke(lens, 0.013), torch.maximum(bridge, arm))
        self.paint(rim, frame.mul_(shown))

    def paint_obstacle(self) -> None:
        """Something between camera and face, out of focus, from below or from a side."""
        f = self.factors
        x = self.x - f.obstacle_x
        y = self.y - 0.95 + 0.35 * f.obstacle_x.square()
        blob = self.ellipse(x + 0.4 * y, y, 0.42, 0.62)
        self.paint(
            ramp(CLOTHING, scattered(f.obstacle, 13.0)) * 0.8,
            self.inside(blob, 0.08) * present(f.obstacle, 0.10),
        )

    # ---- the camera -------------------------------------------------------------------------------------

    def light(self) -> None:
        f = self.factors
        gain = f.exposure * (1 + f.temperature * self.tint(0.10, 0.0, -0.12))
        vignette = 1.04 - 0.12 * (self.x.square() + self.y.square())
        self.canvas.mul_(gain).mul_(vignette).sub_(0.45).mul_(f.contrast).add_(0.45)
        # Film's shoulder: bright skin keeps its shape where a plain clamp would burn it white.
        self.canvas.sub_((self.canvas - 0.72).clamp_(min=0).mul_(0.5))

    def leave_artefacts(self) -> None:
        f = self.factors
        grey = self.canvas.mean(1, keepdim=True)
        self.canvas.lerp_(grey, torch.full_like(f.roll, -0.22))
        grid = wave(16 * self.x) * wave(16 * self.y)
        self.canvas.add_(grid * 0.018)
        x = self.x - 2 * scattered(f.background + f.clothing, 17.0) + 1
        y = self.y - 2 * scattered(f.background_angle + f.obstacle, 11.0) + 1
        droplet = self.ellipse(x, y, 0.10, 0.14)
        self.canvas.add_(self.stroke(droplet, 0.03) * 0.16 - self.inside(droplet.clone(), 0.1) * 0.10)

    def blur(self) -> None:
        """A lens out of focus: passes of a three-tap kernel whose taps lie further and further apart."""
        # The variances of the passes add up, each at most half the square of its reach.
        variance = (self.factors.blur.clamp(min=0) * (self.size_px / 2)).square()
        num_passes, spread = 0, 0
        while spread / 2 < (MAX_BLUR * self.size_px / 2) ** 2:
            num_passes += 1
            spread += num_passes**2
        side_tap = variance / (2 * spread)
        for reach in range(1, num_passes + 1):
            for axis in (2, 3):
                padding = (0, 0, reach, reach) if axis == 2 else (reach, reach, 0, 0)
                padded = F.pad(self.canvas, padding, mode="replicate")
                sides = padded.narrow(axis, 0, self.size_px) + padded.narrow(axis, 2 * reach, self.size_px)
                self.canvas.mul_(1 - 2 * side_tap).add_(sides.mul_(side_tap))


def bump(x: Tensor, y: Tensor, radius_x: Tensor | float, radius_y: Tensor | float) -> Tensor:
    """A smooth hill of height 1 around the origin of x, y that ends at the radii."""
    return (1 - (x / radius_x).square_() - (y / radius_y).square_()).clamp_(min=0).square_()


def wave(turns: Tensor) -> Tensor:
    """A sine-like wave, in [-1, 1], made of parabolas: its period is 1."""
    phase = (turns - turns.round()).mul_(2)
    return phase * (4 - 4 * phase.abs())


def scattered(value: Tensor, rate: float) -> Tensor:
    """A second number in [0, 1) from a factor, almost unrelated to it: the fraction of a multiple."""
    return value * rate - (value * rate).floor()


def present(value: Tensor, share: float) -> Tensor:
    """1 in the top `share` of a factor in [0, 1], 0 below, with hardly a slope between."""
    return ((value - (1 - share)) * 400).clamp_(0, 1)


def degree(value: Tensor, share: float) -> Tensor:
    """Rises from 0 to 1 over the top `share` of a factor in [0, 1]."""
    return ((value - (1 - share)) / share).clamp_(0, 1)


def ramp(palette: tuple[tuple[float, float, float], ...], position: Tensor) -> Tensor:
    """Colours of shape (B, 3, 1, 1) at a position in [0, 1] along a palette, which is shape (B, 1, 1, 1)."""
    colours = torch.tensor(palette, device=position.device)
    place = position.flatten() * (len(palette) - 1)
    left = place.floor().clamp(0, len(palette) - 2)
    index = left.long()
    mixed = torch.lerp(colours[index], colours[index + 1], (place - left).unsqueeze(1))
    return mixed[:, :, None, None]


def add_sensor_noise(faces: Tensor, seed_B: Tensor, *, strength: Tensor) -> Tensor:
    """Adds noise to faces of shape (B, 3, H, H) in [0, 1]: a hash of pixel and seed, the same everywhere.

    Args:
        seed_B: One number in [0, 1) a face.
        strength: Range of the noise, of shape (B, 1, 1, 1).
    """
    size_px = faces.shape[-1]
    pixel = torch.arange(3 * size_px * size_px, dtype=torch.int32, device=faces.device).view(
        1, 3, size_px, size_px
    )
    seed = (seed_B.double() * 2**31).to(torch.int32).view(-1, 1, 1, 1)
    key = (pixel * 0x2C1B3C6D) ^ seed
    key = (key ^ (key >> 15)) * 0x297A2D39
    key = (key ^ (key >> 15)) * 0x45D9F3B
    uniform = (key >> 8).float().mul_(2.0**-24)
    return faces.add_(uniform.mul_(strength)).clamp_(0, 1)
