"""A new embedded pair: its shape, how one begins, and how it is written, so that stock diffusers reads it.

Enters: a seed, or trained encoders and transformers. Leaves: folders ``t2v/`` and ``i2v/`` with the hashes of their weights.
Where trained weights lie and how they are checked is in ``cinelora.families.wan.embedded``.
"""

from __future__ import annotations

import logging
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import torch
import yaml
from diffusers import (
    AutoencoderKLWan,
    UniPCMultistepScheduler,
    WanImageToVideoPipeline,
    WanPipeline,
    WanTransformer3DModel,
)
from torch import Tensor
from transformers import ByT5Tokenizer, CLIPVisionConfig, CLIPVisionModel, UMT5Config, UMT5EncoderModel

from cinelora.families.shipped_weights import HASHES
from cinelora.families.wan.embedded import SHARED, WEIGHTS, Encoders
from cinelora.io.atomic import sha256_file, sha256_json, write_json
from cinelora.io.tensor_files import save_tensors

SHAPES: dict[str, dict[str, Any]] = yaml.safe_load(Path(__file__).with_name("shapes.yaml").read_text(encoding="utf-8"))
"""The arguments of the ``t2v`` and ``i2v`` transformers, the ``vae``, the ``text`` and the ``image`` encoder."""
RECIPE = {**SHAPES, "seed": 0, "layout": 3}
"""All that an untrained pair depends on; its hash names the pair's folder."""
LATENT_INPUTS = SHAPES["t2v"]["in_channels"]
"""Input channels that both transformers have; those after them are the I2V transformer's own."""


# -- a new model -------------------------------------------------------------------------------------------------------


@contextmanager
def seeded(seed: int) -> Iterator[None]:
    """Draw from ``seed`` inside, and leave the caller's random state as it was."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        yield


def new_encoders(seed: int) -> Encoders:
    """Untrained encoders."""
    with seeded(seed):
        vae = AutoencoderKLWan(**SHAPES["vae"])
        text = UMT5EncoderModel(UMT5Config(**SHAPES["text"]))
        return Encoders(vae, text, CLIPVisionModel(CLIPVisionConfig(**SHAPES["image"])))


def new_transformer(seed: int) -> WanTransformer3DModel:
    """An untrained T2V transformer."""
    with seeded(seed):
        return WanTransformer3DModel(**SHAPES["t2v"])


def grow(t2v: WanTransformer3DModel, seed: int) -> WanTransformer3DModel:
    """An I2V transformer grown from ``t2v``, as Wan's was: shared blocks, and new inputs with new weights."""
    with seeded(seed):
        i2v = WanTransformer3DModel(**SHAPES["i2v"])
    # The patch embedding is wider: its first channels are the noisy latents, as in T2V; the mask and the image's latents follow.
    patches = i2v.patch_embedding.weight.detach().clone()
    patches[:, :LATENT_INPUTS] = t2v.patch_embedding.weight.detach()
    # Later names win: what only I2V has stays new, what both have comes from T2V, and the first layer is of both.
    i2v.load_state_dict({**i2v.state_dict(), **t2v.state_dict(), "patch_embedding.weight": patches})
    return i2v


def silence_image(i2v: WanTransformer3DModel) -> WanTransformer3DModel:
    """Zero the weights of the new input channels and of the image values: training then begins where T2V ended."""
    i2v.patch_embedding.weight.data[:, LATENT_INPUTS:] = 0
    for name, parameter in i2v.named_parameters():
        if ".add_v_proj." in name:
            parameter.data.zero_()
    return i2v


# -- files -------------------------------------------------------------------------------------------------------------


def save_pair(folder: Path, encoders: Encoders, t2v: WanTransformer3DModel, i2v: WanTransformer3DModel) -> None:
    """Write both pipelines below ``folder`` (``t2v/`` and ``i2v/``), in bf16, readable by stock diffusers."""
    shared = {
        "tokenizer": ByT5Tokenizer(),
        "text_encoder": encoders.text.bfloat16(),
        "vae": encoders.vae.bfloat16(),
        "scheduler": UniPCMultistepScheduler(
            prediction_type="flow_prediction", use_flow_sigmas=True, num_train_timesteps=1000, flow_shift=3.0
        ),
    }
    image = {"image_encoder": encoders.image.bfloat16(), "image_processor": squashing_processor()}
    WanPipeline(transformer=t2v.bfloat16(), **shared).save_pretrained(folder / "t2v")
    WanImageToVideoPipeline(transformer=i2v.bfloat16(), **image, **shared).save_pretrained(folder / "i2v")
    # Both pipelines wrote the parts that they share: I2V's copies give way to links, so that the pair has one of each.
    for part in SHARED:
        shutil.rmtree(folder / "i2v" / part)
        os.symlink(Path("..", "t2v", part), folder / "i2v" / part, target_is_directory=True)
    write_hashes(folder)


def squashing_processor() -> Any:
    """CLIP preprocessing in PIL that squashes to 224x224 without a crop, nearest to what Wan's own code does."""
    from transformers.models.clip.image_processing_pil_clip import CLIPImageProcessorPil

    return CLIPImageProcessorPil(size={"height": 224, "width": 224}, do_center_crop=False)


def save_transformer(folder: Path, kind: str, state: dict[str, Tensor]) -> None:
    """Write ``state`` as the ``t2v`` or ``i2v`` transformer of the embedded shape, in diffusers layout, in bf16."""
    config = {"_class_name": "WanTransformer3DModel", **SHAPES[kind]}
    folder.mkdir(parents=True, exist_ok=True)
    tensors = {name: value.to("cpu", torch.bfloat16) for name, value in state.items()}
    save_tensors(folder / WEIGHTS, tensors, {"format": "pt"})
    write_json(folder / "config.json", config, seals=False)


def adopt(pair: Path, trained: Path, kind: str, seed: int = 0) -> None:
    """Put a trained transformer into its place in ``pair``; a new T2V transformer also grows a new I2V one."""
    shutil.copytree(trained, pair / kind / "transformer", dirs_exist_ok=True)
    if kind == "t2v":
        t2v = WanTransformer3DModel.from_pretrained(trained, use_safetensors=True)
        silence_image(grow(t2v, seed)).bfloat16().save_pretrained(pair / "i2v" / "transformer")
    write_hashes(pair)


def write_hashes(pair: Path) -> None:
    """Record the SHA-256 of every weights file below ``pair``, and let everybody read them."""
    files = sorted(path for path in pair.rglob("*.safetensors") if not path.parent.is_symlink())
    # Safetensors writes for the owner alone, and an image is built by one user and run by another.
    for path in files:
        path.chmod(0o644)
    hashes = {path.relative_to(pair).as_posix(): sha256_file(path) for path in files}
    write_json(pair / HASHES, hashes, seals=False)


def materialise(folder: Path) -> Path:
    """The folder below ``folder`` that holds an untrained pair; built on first use, whole or not at all."""
    pair = folder / "models" / f"tiny-{sha256_json(RECIPE)[:12]}"
    if not (pair / HASHES).exists():
        logging.getLogger(__name__).info("drawing an untrained embedded model into %s", pair)
        pair.parent.mkdir(parents=True, exist_ok=True)
        # Built beside its place, on the same disk, and renamed in one step: nobody ever finds half a pair.
        with TemporaryDirectory(dir=pair.parent, prefix=".building-") as building:
            draft = Path(building) / "pair"
            t2v = new_transformer(0)
            save_pair(draft, new_encoders(0), t2v, grow(t2v, 0))
            try:
                draft.rename(pair)
            except OSError:
                # Another run finished the same folder first: a folder that is not empty cannot be renamed over.
                if not (pair / HASHES).exists():
                    raise
    return pair
