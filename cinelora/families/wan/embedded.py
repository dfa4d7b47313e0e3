"""The embedded model: a complete Wan2.1 pair (text-to-video, image-to-video), small enough for two cores.

Real diffusers and transformers classes at Wan's real token geometry (8x8x4 VAE, 36 input channels and 257 image tokens
for I2V, 512 text tokens), in diffusers layout. Here is where it lies and that it is whole: trained weights in
``data/scale_model`` where they are shipped (docs/scale-model.md), else one drawn from a fixed seed, whose pictures are
noise. How it is made is in ``tools/scale_model``.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache
from pathlib import Path

from diffusers import AutoencoderKLWan
from transformers import CLIPVisionModel, UMT5EncoderModel

from cinelora.clone_only import SHIPPED, scale_model
from cinelora.errors import ModelError
from cinelora.families.shipped_weights import check_files
from cinelora.io.own_folders import CACHE, refuse_occupied, tag_cache

HOME = SHIPPED
SHARED = ("vae", "text_encoder", "tokenizer", "scheduler")
"""Parts that both pipelines use: they lie in ``t2v``, and ``i2v`` links to them."""
WEIGHTS = "diffusion_pytorch_model.safetensors"
RESTORE = "restore it with: git checkout -- data/scale_model"


@dataclass(frozen=True)
class Encoders:
    """What both transformers of the pair are fed by."""

    vae: AutoencoderKLWan
    text: UMT5EncoderModel
    image: CLIPVisionModel


def load_encoders(pair: Path) -> Encoders:
    """The encoders of a pair, in float32."""
    return Encoders(
        AutoencoderKLWan.from_pretrained(pair / "t2v" / "vae", use_safetensors=True).float(),
        UMT5EncoderModel.from_pretrained(pair / "t2v" / "text_encoder", use_safetensors=True).float(),
        CLIPVisionModel.from_pretrained(pair / "i2v" / "image_encoder", use_safetensors=True).float(),
    )


def is_trained() -> bool:
    """Whether trained weights are shipped: without them, what the model draws is noise."""
    return HOME.is_dir()


def embedded(kind: str, folder: Path) -> Path:
    """The folder of the ``t2v`` or ``i2v`` pipeline: the shipped one, or an untrained one built below ``folder``.

    Raises ``ModelError`` as ``check_shipped``, and ``ConfigError`` where ``folder`` is somebody else's.
    """
    if not is_trained():
        refuse_occupied("cache", folder, CACHE)
        tag_cache(folder)
        untrained: Path = scale_model("build_pair", f"model=tiny without {HOME}").materialise(folder)
        return untrained / kind
    check_shipped(HOME)
    return HOME / kind


@cache
def check_shipped(home: Path) -> None:
    """``check_files``, and that what ``i2v`` shares with ``t2v`` is linked, once a process; raises ``ModelError``."""
    check_files(home, RESTORE)
    # A clone without symbolic links has small text files in their place, which no loader explains.
    for part in SHARED:
        if not (home / "i2v" / part).is_dir():
            raise ModelError(
                f"{home / 'i2v' / part} of the embedded model is not the link to ../t2v/{part} that was shipped; allow "
                f"links with: git config core.symlinks true, then {RESTORE}"
            )
