"""The facts of Wan2.2's two families, as numbers; how they are loaded, fed and asked is in ``families/wan``."""

from __future__ import annotations

from cinelora.families.family import Family, Geometry, Network
from cinelora.families.vae_facts import WAN22_VAE
from cinelora.families.wan_layers import WAN_LAYERS

# Sources: ``wan_ti2v_5B.py``, ``wan_t2v_A14B.py`` and ``wan_i2v_A14B.py`` of Wan2.2. The hub's copies in diffusers' layout say
# other shifts (3.0), with which fewer steps fall to the high-noise expert; conf/model has the authors' own.
WAN22_5B = Family(
    name="wan22_5b",
    title="Wan2.2 TI2V-5B",
    geometry=Geometry(spatial=16, temporal=4, patch=2, channels=48),
    text_tokens=512,
    layers=WAN_LAYERS,
    networks=(Network("t2v", channels=48), Network("i2v", channels=48, shows_first_frame=True)),
    vae=WAN22_VAE,
    one_checkpoint=True,
    image_is_encoded=False,
)
WAN22_A14B = Family(
    name="wan22_a14b",
    title="Wan2.2 A14B",
    geometry=Geometry(spatial=8, temporal=4, patch=2, channels=16),
    text_tokens=512,
    layers=WAN_LAYERS,
    networks=(
        Network("t2v", channels=16, boundary=0.875, guidance=(4.0, 3.0)),
        Network("i2v", channels=36, shows_first_frame=True, boundary=0.900, guidance=(3.5, 3.5)),
    ),
    largest=(720, 1280),
)
