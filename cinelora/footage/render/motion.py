"""Where the camera, the figures and the car are at every moment. Small CPU tensors, one row a frame; no pixels.

``since`` (T) are seconds from the middle of the clip, so that a scene is composed for its middle. T frames, L strokes.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from cinelora.footage.render.rays import FOCAL
from cinelora.footage.render.scenes import Scene

LONGEST_MOVE_S = 3.0
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
    return torch.stack(
        (-distance * heading.sin(), height, -distance * heading.cos(), heading + turn, pitch, roll),
    )


@dataclass(frozen=True)
class Figure:
    """Where a figure is and how it stands: ``x`` (T) and ``z`` of its feet, and the strokes of its parts, (L, T, 6)."""

    x: Tensor
    z: float
    strokes: Tensor
    facing: float


def figures_of(scene: Scene, since: Tensor, duration_s: float) -> list[Figure]:
    """The figures from back to front."""
    lanes = {1: (0.0,), 2: (-0.72, 0.72), 3: (-1.22, 0.0, 1.22)}[scene.count]
    depths = {1: (0.0,), 2: (0.12, -0.12), 3: (0.1, 0.35, -0.1)}[scene.count]
    sizes = {1: (1.0,), 2: (1.0, 0.96), 3: (0.97, 1.02, 0.94)}[scene.count]
    walk = {"walks left": -1.0, "walks right": 1.0, "stands": 0.0}[scene.act] * scene.speed
    speed = walk * pace(duration_s) * (0.8 if scene.count == 3 else 1.0)
    figures = []
    for index, (lane, depth, size) in enumerate(zip(lanes, depths, sizes, strict=True)):
        travelled = speed * since
        if walk:
            body = walking(travelled.abs() * since.sign() / size + 0.47 * index + 0.3)
        else:
            body = standing(since + 1.7 * index, mirrored=(scene.seed + index) % 2 == 0)
        figures.append(Figure(lane + travelled, depth * scene.side, body * size, math.copysign(1.0, walk)))
    return sorted(figures, key=lambda figure: -figure.z)


def car_path(scene: Scene, since: Tensor, duration_s: float) -> Tensor:
    """x of the car's middle (T): it crosses the middle of the view in the middle of the clip."""
    direction = 1.0 if scene.car_direction == "right" else -1.0
    ahead = distance_of(scene) + CAR_Z
    middle = -distance_of(scene) * math.sin(math.radians(scene.heading)) + ahead * math.tan(
        math.radians(scene.heading + scene.framing)
    )
    return middle + direction * 3.3 * pace(duration_s) * since


PARTS = {"legs": slice(0, 6), "body": slice(6, 13), "head": slice(13, 16), "top": slice(16, 19), "arm": slice(19, 23)}
"""The strokes of a figure that are drawn together, from back to front."""


def walking(travelled: Tensor) -> Tensor:
    """A body in profile, walking to the right: its strokes (L, T, 6) after ``travelled`` metres (T)."""
    phase = travelled * math.pi / STEP
    legs = [_leg(phase + turn, 0.0) for turn in (math.pi, 0.0)]
    # the lower of the two feet carries the body
    rise = -torch.minimum(*(ankle_y for _, ankle_y in legs)) + 0.075
    swing = 0.05 * phase.sin().abs()
    body = [
        _stroke(0.02, 1.40, 0.0, 1.12, 0.150, 0.150),
        _stroke(-0.03, 1.39, -0.02, 1.14, 0.145, 0.150),
        _stroke(-0.005, 1.06, -0.035, 0.52, 0.150, 0.195 + swing),
        _stroke(0.0, 1.0, 0.055, 0.52, 0.145, 0.160 + swing),
    ]
    far, near = _arm(-phase, 0.0), _arm(phase, 0.0)
    head = [
        _stroke(0.0, 1.46, 0.015, 1.56, 0.068, 0.064),
        _stroke(0.028, 1.600, 0.035, 1.665, 0.082, 0.100),
        _stroke(0.100, 1.640, 0.142, 1.612, 0.026, 0.018),
    ]
    top = [
        _stroke(-0.030, 1.675, 0.030, 1.725, 0.098, 0.082),
        _stroke(-0.190, 1.712, 0.225, 1.700, 0.020, 0.016),
        _stroke(-0.035, 1.765, 0.085, 1.775, 0.098, 0.078),
    ]
    collar = [_stroke(-0.085, 1.50, 0.055, 1.45, 0.060, 0.062)]
    return _assemble([*legs[0][0], *legs[1][0]], [*body, *far], head, top, [*near, *collar], rise)


def standing(since: Tensor, *, mirrored: bool) -> Tensor:
    """A body that faces the camera and shifts its weight a little: its strokes (L, T, 6)."""
    sway = 0.010 * torch.sin(1.3 * since)
    side = -1.0 if mirrored else 1.0
    legs = [
        part
        for x in (-0.105, 0.115)
        for part in (
            _stroke(0.8 * x, 0.90, x, 0.48, 0.100, 0.080),
            _stroke(x, 0.48, 1.1 * x, 0.09, 0.080, 0.060),
            _stroke(1.1 * x, 0.05, 1.5 * x, 0.04, 0.055, 0.045),
        )
    ]
    body = [
        _stroke(-0.115 + sway, 1.395, -0.075, 1.02, 0.115, 0.115),
        _stroke(0.115 + sway, 1.395, 0.075, 1.02, 0.115, 0.115),
        _stroke(-0.06, 1.02, -0.125, 0.52, 0.130, 0.150),
        _stroke(0.06, 1.02, 0.125, 0.52, 0.130, 0.150),
        _stroke(0.0, 1.0, 0.0, 0.55, 0.150, 0.190),
        _stroke(-0.225 * side + sway, 1.385, -0.270 * side, 1.12, 0.080, 0.070),
        _stroke(-0.270 * side, 1.12, -0.215 * side, 0.90, 0.070, 0.066),
    ]
    head = [
        _stroke(sway, 1.50, sway, 1.56, 0.066, 0.064),
        _stroke(sway + 0.01 * side, 1.590, sway + 0.01 * side, 1.660, 0.072, 0.094),
        _stroke(sway + 0.02 * side, 1.615, sway + 0.02 * side, 1.600, 0.03, 0.03),
    ]
    top = [
        _stroke(sway - 0.040, 1.715, sway + 0.050, 1.715, 0.074, 0.074),
        _stroke(sway - 0.205, 1.700, sway + 0.215, 1.700, 0.019, 0.019),
        _stroke(sway - 0.045, 1.770, sway + 0.055, 1.770, 0.086, 0.086),
    ]
    arm = [
        _stroke(0.235 * side + sway, 1.38, 0.30 * side, 1.12, 0.078, 0.066),
        _stroke(0.30 * side, 1.12, 0.285 * side, 0.88, 0.066, 0.056),
        _stroke(0.285 * side, 0.84, 0.28 * side, 0.80, 0.048, 0.040),
        _stroke(-0.065 + sway, 1.470, 0.065 + sway, 1.470, 0.062, 0.062),
    ]
    return _assemble(legs, body, head, top, arm, torch.zeros_like(since))


def _stroke(*numbers: Tensor | float) -> list[Tensor | float]:
    return list(numbers)


def _leg(phase: Tensor, x: float) -> tuple[list[list[Tensor | float]], Tensor]:
    """Thigh, shin and shoe of a walking leg, hip at ``HIP``; and the ankle's height."""
    swing = 0.40 * phase.sin() + 0.03
    bend = 0.10 + 0.80 * phase.cos().clamp(min=0) ** 1.5
    knee_x, knee_y = x + THIGH * swing.sin(), HIP - THIGH * swing.cos()
    ankle_x, ankle_y = knee_x + SHIN * (swing - bend).sin(), knee_y - SHIN * (swing - bend).cos()
    tilt = 0.6 * (swing - bend).clamp(max=0) + 0.25 * swing.clamp(min=0)
    toe_x, toe_y = ankle_x + 0.03 + 0.15 * tilt.cos(), ankle_y - 0.03 + 0.15 * tilt.sin()
    strokes = [
        _stroke(x, HIP, knee_x, knee_y, 0.105, 0.078),
        _stroke(knee_x, knee_y, ankle_x, ankle_y, 0.078, 0.055),
        _stroke(ankle_x - 0.02, ankle_y - 0.015, toe_x, toe_y, 0.055, 0.038),
    ]
    return strokes, ankle_y


def _arm(phase: Tensor, x: float) -> list[list[Tensor | float]]:
    """Upper arm, forearm and hand of a walking arm."""
    swing = -0.42 * phase.sin()
    lift = swing + 0.22 + 0.22 * swing.clamp(min=0)
    elbow_x, elbow_y = x + 0.29 * swing.sin(), 1.38 - 0.29 * swing.cos()
    hand_x, hand_y = elbow_x + 0.25 * lift.sin(), elbow_y - 0.25 * lift.cos()
    return [
        _stroke(x, 1.38, elbow_x, elbow_y, 0.082, 0.070),
        _stroke(elbow_x, elbow_y, hand_x, hand_y, 0.070, 0.056),
        _stroke(hand_x, hand_y, hand_x + 0.05 * lift.sin(), hand_y - 0.05 * lift.cos(), 0.044, 0.040),
    ]


def _assemble(
    legs: list[list[Tensor | float]],
    body: list[list[Tensor | float]],
    head: list[list[Tensor | float]],
    top: list[list[Tensor | float]],
    arm: list[list[Tensor | float]],
    rise_T: Tensor,
) -> Tensor:
    numbers = [*legs, *body, *head, *top, *arm]
    whole = torch.stack(
        [torch.stack([torch.as_tensor(n).expand_as(rise_T) for n in stroke], dim=-1) for stroke in numbers]
    )
    lift = torch.stack((torch.zeros_like(rise_T), rise_T), dim=-1)
    return whole + torch.cat((lift, lift, torch.zeros_like(lift)), dim=-1)
