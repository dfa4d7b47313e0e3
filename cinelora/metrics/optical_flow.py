"""Where the pixels of one frame lie in another, without weights: dense Lucas-Kanade over a pyramid, and what it cannot see.

Enters: frames (N, 3, H, W) in [0, 1]. Leaves: displacements (N, 2, H, W) in pixels, x before y; warped frames; masks.

Its limits: a step of more than a quarter of the frame is not found; plain surfaces take the flow of what is near them; rain,
haze, reflections and shadows move otherwise than what they lie on, and count as whatever has the most contrast. Flow
follows edges, not brightness: each frame is compared less its local mean, so that flicker does not read as motion.
Sources: Lucas and Kanade 1981; Bouguet 1999 (pyramid, iterations); Farnebäck 2003 for the smoothing by confidence.

Shape suffixes: N pairs, C channels, H and W height and width.
"""

from __future__ import annotations

from functools import cache

import torch
import torch.nn.functional as F
from torch import Tensor

HALVED_FROM, FINEST = 96, 256
"""Pixels of the shorter side from which a frame is looked at in half its size, and of the most that is then looked at: a flow is
smoother than a picture, and the time goes with the cube of the size."""
COARSEST = 12
"""Pixels of the shorter side at the top of the pyramid, at least."""
ITERATIONS = 3
WINDOW = 7
"""Pixels of the window whose contents are held to move together; twice box-filtered, so nearly Gaussian."""
LEVEL_WINDOW = 15
"""Pixels of the window whose mean is taken off a frame before it is compared."""
NOISE = 1e-5
"""Squared gradient, of levels in [0, 1], below which a window says nothing of motion."""
LUMA = (0.299, 0.587, 0.114)


def optical_flow(from_NCHW: Tensor, to_NCHW: Tensor) -> Tensor:
    """Displacement (N, 2, H, W) for which ``to`` at ``x + flow`` shows what ``from`` shows at x."""
    # Lucas-Kanade finds steps of about a pixel: beyond, the slope of the picture says nothing of where it moved. So the search
    # begins at the top of a pyramid, where the frames are so small that any step is one, and goes down: the flow found is
    # enlarged to the next level and corrected there, `ITERATIONS` times, by a pixel at most each time.
    # A movement of 8 pixels in a frame of 96 is one pixel in a frame of 12, the top.
    height, width = from_NCHW.shape[2:]
    greys = [_grey(_halved(frames)) for frames in (from_NCHW, to_NCHW)]
    pairs = [_pyramid(grey - _blurred(grey, LEVEL_WINDOW)) for grey in greys]
    smallest = pairs[0][-1]
    flow = smallest.new_zeros(len(smallest), 2, *smallest.shape[2:])
    for before, after in zip(*map(reversed, pairs), strict=True):
        if flow.shape[2:] != before.shape[2:]:
            flow = _enlarged(flow, before.shape[2], before.shape[3])
        for _ in range(ITERATIONS):
            flow = _step(before, after, flow)
    return flow if flow.shape[2:] == (height, width) else _enlarged(flow, height, width)


def warp(frames_NCHW: Tensor, flow_N2HW: Tensor) -> Tensor:
    """Frames as they look from where ``flow`` starts: ``warp(to, flow)`` resembles ``from``. Edges repeat outside."""
    height, width = frames_NCHW.shape[2:]
    # grid_sample counts from -1 to 1 between the outer edges of the first and the last pixel, so pixel x is at (2x + 1)/W - 1.
    x, y = _targets(flow_N2HW)
    grid = torch.stack([(2 * x + 1) / width - 1, (2 * y + 1) / height - 1], dim=-1)
    return F.grid_sample(frames_NCHW, grid, mode="bilinear", padding_mode="border", align_corners=False)


def visible(flow_N2HW: Tensor, back_N2HW: Tensor) -> Tensor:
    """Where a pixel can be followed (N, 1, H, W), as 0 or 1: seen in both frames, inside both, not at a motion boundary.

    Hidden where ``|f + b(x + f)|^2 > 0.01 (|f|^2 + |b|^2) + 0.5``, at a boundary where ``|grad f|^2 > 0.01 |f|^2 + 0.002``.
    Source: Ruder, Dosovitskiy, Brox 2016, section 4.2, after Sundaram, Brox, Keutzer 2010.
    """
    returned = warp(back_N2HW, flow_N2HW)
    length, length_back = (_squared(flow) for flow in (flow_N2HW, returned))
    hidden = _squared(flow_N2HW + returned) > 0.01 * (length + length_back) + 0.5
    steepness = sum(_squared(gradient) for gradient in _gradients(flow_N2HW))
    boundary = steepness > 0.01 * length + 0.002
    height, width = flow_N2HW.shape[2:]
    x, y = _targets(flow_N2HW)
    inside = (x >= 0) & (x <= width - 1) & (y >= 0) & (y <= height - 1)
    return (~hidden & ~boundary & inside[:, None]).to(flow_N2HW.dtype)


def _targets(flow_N2HW: Tensor) -> tuple[Tensor, Tensor]:
    """Where each pixel lands: its x and its y, each (N, H, W)."""
    x, y = (
        torch.arange(size, device=flow_N2HW.device, dtype=flow_N2HW.dtype) for size in reversed(flow_N2HW.shape[2:])
    )
    return x + flow_N2HW[:, 0], y[:, None] + flow_N2HW[:, 1]


def _step(before: Tensor, after: Tensor, flow: Tensor) -> Tensor:
    """One iteration: the displacement that explains what is left, of a window each, smoothed where windows are sure."""
    # What the flow so far explains is taken out by warping `after` back; `left` is the difference that remains. If a window
    # moved by a further (u, v), then to first order  dx u + dy v = -left  at each of its pixels: many equations for two
    # unknowns. Their least squares are the 2x2 system below, from means over the window of the products of slopes,
    #     [xx xy] [u]     [xt]
    #     [xy yy] [v] = - [yt],
    # and `change` is its solution by Cramer's rule. `NOISE` keeps it solvable on a plain wall, where all slopes are 0.
    found = warp(after, flow)
    dx, dy = ((one + other) / 2 for one, other in zip(_gradients(before), _gradients(found), strict=True))
    left = found - before
    products = torch.cat([dx * dx, dx * dy, dy * dy, dx * left, dy * left], dim=1)
    xx, xy, yy, xt, yt = (means[:, None] for means in _blurred(products, WINDOW).unbind(1))
    xx, yy = xx + NOISE, yy + NOISE
    determinant = xx * yy - xy * xy
    change = torch.cat([xy * yt - yy * xt, xy * xt - xx * yt], dim=1) / determinant
    moved = flow + change.clamp(-1, 1)
    # `sure` is about the smaller eigenvalue of the system: high at a corner, low along an edge, where movement along the edge
    # changes nothing, and 0 on a wall. The mean weighted by it lets corners speak for what is near them.
    sure = determinant / (xx + yy)
    return _blurred(moved * sure, WINDOW) / _blurred(sure, WINDOW)


def _grey(frames_NCHW: Tensor) -> Tensor:
    weights = torch.tensor(LUMA, device=frames_NCHW.device, dtype=frames_NCHW.dtype).view(1, 3, 1, 1)
    return (frames_NCHW * weights).sum(1, keepdim=True)


def _halved(frames_NCHW: Tensor) -> Tensor:
    """Half the size, and half again while it is large."""
    least = HALVED_FROM
    while min(frames_NCHW.shape[2:]) >= least:
        frames_NCHW, least = F.interpolate(frames_NCHW, scale_factor=0.5, mode="area"), FINEST
    return frames_NCHW


def _pyramid(image: Tensor) -> list[Tensor]:
    levels = [image]
    while min(levels[-1].shape[2:]) >= 2 * COARSEST:
        levels.append(F.interpolate(_blurred(levels[-1], 3), scale_factor=0.5, mode="area"))
    return levels


def _enlarged(flow: Tensor, height: int, width: int) -> Tensor:
    scale = flow.new_tensor([width / flow.shape[3], height / flow.shape[2]]).view(1, 2, 1, 1)
    return F.interpolate(flow, size=(height, width), mode="bilinear", align_corners=False) * scale


def _gradients(image: Tensor) -> tuple[Tensor, Tensor]:
    """Central differences along x and y; edges repeat."""
    padded = F.pad(image, (1, 1, 1, 1), mode="replicate")
    dx = (padded[..., 1:-1, 2:] - padded[..., 1:-1, :-2]) / 2
    dy = (padded[..., 2:, 1:-1] - padded[..., :-2, 1:-1]) / 2
    return dx, dy


def _blurred(image: Tensor, window: int) -> Tensor:
    """A box of ``window`` pixels, twice, of what lies inside the frame: as matrices, which a CPU multiplies fastest."""
    rows, columns = (_boxes(size, window).to(image) for size in image.shape[2:])
    blurred: Tensor = rows @ image @ columns.T
    return blurred


@cache
def _boxes(size: int, window: int) -> Tensor:
    """(size, size): twice the mean over ``window`` neighbours."""
    places = torch.arange(size)
    box = ((places[:, None] - places).abs() <= window // 2).double()
    box /= box.sum(1, keepdim=True)
    return (box @ box).float()


def _squared(flow: Tensor) -> Tensor:
    return flow.square().sum(1, keepdim=True)
