"""Footage that the project renders itself: a seed and a look enter, a short clip and its true caption leave.

Scenes are a street with lamps, a walker and perhaps a car, and a room with light through a blind. It knows nothing of
training, and is the only part of ``footage`` that imports torch.
"""

from cinelora.footage.render.film import Clip, render_clip
from cinelora.footage.render.scenes import LOOKS

__all__ = ["LOOKS", "Clip", "render_clip"]
