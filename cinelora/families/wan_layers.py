"""The layers of Wan's transformers: diffusers' names and the checkpoint's, and what adapters change of them. No torch."""

from __future__ import annotations

import re

from cinelora.families.family import Network

# diffusers renamed every layer of Wan's checkpoint, and most tools write the checkpoint's names. Both stand here in pairs.
_PROJECTIONS = """
    attn1.to_q self_attn.q   attn1.to_k self_attn.k   attn1.to_v self_attn.v   attn1.to_out.0 self_attn.o
    attn2.to_q cross_attn.q  attn2.to_k cross_attn.k  attn2.to_v cross_attn.v  attn2.to_out.0 cross_attn.o
    attn2.add_k_proj cross_attn.k_img  attn2.add_v_proj cross_attn.v_img  ffn.net.0.proj ffn.0  ffn.net.2 ffn.2
""".split()
_REST_OF_A_BLOCK = """
    attn1.norm_q self_attn.norm_q   attn1.norm_k self_attn.norm_k   attn2.norm_q cross_attn.norm_q
    attn2.norm_k cross_attn.norm_k  attn2.norm_added_k cross_attn.norm_k_img  norm2 norm3
    scale_shift_table modulation
""".split()
_OUTSIDE = """
    patch_embedding patch_embedding  proj_out head.head  scale_shift_table head.modulation
    condition_embedder.text_embedder.linear_1 text_embedding.0  condition_embedder.text_embedder.linear_2 text_embedding.2
    condition_embedder.time_embedder.linear_1 time_embedding.0  condition_embedder.time_embedder.linear_2 time_embedding.2
    condition_embedder.time_proj time_projection.1
    condition_embedder.image_embedder.norm1 img_emb.proj.0  condition_embedder.image_embedder.ff.net.0.proj img_emb.proj.1
    condition_embedder.image_embedder.ff.net.2 img_emb.proj.3  condition_embedder.image_embedder.norm2 img_emb.proj.4
""".split()


def _pairs(names: list[str]) -> dict[str, str]:
    return dict(zip(names[::2], names[1::2], strict=True))


WAN_NAMES = _pairs(_PROJECTIONS)
"""Every projection of a block, on which a pair of factors can act beside the weight: diffusers' name, and the checkpoint's."""
BLOCK_NAMES = WAN_NAMES | _pairs(_REST_OF_A_BLOCK)
"""Everything in a block that has weights."""
OUTSIDE_NAMES = _pairs(_OUTSIDE)
"""Everything outside the blocks."""
IMAGE_PARTS = ("attn2.add_k_proj", "attn2.add_v_proj", "attn2.norm_added_k")
"""What only the blocks of an image-to-video transformer have."""
_BLOCK = re.compile(r"blocks\.\d+\.(.+)")


def is_image_part(module: str) -> bool:
    """Whether only an image-to-video transformer has ``module``."""
    return module.endswith(IMAGE_PARTS) or ".image_embedder." in module


class _WanLayers:
    """The layers of Wan's transformers; see ``LayerNames``."""

    title = "Wan"

    def knows(self, module: str) -> bool:
        form = _BLOCK.fullmatch(module)
        return form[1] in BLOCK_NAMES if form else module in OUTSIDE_NAMES

    def target_of(self, module: str) -> str | None:
        form = _BLOCK.fullmatch(module)
        if form is None or form[1] not in WAN_NAMES:
            return None
        return (
            "cross_attention"
            if form[1].startswith("attn2")
            else "attention"
            if form[1].startswith("attn1")
            else "all_linear"
        )

    def taught_in(self, module: str) -> str | None:
        return "i2v" if is_image_part(module) else None

    def is_optional(self, module: str) -> bool:
        return is_image_part(module)

    def lies_in(self, module: str, network: Network) -> bool:
        return network.image_tokens > 0 or not is_image_part(module)

    def width_of(self, module: str, width: int) -> tuple[int | None, ...]:
        special: dict[str, tuple[int | None, ...]] = {
            "ffn.net.0.proj": (None, width),
            "ffn.net.2": (width, None),
            "text_embedder.linear_1": (width, None),
            "time_embedder.linear_1": (width, None),
            "time_proj": (6 * width, width),
            "proj_out": (None, width),
            "patch_embedding": (width, None),
            "image_embedder.ff.net.0.proj": (None, None),
            "image_embedder.ff.net.2": (width, None),
            "image_embedder.norm1": (None,),
            "scale_shift_table": (None,),
        }
        return next((shape for end, shape in special.items() if module.endswith(end)), (width, width))


WAN_LAYERS = _WanLayers()
