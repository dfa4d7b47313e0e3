"""The embedded model: a complete Wan2.1 pair (text-to-video, image-to-video), small enough for two cores.

Real diffusers and transformers classes at Wan's real token geometry (8x8x4 VAE, 36 input channels and 257 image tokens
for I2V, 512 text tokens), in diffusers layout. Here is its shape, how a new one begins, and where it lies: trained weights
in ``data/scale_model`` where they are shipped (docs/scale-model.md), else one drawn from a fixed seed, whose pictures are
noise.
"""

from __future__ import annotations

import logging
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import torch
from diffusers import AutoencoderKLWan, UniPCMultistepScheduler, WanTransformer3DModel
from torch import Tensor
from transformers import ByT5Tokenizer, CLIPVisionConfig, CLIPVisionModel, UMT5Config, UMT5EncoderModel

import cinelora
from cinelora.errors import FileError, ModelError
from cinelora.io.atomic import read_json, sha256_file, sha256_json, write_json
from cinelora.io.tensor_files import save_tensors

HOME = Path(cinelora.__file__).resolve().parents[1] / "data" / "scale_model"
HASHES = "hashes.json"
SHARED = ("vae", "text_encoder", "tokenizer", "scheduler")
"""Parts that both pipelines use: they lie in ``t2v``, and ``i2v`` links to them."""
WEIGHTS = "diffusion_pytorch_model.safetensors"
RESTORE = "restore it with: git checkout -- data/scale_model"

TRANSFORMER: dict[str, Any] = {
    "patch_size": (1, 2, 2),
    "num_attention_heads": 4,
    "attention_head_dim": 48,
    "in_channels": 16,
    "out_channels": 16,
    "text_dim": 128,
    "freq_dim": 128,
    "ffn_dim": 512,
    "num_layers": 6,
}
IMAGE_TO_VIDEO: dict[str, Any] = {**TRANSFORMER, "in_channels": 36, "image_dim": 96, "added_kv_proj_dim": 192}
VAE: dict[str, Any] = {
    # wider where the pixels are than below, against Wan's 1, 2, 4, 4; multiples of 8, which tensor cores want
    "base_dim": 24,
    "dim_mult": [1, 2, 3, 3],
    "num_res_blocks": 1,
    "temperal_downsample": [False, True, True],
    # an untrained encoder answers with a spread of about 0.2, whatever it is shown; normalised latents then have about 1
    "latents_mean": [0.0] * 16,
    "latents_std": [0.2] * 16,
}
TEXT: dict[str, Any] = {
    "vocab_size": 384,
    "d_model": 128,
    "d_kv": 32,
    "d_ff": 256,
    "num_layers": 4,
    "num_heads": 4,
    "feed_forward_proj": "gated-gelu",
    "dropout_rate": 0.0,
}
IMAGE: dict[str, Any] = {
    "hidden_size": 96,
    "intermediate_size": 192,
    "num_hidden_layers": 4,
    "num_attention_heads": 3,
    "image_size": 224,
    "patch_size": 14,
}
RECIPE = {"t2v": TRANSFORMER, "i2v": IMAGE_TO_VIDEO, "vae": VAE, "text": TEXT, "image": IMAGE, "seed": 0, "layout": 3}


# -- a new model -------------------------------------------------------------------------------------------------------


@contextmanager
def seeded(seed: int) -> Iterator[None]:
    """Draw from ``seed`` inside, and leave the caller's random state as it was."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        yield


@dataclass(frozen=True)
class Encoders:
    """What both transformers of the pair are fed by."""

    vae: AutoencoderKLWan
    text: UMT5EncoderModel
    image: CLIPVisionModel


def new_encoders(seed: int) -> Encoders:
    """Untrained encoders."""
    with seeded(seed):
        return Encoders(
            AutoencoderKLWan(**VAE), UMT5EncoderModel(UMT5Config(**TEXT)), CLIPVisionModel(CLIPVisionConfig(**IMAGE))
        )


def load_encoders(pair: Path) -> Encoders:
    """The encoders of a pair, in float32."""
    return Encoders(
        AutoencoderKLWan.from_pretrained(pair / "t2v" / "vae", use_safetensors=True).float(),
        UMT5EncoderModel.from_pretrained(pair / "t2v" / "text_encoder", use_safetensors=True).float(),
        CLIPVisionModel.from_pretrained(pair / "i2v" / "image_encoder", use_safetensors=True).float(),
    )


def new_transformer(seed: int) -> WanTransformer3DModel:
    """An untrained T2V transformer."""
    with seeded(seed):
        return WanTransformer3DModel(**TRANSFORMER)


def grow(t2v: WanTransformer3DModel, seed: int) -> WanTransformer3DModel:
    """An I2V transformer grown from ``t2v``, as Wan's was: shared blocks, and new inputs with new weights."""
    with seeded(seed):
        i2v = WanTransformer3DModel(**IMAGE_TO_VIDEO)
    patches = i2v.patch_embedding.weight.detach().clone()
    patches[:, : TRANSFORMER["in_channels"]] = t2v.patch_embedding.weight.detach()
    i2v.load_state_dict({**i2v.state_dict(), **t2v.state_dict(), "patch_embedding.weight": patches})
    return i2v


def silence_image(i2v: WanTransformer3DModel) -> WanTransformer3DModel:
    """Zero the weights of the new input channels and of the image values: training then begins where T2V ended."""
    i2v.patch_embedding.weight.data[:, TRANSFORMER["in_channels"] :] = 0
    for name, parameter in i2v.named_parameters():
        if ".add_v_proj." in name:
            parameter.data.zero_()
    return i2v


# -- files -------------------------------------------------------------------------------------------------------------


def save_pair(folder: Path, encoders: Encoders, t2v: WanTransformer3DModel, i2v: WanTransformer3DModel) -> None:
    """Write both pipelines below ``folder`` (``t2v/`` and ``i2v/``), in bf16, readable by stock diffusers."""
    # here, because a run on a pair that is there needs no pipelines, and starts sooner without what they import
    from diffusers import WanImageToVideoPipeline, WanPipeline

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
    config = {"_class_name": "WanTransformer3DModel", **(TRANSFORMER if kind == "t2v" else IMAGE_TO_VIDEO)}
    folder.mkdir(parents=True, exist_ok=True)
    tensors = {name: value.to("cpu", torch.bfloat16) for name, value in state.items()}
    save_tensors(folder / WEIGHTS, tensors, {"format": "pt"})
    write_json(folder / "config.json", config)


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
    for path in files:  # safetensors writes for the owner alone, and an image is built by one user and run by another
        path.chmod(0o644)
    write_json(pair / HASHES, {path.relative_to(pair).as_posix(): sha256_file(path) for path in files})


def is_trained() -> bool:
    """Whether trained weights are shipped: without them, what the model draws is noise."""
    return HOME.is_dir()


def embedded(kind: str, folder: Path) -> Path:
    """The folder of the ``t2v`` or ``i2v`` pipeline: the shipped one, or an untrained one built below ``folder``.

    Raises ``ModelError`` as ``check_shipped``.
    """
    if not is_trained():
        return materialise(folder) / kind
    check_shipped(HOME)
    return HOME / kind


@cache
def check_shipped(home: Path) -> None:
    """Compare what lies in ``home`` with what was shipped, once a process.

    Raises ``ModelError`` naming the file where one is missing, is not the link it was, or holds something else.
    """
    for name, expected in shipped_hashes(home).items():
        path = home / name
        if not path.is_file():
            raise ModelError(f"{path} of the embedded model is missing; {RESTORE}")
        found = sha256_file(path)
        if found != expected:
            raise ModelError(
                f"{path} of the embedded model is damaged: its SHA-256 is {found[:12]}, {expected[:12]} was shipped; "
                f"{RESTORE}"
            )
    for part in SHARED:
        if not (home / "i2v" / part).is_dir():
            raise ModelError(
                f"{home / 'i2v' / part} of the embedded model is not the link to ../t2v/{part} that was shipped; allow "
                f"links with: git config core.symlinks true, then {RESTORE}"
            )


def shipped_hashes(home: Path) -> dict[str, str]:
    """The SHA-256 that each weights file was shipped with. Raises ``ModelError`` where the list does not say."""
    try:
        hashes: dict[str, str] = read_json(home / HASHES)
    except FileError as error:
        raise ModelError(f"{error}; {RESTORE}") from error
    if not hashes or not isinstance(hashes, dict) or not all(isinstance(value, str) for value in hashes.values()):
        raise ModelError(f"{home / HASHES} lists no files with their hashes; {RESTORE}")
    return hashes


def materialise(folder: Path) -> Path:
    """The folder below ``folder`` that holds an untrained pair; built on first use, whole or not at all."""
    pair = folder / "models" / f"tiny-{sha256_json(RECIPE)[:12]}"
    if not (pair / HASHES).exists():
        logging.getLogger(__name__).info("drawing an untrained embedded model into %s", pair)
        pair.parent.mkdir(parents=True, exist_ok=True)
        with TemporaryDirectory(dir=pair.parent, prefix=".building-") as building:
            draft = Path(building) / "pair"
            t2v = new_transformer(0)
            save_pair(draft, new_encoders(0), t2v, grow(t2v, 0))
            try:
                draft.rename(pair)
            except OSError:  # another run finished the same folder first
                if not (pair / HASHES).exists():
                    raise
    return pair
