"""The facts of AnimateDiff on Stable Diffusion 1.5, as numbers; how it is loaded and fed is in ``families/animatediff``."""

from __future__ import annotations

from cinelora.families.family import Family, Geometry, Network
from cinelora.families.unet_layers import UNET_LAYERS
from cinelora.families.vae_facts import SD_VAE

# Two networks share one base: the image network makes stills, and the motion network is the same weights with motion modules
# between them. A frame is encoded by itself. The motion modules were taught with linear betas, the image network with scaled
# ones. Sources: AnimateDiff's configs/training/v1/{image_finetune,training}.yaml.
GUIDANCE = (7.5,)
ANIMATEDIFF = Family(
    name="animatediff_sd15",
    title="AnimateDiff (SD1.5)",
    geometry=Geometry(spatial=8, temporal=1, patch=1, channels=4, halvings=3),
    text_tokens=77,
    layers=UNET_LAYERS,
    networks=(
        Network(
            "image", channels=4, guidance=GUIDANCE, betas="scaled_linear", longest=1, key="base", beside=("tuned",)
        ),
        Network(
            "motion",
            channels=4,
            guidance=GUIDANCE,
            betas="linear",
            longest=32,
            key="base",
            beside=("tuned", "motion_adapter", "domain_adapter", "sparse_control"),
        ),
    ),
    vae=SD_VAE,
    text_parameters=123_060_480,
    uses=frozenset(),
    window=16,
    tag="animatediff",
    code="animatediff_code.py.j2",
    use_on_card="use_animatediff.md.j2",
    steps=25,
)
"""A motion adapter's version says how long a clip may be: 24 frames in v1, 32 in v2 and v3. All were taught 16."""
