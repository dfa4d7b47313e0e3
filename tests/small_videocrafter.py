"""VideoCrafter2's network in small, as its paper describes it (Chen et al. 2024, arXiv 2401.09047) and with its names of layers.

It is written for tests, by the paper and the names of tensors in its checkpoint, and shares nothing with diffusers' network but
what both compute. Frames of all clips stand one after the other, (B T, C, H, W), as in Stable Diffusion, of which it is an
extension: residual layers are followed by convolutions over time, attention over space by attention over time.
"""

import math
from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn.functional import gelu, interpolate, scaled_dot_product_attention

GROUPS, HEAD, TEXT = 8, 8, 64
"""Groups of a normalisation, width of an attention head, features of a text token."""


def clips_of(frames: Tensor, clips: int) -> Tensor:
    """(B T, C, H, W) as (B, C, T, H, W)."""
    return frames.unflatten(0, (clips, -1)).transpose(1, 2)


def frames_of(clips: Tensor) -> Tensor:
    """The way back."""
    return clips.transpose(1, 2).flatten(0, 1)


class OverTime(nn.Module):
    """Four convolutions along time of what stands at one place."""

    def __init__(self, width: int) -> None:
        super().__init__()
        for number in (1, 2, 3, 4):
            between = [nn.Identity()] if number > 1 else []  # where the original drops values in training
            conv = nn.Conv3d(width, width, (3, 1, 1), padding=(1, 0, 0))
            self.add_module(f"conv{number}", nn.Sequential(nn.GroupNorm(GROUPS, width), nn.SiLU(), *between, conv))

    def forward(self, clips: Tensor) -> Tensor:
        hidden = clips
        for conv in self.children():
            hidden = conv(hidden)
        return clips + hidden


class Residual(nn.Module):
    def __init__(self, width: int, out: int, time: int) -> None:
        super().__init__()
        self.in_layers = nn.Sequential(nn.GroupNorm(GROUPS, width), nn.SiLU(), nn.Conv2d(width, out, 3, padding=1))
        self.emb_layers = nn.Sequential(nn.SiLU(), nn.Linear(time, out))
        conv = nn.Conv2d(out, out, 3, padding=1)
        self.out_layers = nn.Sequential(nn.GroupNorm(GROUPS, out), nn.SiLU(), nn.Identity(), conv)
        self.skip_connection = nn.Conv2d(width, out, 1) if width != out else nn.Identity()
        self.temopral_conv = OverTime(out)

    def forward(self, frames: Tensor, time: Tensor, text: Tensor, clips: int) -> Tensor:
        hidden = self.in_layers(frames) + self.emb_layers(time)[:, :, None, None]
        hidden = self.skip_connection(frames) + self.out_layers(hidden)
        return frames_of(self.temopral_conv(clips_of(hidden, clips)))


class Heads(nn.Module):
    def __init__(self, width: int, seen: int) -> None:
        super().__init__()
        self.to_q = nn.Linear(width, width, bias=False)
        self.to_k, self.to_v = nn.Linear(seen, width, bias=False), nn.Linear(seen, width, bias=False)
        self.to_out = nn.Sequential(nn.Linear(width, width))

    def forward(self, tokens: Tensor, seen: Tensor) -> Tensor:
        parts = (self.to_q(tokens), self.to_k(seen), self.to_v(seen))
        found = scaled_dot_product_attention(*(part.unflatten(-1, (-1, HEAD)).transpose(1, 2) for part in parts))
        return self.to_out(found.transpose(1, 2).flatten(2))


class Gated(nn.Module):
    def __init__(self, width: int, out: int) -> None:
        super().__init__()
        self.proj = nn.Linear(width, 2 * out)

    def forward(self, tokens: Tensor) -> Tensor:
        value, gate = self.proj(tokens).chunk(2, -1)
        return value * gelu(gate)


class Feed(nn.Module):
    def __init__(self, width: int) -> None:
        super().__init__()
        self.net = nn.Sequential(Gated(width, 4 * width), nn.Identity(), nn.Linear(4 * width, width))


class Block(nn.Module):
    """Attention of tokens to each other, then to the text or once more to each other, then each by itself."""

    def __init__(self, width: int, text: int | None) -> None:
        super().__init__()
        self.attn1, self.attn2, self.ff = Heads(width, width), Heads(width, text or width), Feed(width)
        self.norm1, self.norm2, self.norm3 = (nn.LayerNorm(width) for _ in range(3))

    def forward(self, tokens: Tensor, text: Tensor | None) -> Tensor:
        own = self.norm1(tokens)
        tokens = tokens + self.attn1(own, own)
        own = self.norm2(tokens)
        tokens = tokens + self.attn2(own, own if text is None else text)
        return tokens + self.ff.net(self.norm3(tokens))


class Attention(nn.Module):
    def __init__(self, width: int, text: int | None = None, inner: int | None = None) -> None:
        super().__init__()
        inner = inner or width
        self.norm = nn.GroupNorm(GROUPS, width, eps=1e-6)
        self.proj_in, self.proj_out = nn.Linear(width, inner), nn.Linear(inner, width)
        self.transformer_blocks = nn.ModuleList([Block(inner, text)])

    def tokens(self, tokens: Tensor, text: Tensor | None) -> Tensor:
        """Of tokens (places, length, width)."""
        return self.proj_out(self.transformer_blocks[0](self.proj_in(tokens), text))


class OverSpace(Attention):
    def forward(self, frames: Tensor, time: Tensor, text: Tensor, clips: int) -> Tensor:
        found = self.tokens(self.norm(frames).flatten(2).transpose(1, 2), text)
        return frames + found.transpose(1, 2).view_as(frames)


class AlongTime(Attention):
    def forward(self, frames: Tensor, time: Tensor, text: Tensor, clips: int) -> Tensor:
        normed = self.norm(clips_of(frames, clips))
        places = normed.permute(0, 3, 4, 2, 1)  # (B, H, W, T, C)
        found = self.tokens(places.flatten(0, 2), None).view_as(places)
        return frames + frames_of(found.permute(0, 4, 3, 1, 2))


class Down(nn.Module):
    def __init__(self, width: int) -> None:
        super().__init__()
        self.op = nn.Conv2d(width, width, 3, stride=2, padding=1)

    def forward(self, frames: Tensor, time: Tensor, text: Tensor, clips: int) -> Tensor:
        return self.op(frames)


class Up(nn.Module):
    def __init__(self, width: int) -> None:
        super().__init__()
        self.conv = nn.Conv2d(width, width, 3, padding=1)

    def forward(self, frames: Tensor, time: Tensor, text: Tensor, clips: int) -> Tensor:
        return self.conv(interpolate(frames, scale_factor=2, mode="nearest"))


def waves(numbers: Tensor, width: int) -> Tensor:
    """Cosines and sines of numbers at falling frequencies (Vaswani et al. 2017)."""
    rates = torch.exp(-math.log(10_000) * torch.arange(width // 2) / (width // 2))
    angles = numbers[:, None].float() * rates
    return torch.cat([angles.cos(), angles.sin()], -1)


class SmallVideoCrafter(nn.Module):
    """Latents (B, 4, T, H, W), times (B,), text (B, N, TEXT) and a frame rate to noise; attention at all levels but the last."""

    def __init__(self, widths: Sequence[int], layers: int) -> None:
        super().__init__()
        first, time = widths[0], 4 * widths[0]
        self.time_embed = nn.Sequential(nn.Linear(first, time), nn.SiLU(), nn.Linear(time, time))
        self.fps_embedding = nn.Sequential(nn.Linear(first, time), nn.SiLU(), nn.Linear(time, time))
        self.init_attn = nn.ModuleList([AlongTime(first, inner=8 * HEAD)])
        self.input_blocks = nn.ModuleList([nn.ModuleList([nn.Conv2d(4, first, 3, padding=1)])])
        self.output_blocks, last, kept = nn.ModuleList(), len(widths) - 1, [first]

        def block(width: int, out: int, level: int) -> nn.ModuleList:
            attention = [OverSpace(out, TEXT), AlongTime(out)] if level < last else []
            return nn.ModuleList([Residual(width, out, time), *attention])

        width = first
        for level, out in enumerate(widths):
            for _ in range(layers):
                self.input_blocks.append(block(width, out, level))
                width = out
                kept.append(width)
            if level < last:
                self.input_blocks.append(nn.ModuleList([Down(width)]))
                kept.append(width)
        middle = [OverSpace(width, TEXT), AlongTime(width)]
        self.middle_block = nn.ModuleList([Residual(width, width, time), *middle, Residual(width, width, time)])
        for level, out in reversed(list(enumerate(widths))):
            for number in range(layers + 1):
                self.output_blocks.append(block(width + kept.pop(), out, level))
                width = out
                if level and number == layers:
                    self.output_blocks[-1].append(Up(width))
        self.out = nn.Sequential(nn.GroupNorm(GROUPS, first), nn.SiLU(), nn.Conv2d(first, 4, 3, padding=1))

    def forward(self, latents: Tensor, times: Tensor, text: Tensor, fps: float) -> Tensor:
        clips, frames = len(latents), latents.shape[2]
        width = self.time_embed[0].in_features
        rates = torch.full((clips,), float(fps))
        time = self.time_embed(waves(times, width)) + self.fps_embedding(waves(rates, width))
        told = (time.repeat_interleave(frames, 0), text.repeat_interleave(frames, 0), clips)
        hidden = self.init_attn[0](self.input_blocks[0][0](frames_of(latents)), *told)
        kept = [hidden]
        for block in self.input_blocks[1:]:
            for layer in block:
                hidden = layer(hidden, *told)
            kept.append(hidden)
        for layer in self.middle_block:
            hidden = layer(hidden, *told)
        for block in self.output_blocks:
            hidden = torch.cat([hidden, kept.pop()], 1)
            for layer in block:
                hidden = layer(hidden, *told)
        return clips_of(self.out(hidden), clips)
