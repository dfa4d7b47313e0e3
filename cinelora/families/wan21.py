"""The facts of Wan2.1, as numbers; how it is loaded, fed and asked is in ``families/wan``."""

from __future__ import annotations

from cinelora.families.family import Family, Geometry, Network
from cinelora.families.wan_layers import WAN_LAYERS

# I2V takes 36 channels: 16 noisy, 4 of mask and 16 of condition. Cross-attention takes the last 512 context tokens for text, and
# whatever precedes them for the image.
WAN21 = Family(
    name="wan21",
    title="Wan2.1",
    geometry=Geometry(spatial=8, temporal=4, patch=2, channels=16),
    text_tokens=512,
    layers=WAN_LAYERS,
    networks=(Network("t2v", channels=16), Network("i2v", channels=36, image_tokens=257, shows_first_frame=True)),
)
