"""Clips as if drawn, and a prompt that would break a page that trusts it."""

import numpy as np

HOSTILE = "rain on <b>glass</b> & \"neon\" <script>document.title = 'taken'</script>"
FRAMES = 9


def clip(seed: int) -> np.ndarray:
    """(9, 48, 64, 3) of coloured bars that drift, different for every seed."""
    colours = np.random.default_rng(seed).integers(0, 256, (8, 3), dtype=np.uint8)
    frame = np.repeat(colours, 8, axis=0)[None].repeat(48, axis=0)
    return np.stack([np.roll(frame, 2 * shift, axis=1) for shift in range(FRAMES)])
