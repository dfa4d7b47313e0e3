"""A fine-tune of Stable Diffusion 1.5 as one file, in the layout of its authors' checkpoints.

Enters: the file, and a part of a base in diffusers' layout, which says the shapes. Leaves: the part with the file's weights.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from diffusers import AutoencoderKL, UNet2DConditionModel
from diffusers.loaders import single_file_utils
from torch import Tensor
from transformers import CLIPTextConfig, CLIPTextModel

from cinelora.errors import ModelError
from cinelora.io.plain_data import read_json
from cinelora.io.tensor_files import load_tensors
from cinelora.io.tensor_pickles import load_pickled

_BEGINS = {
    "unet": "model.diffusion_model.",
    "vae": "first_stage_model.",
    "text_encoder": "cond_stage_model.transformer.",
}
"""How names of each part's tensors begin."""


def load_from_file(file: Path, part: str, base: Path) -> Any:
    """``unet``, ``vae`` or ``text_encoder`` of ``file``, of the shape that ``base`` has it in; a pickle is read as tensors alone.

    Raises ``ModelError`` where the file lacks the part, or has it in another shape, as one of SDXL or for inpainting would.
    """
    held = load_tensors(file)[0] if file.suffix == ".safetensors" else load_pickled(file)
    own = {name: tensor for name, tensor in held.items() if name.startswith(_BEGINS[part])}
    if not own:
        raise ModelError(f"{file.name} holds no {part} of Stable Diffusion: none of its names begins {_BEGINS[part]}")
    module = _empty(part, base / part)
    state, wanted = _converted(part, own, module), module.state_dict()
    state = {name: tensor for name, tensor in state.items() if not name.endswith("position_ids")}
    wrong = sorted(
        name
        for name in wanted.keys() | state.keys()
        if name not in state or name not in wanted or state[name].shape != wanted[name].shape
    )
    if wrong:
        first = wrong[0]
        has, needs = (list(of[first].shape) if first in of else "nothing" for of in (state, wanted))
        raise ModelError(
            f"{file.name} does not fit the base: {len(wrong)} tensors of its {part} are others, such as {first}, {has} where"
            f" {needs} is wanted; is it a fine-tune of it?"
        )
    module.load_state_dict(state)
    return module


def _empty(part: str, folder: Path) -> Any:
    """The part with random weights."""
    if part == "text_encoder":
        return CLIPTextModel(CLIPTextConfig.from_dict(read_json(folder / "config.json", dict[str, Any])))
    cls: Any = UNet2DConditionModel if part == "unet" else AutoencoderKL
    return cls.from_config(cls.load_config(folder, local_files_only=True))


def _converted(part: str, own: dict[str, Tensor], module: Any) -> dict[str, Tensor]:
    """The tensors by diffusers' names."""
    if part == "text_encoder":
        names = {name: name.removeprefix(_BEGINS[part]) for name in own}
        # newer versions of transformers call the layers without what the file has before them
        bare = not any(name.startswith("text_model.") for name in module.state_dict())
        return {(new.removeprefix("text_model.") if bare else new): own[name] for name, new in names.items()}
    convert = single_file_utils.convert_ldm_unet_checkpoint
    if part == "vae":
        convert = single_file_utils.convert_ldm_vae_checkpoint
    converted: dict[str, Tensor] = convert(own, module.config)
    return converted
