"""Where the camera, the figures and the car are at every moment. Small CPU tensors, one row a frame; no pixels.

``since`` (T) are seconds from the middle of the clip, so that a scene is composed for its middle. T frames, L strokes.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from tools.scale_model.render.rays import FOCAL
from tools.scale_model.render.scenes import Scene

LONGEST_MOVE_S = 2.5
"""Moves that would lose the subject are slower in longer clips, so that they end where they would after this time."""
PAN_DEGREES_S, ORBIT_DEGREES_S, DOLLY_M_S = 8.0, 11.0, 0.68
FEET = 0.93
"""Where the subject's feet are in the frame, from its top."""
CAR_Z = 4.4
HIP, THIGH, SHIN, STEP = 0.93, 0.45, 0.43, 0.70


def pace(duration_s: float) -> float:
    """What the speed of a move is multiplied by in a clip of this length."""
    return min(1.0, LONGEST_MOVE_S / max(duration_s, 1e-6))


def distance_of(scene: Scene) -> float:
    """From the camera to the subject's place in the middle of the clip: more people take more room."""
    return {1: 3.5, 2: 3.85, 3: 4.3}[scene.count] + scene.distance


def horizon_of(scene: Scene) -> float:
    """Where the level view cuts the frame, so that the feet are at ``FEET``."""
    return FEET - FOCAL * scene.eye / distance_of(scene)


def camera_path(scene: Scene, since: Tensor, duration_s: float) -> Tensor:
    """x, y, z, yaw, pitch and roll of the camera (6, T), in metres and radians."""
    moved = since * pace(duration_s)
    # A camera is placed in polar coordinates around the subject, which stands at the origin: ``heading`` is the direction it
    # looks in, ``distance`` how far it stands back. An orbit changes the heading alone and keeps the subject where it is in the
    # frame; a pan changes ``turn``, what the camera is turned away by from the subject.
    kind, _, where = scene.camera.partition(" ")
    sign = {"left": -1.0, "right": 1.0, "in": -1.0, "out": 1.0}.get(where, 0.0)
    heading_span = 0.4 if scene.place == "room" else 1.0
    heading = torch.full_like(since, math.radians(scene.heading * heading_span))
    distance = torch.full_like(since, distance_of(scene))
    turn = torch.full_like(since, math.radians(scene.framing))
    pitch, roll, height = torch.zeros_like(since), torch.zeros_like(since), torch.full_like(since, scene.eye)
    if kind == "pans":
        turn = turn + sign * moved * math.radians(PAN_DEGREES_S)
    elif kind == "orbits":
        heading = heading - sign * moved * math.radians(ORBIT_DEGREES_S)
    elif kind == "moves":
        distance = distance + sign * moved * DOLLY_M_S
    elif where == "hand-held":
        phase = float(scene.seed % 97)
        turn = turn + 0.017 * torch.sin(4.4 * since + phase) + 0.009 * torch.sin(9.7 * since + 2 * phase)
        pitch = 0.014 * torch.sin(5.3 * since + 3 * phase) + 0.006 * torch.sin(11.9 * since + phase)
        roll = 0.016 * torch.sin(3.1 * since + 5 * phase)
        height = height + 0.02 * torch.sin(6.1 * since + phase)
    return torch.stack((-distance * heading.sin(), height, -distance * heading.cos(), heading + turn, pitch, roll))


@dataclass(frozen=True)
class Crowd:
    """F figures from back to front: ``x`` (F, T) and ``z`` (F) of their feet, and the strokes of their parts (6, L, F, T).

    They all walk alike or stand: ``facing`` is -1 for figures that walk to the left.
    """

    x: Tensor
    z: Tensor
    strokes: Tensor
    facing: float


PLACES = {
    1: ((0.0,), (0.0,), (1.0,)),
    2: ((-0.72, 0.72), (0.15, -0.15), (1.0, 0.96)),
    3: ((0.0, -1.12, 1.12), (0.35, 0.1, -0.1), (1.02, 0.97, 0.94)),
}
"""x and z of the figures and their sizes, by how many there are, from back to front."""


def crowd_of(scene: Scene, since: Tensor, duration_s: float) -> Crowd:
    """The figures of a scene."""
    lanes, depths, sizes = (torch.tensor(numbers)[:, None] for numbers in PLACES[scene.count])
    walk = {"walks left": -1.0, "walks right": 1.0, "stands": 0.0}[scene.act] * scene.speed
    travelled = walk * pace(duration_s) * (0.8 if scene.count == 3 else 1.0) * since
    index = torch.arange(scene.count)[:, None]
    # Each figure is drawn at size 1 and then scaled: a smaller one takes more steps for the same way. What is added by index
    # keeps figures out of step with one another.
    if walk:
        body = walking(travelled * math.copysign(1.0, walk) / sizes + 0.47 * index + 0.3)
    else:
        body = standing(since + 1.7 * index, 1.0 - 2.0 * ((index + scene.seed) % 2))
    return Crowd(lanes * scene.side + travelled, depths[:, 0], body * sizes, math.copysign(1.0, walk))


def columns_of(crowd: Crowd, path_6T: Tensor, height: int, width: int) -> tuple[list[int], int]:
    """The first column of a window around each figure that holds it in all frames, and the windows' width."""
    x, _, z, yaw = path_6T[:4].unbind()
    # Feet as the camera sees them: turned by its yaw, then divided by their depth, which gives pixels from the middle. 0.75 m to
    # each side hold a figure; the fraction of the frame's width is slack for pitch and roll, which are left out here.
    from_x, from_z = crowd.x - x, crowd.z[:, None] - z
    ahead, right = from_x * yaw.sin() + from_z * yaw.cos(), from_x * yaw.cos() - from_z * yaw.sin()
    middle, reach = FOCAL * height * right / ahead + width / 2, FOCAL * height * 0.75 / ahead + 0.02 * width
    first = (middle - reach).amin(1).clamp(0, width - 1).int().tolist()
    last = (middle + reach).amax(1).clamp(1, width).ceil().int().tolist()
    # wide enough for slopes between neighbouring columns, even where a figure has left the frame
    span = min(width, max(8, *(end - start for start, end in zip(first, last, strict=True))))
    return [min(start, width - span) for start in first], span


def car_path(scene: Scene, since: Tensor, duration_s: float) -> Tensor:
    """x of the car's middle (T): it crosses the middle of the view in the middle of the clip."""
    direction = 1.0 if scene.car_direction == "right" else -1.0
    distance, heading = distance_of(scene), math.radians(scene.heading)
    # The camera stands ``distance`` before the subject and the car's lane lies beyond it: the middle of the view, followed from
    # the camera's x over the depth between them, meets the lane here.
    ahead = math.tan(math.radians(scene.heading + scene.framing))
    middle = -distance * math.sin(heading) + (distance + CAR_Z) * ahead
    return middle + direction * 3.3 * pace(duration_s) * since


Stroke = tuple[Tensor | float, ...]

PARTS = {"legs": slice(0, 6), "body": slice(6, 13), "head": slice(13, 16), "top": slice(16, 19), "arm": slice(19, 23)}
"""The strokes of a figure that are drawn together, from back to front."""
OUTLINE = (0, 1, 3, 4, 6, 7, 8, 9, 14, 17, 18, 19, 20)
"""The strokes that suffice for a shadow."""


def walking(travelled: Tensor) -> Tensor:
    """Bodies in profile, walking to the right: their strokes (6, L, F, T) after ``travelled`` metres (F, T)."""
    phase = travelled * math.pi / STEP
    (far_leg, far_ankle), (near_leg, near_ankle) = (_leg(phase + turn) for turn in (math.pi, 0.0))
    # the lower of the two feet carries the body
    rise = 0.075 - torch.minimum(far_ankle, near_ankle)
    swing = 0.05 * phase.sin().abs()
    strokes: list[Stroke] = [
        *far_leg,
        *near_leg,
        # body: chest and back, then the coat's two skirts, of which one swings
        (0.02, 1.40, 0.0, 1.12, 0.150, 0.150),
        (-0.03, 1.39, -0.02, 1.14, 0.145, 0.150),
        (-0.005, 1.06, -0.035, 0.52, 0.150, 0.195 + swing),
        (0.0, 1.0, 0.055, 0.52, 0.145, 0.160 + swing),
        *_arm(-phase),
        # head: neck, skull, nose
        (0.0, 1.46, 0.015, 1.56, 0.068, 0.064),
        (0.028, 1.600, 0.035, 1.665, 0.082, 0.100),
        (0.100, 1.640, 0.142, 1.612, 0.026, 0.018),
        # top: hair, brim, crown
        (-0.030, 1.675, 0.030, 1.725, 0.098, 0.082),
        (-0.190, 1.712, 0.225, 1.700, 0.020, 0.016),
        (-0.035, 1.765, 0.085, 1.775, 0.098, 0.078),
        # arm: three strokes, and the coat's collar
        *_arm(phase),
        (-0.085, 1.50, 0.055, 1.45, 0.060, 0.062),
    ]
    return _assemble(strokes, rise)


def standing(since: Tensor, side: Tensor) -> Tensor:
    """Bodies that face the camera and shift their weight a little: their strokes (6, L, F, T).

    ``since`` is (F, T); ``side`` (F, 1) is -1 where the body is mirrored.
    """
    sway = 0.010 * torch.sin(1.3 * since)
    turn = sway + 0.01 * side
    strokes: list[Stroke] = []
    # legs: thigh, shin and shoe of each
    for x in (-0.105, 0.115):
        strokes += [
            (0.8 * x, 0.90, x, 0.48, 0.100, 0.080),
            (x, 0.48, 1.1 * x, 0.09, 0.080, 0.060),
            (1.1 * x, 0.05, 1.5 * x, 0.04, 0.055, 0.045),
        ]
    strokes += [
        # body: shoulders and chest, skirts, the coat between them, and the arm on the far side
        *((half * 0.115 + sway, 1.395, half * 0.075, 1.02, 0.115, 0.115) for half in (-1, 1)),
        *((half * 0.06, 1.02, half * 0.125, 0.52, 0.130, 0.150) for half in (-1, 1)),
        (0.0, 1.0, 0.0, 0.55, 0.150, 0.190),
        (-0.225 * side + sway, 1.385, -0.270 * side, 1.12, 0.080, 0.070),
        (-0.270 * side, 1.12, -0.215 * side, 0.90, 0.070, 0.066),
        # head: neck, skull, nose
        (sway, 1.53, sway, 1.57, 0.064, 0.064),
        (turn, 1.590, turn, 1.660, 0.072, 0.094),
        (2 * turn - sway, 1.615, 2 * turn - sway, 1.600, 0.03, 0.03),
        # top: hair, brim, crown
        (sway - 0.020, 1.700, sway + 0.030, 1.700, 0.086, 0.086),
        (sway - 0.205, 1.700, sway + 0.215, 1.700, 0.019, 0.019),
        (sway - 0.045, 1.770, sway + 0.055, 1.770, 0.086, 0.086),
        # arm on the near side: upper arm, forearm, hand; and the coat's collar
        (0.235 * side + sway, 1.38, 0.30 * side, 1.12, 0.078, 0.066),
        (0.30 * side, 1.12, 0.285 * side, 0.88, 0.066, 0.056),
        (0.285 * side, 0.84, 0.28 * side, 0.80, 0.048, 0.040),
        (-0.075 + sway, 1.455, 0.075 + sway, 1.455, 0.070, 0.070),
    ]
    return _assemble(strokes, torch.zeros_like(since))


def _leg(phase: Tensor) -> tuple[list[Stroke], Tensor]:
    """Thigh, shin and shoe of a walking leg, its hip at ``HIP``; and the ankle's height."""
    swing = 0.40 * phase.sin() + 0.03
    bend = 0.10 + 0.80 * phase.cos().clamp(min=0) ** 1.5
    knee_x, knee_y = THIGH * swing.sin(), HIP - THIGH * swing.cos()
    ankle_x, ankle_y = knee_x + SHIN * (swing - bend).sin(), knee_y - SHIN * (swing - bend).cos()
    tilt = 0.6 * (swing - bend).clamp(max=0) + 0.25 * swing.clamp(min=0)
    toe_x, toe_y = ankle_x + 0.03 + 0.15 * tilt.cos(), ankle_y - 0.03 + 0.15 * tilt.sin()
    strokes: list[Stroke] = [
        (0.0, HIP, knee_x, knee_y, 0.105, 0.078),
        (knee_x, knee_y, ankle_x, ankle_y, 0.078, 0.055),
        (ankle_x - 0.02, ankle_y - 0.015, toe_x, toe_y, 0.055, 0.038),
    ]
    return strokes, ankle_y


def _arm(phase: Tensor) -> list[Stroke]:
    """Upper arm, forearm and hand of a walking arm."""
    swing = -0.42 * phase.sin()
    lift = swing + 0.22 + 0.22 * swing.clamp(min=0)
    elbow_x, elbow_y = 0.29 * swing.sin(), 1.37 - 0.29 * swing.cos()
    hand_x, hand_y = elbow_x + 0.25 * lift.sin(), elbow_y - 0.25 * lift.cos()
    return [
        (0.0, 1.37, elbow_x, elbow_y, 0.082, 0.070),
        (elbow_x, elbow_y, hand_x, hand_y, 0.070, 0.056),
        (hand_x, hand_y, hand_x + 0.05 * lift.sin(), hand_y - 0.05 * lift.cos(), 0.044, 0.040),
    ]


def _assemble(strokes: list[Stroke], rise_FT: Tensor) -> Tensor:
    """Strokes as one tensor (6, L, F, T), lifted by ``rise_FT``."""
    # Strokes are rows of six and the tensor wants six planes: first every stroke's ax, then every ay, and so on. A number that
    # never changes is spread over figures and frames without a copy; only the stack copies.
    numbers = [torch.as_tensor(number).expand_as(rise_FT) for column in zip(*strokes, strict=True) for number in column]
    assembled = torch.stack(numbers).view(6, len(strokes), *rise_FT.shape)
    # planes 1 and 3 are the heights of both ends
    assembled[1:4:2] += rise_FT
    return assembled
