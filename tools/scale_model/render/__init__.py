"""Footage that the project renders itself: a seed and a look enter, a short clip and its true caption leave.

Scenes are a street and a room with one to three people, under a camera that moves; every attribute that a caption names
can be set. All frames of a clip are drawn at once, on any device. It knows nothing of training, and is the only part of
``footage`` that imports torch.
"""

from tools.scale_model.render.film import Clip, render_clip, render_scene
from tools.scale_model.render.looks import LOOKS
from tools.scale_model.render.scenes import VOCABULARY, Scene, describe, describe_in_part, draw_scene

__all__ = [
    "LOOKS",
    "VOCABULARY",
    "Clip",
    "Scene",
    "describe",
    "describe_in_part",
    "draw_scene",
    "render_clip",
    "render_scene",
]
