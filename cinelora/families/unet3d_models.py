"""The facts of the models on one UNet of clips (``UNet3DConditionModel``), as numbers; ``families/unet3d`` loads and feeds it."""

from __future__ import annotations

from cinelora.families.family import Family, Geometry, Network, NoiseFacts
from cinelora.families.unet_layers import UNET_LAYERS
from cinelora.families.vae_facts import SD_VAE

_NOT_SOLD = "the weights of {} are for non-commercial use alone ({})"


def _family(
    name: str, title: str, size: tuple[int, int], window: int, guidance: float, terms: str, fading: float = 1.0
) -> Family:
    """One network makes stills, as clips of one frame, and clips of any length: no layer knows a frame by its number."""
    network = Network(
        "t2v",
        channels=4,
        guidance=(guidance,),
        betas="scaled_linear",
        key="base",
        beside=("tuned",) if fading != 1 else (),
        noise=NoiseFacts(fading=fading, ends_clean=False),
    )
    return Family(
        name=name,
        title=title,
        geometry=Geometry(spatial=8, temporal=1, patch=1, channels=4, halvings=3),
        text_tokens=77,
        layers=UNET_LAYERS,
        networks=(network,),
        largest=size,
        vae=SD_VAE,
        text_parameters=340_387_840,
        uses=frozenset(),
        tag="text-to-video-synthesis",
        code=None,
        use_on_card="use_unet3d.md.j2",
        window=window,
        steps=50,
        licence=_NOT_SOLD.format(title, terms),
    )


# Taught clips of 256x256 at 8 frames a second. Source: the model's scheduler_config.json (scaled_linear, set_alpha_to_one
# false) and TextToVideoSDPipeline's own guidance and steps.
MODELSCOPE = _family("modelscope", "ModelScope T2V", (256, 256), 16, 9.0, "CC BY-NC 4.0")
# The same network, taught on; its card draws with the pipeline's own guidance.
ZEROSCOPE = _family("zeroscope", "ZeroScope v2 576w", (320, 576), 24, 9.0, "CC BY-NC 4.0")
# Source: VideoCrafter's scripts/run_text2video.sh and lvdm/models/ddpm3d.py (use_scale); its README for the terms.
VIDEOCRAFTER2 = _family(
    "videocrafter2", "VideoCrafter2", (320, 512), 16, 12.0, "personal and research use, by its authors", fading=0.7
)
UNET3D_MODELS = (MODELSCOPE, ZEROSCOPE, VIDEOCRAFTER2)
