"""The facts of the models on one UNet of clips (``UNet3DConditionModel``), as numbers; ``families/unet3d`` loads and feeds it."""

from __future__ import annotations

from cinelora.families.family import Family, Geometry, Network, NoiseFacts
from cinelora.families.unet_layers import UNET_LAYERS


def _family(name: str, title: str, size: tuple[int, int], guidance: float, fading: float = 1.0) -> Family:
    """One network makes stills, as clips of one frame, and clips of any length: no layer knows a frame by its number."""
    noise = NoiseFacts(fading=fading, ends_clean=False)
    return Family(
        name=name,
        title=title,
        geometry=Geometry(spatial=8, temporal=1, patch=1, channels=4),
        text_tokens=77,
        layers=UNET_LAYERS,
        networks=(Network("t2v", channels=4, guidance=(guidance,), betas="scaled_linear", noise=noise),),
        largest=size,
    )


# Taught 16 frames of 256x256 at 8 frames a second. Source: the model's scheduler_config.json (scaled_linear,
# set_alpha_to_one false) and TextToVideoSDPipeline's own guidance.
MODELSCOPE = _family("modelscope", "ModelScope T2V", (256, 256), guidance=9.0)
# The same network, taught on with 24 frames of 320x576; its card draws with the pipeline's own guidance.
ZEROSCOPE = _family("zeroscope", "ZeroScope v2 576w", (320, 576), guidance=9.0)
# Taught 16 frames of 320x512. Source: VideoCrafter's scripts/run_text2video.sh and lvdm/models/ddpm3d.py (use_scale).
VIDEOCRAFTER2 = _family("videocrafter2", "VideoCrafter2", (320, 512), guidance=12.0, fading=0.7)
