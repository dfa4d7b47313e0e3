"""The networks that distances and similarities rest on: named, hashed, and never stood in for by another.

Enters: where a network lies, and clips. Leaves: features of clips and frames, and distances of frames. A network that is not
there raises ``MetricError`` with one sentence that says how to get it. The embedded model's own encoders are always there;
numbers that rest on them carry ``scale`` in their names.

Nothing that a file holds is executed: CLIP and DINO are read from safetensors, AlexNet from tensors of one recorded hash. The
exception is I3D, which is published as a TorchScript program alone: it runs only where its SHA-256 is stated (ADR 14).

Shape suffixes: T frames, N images, C channels, H and W height and width, P places, D features.
"""

from __future__ import annotations

import hashlib
import io
from collections.abc import Iterable, Iterator
from functools import cached_property
from pathlib import Path
from typing import Any, Protocol

import torch
import torch.nn.functional as F
import torchmetrics.functional.image.lpips as their_lpips
from torch import Tensor, nn
from transformers import AutoModel, CLIPModel

from cinelora.config.schema import MetricsConfig
from cinelora.errors import CineloraError, MetricError, first_line
from cinelora.families.shipped_weights import shipped_hashes
from cinelora.families.wan import embedded
from cinelora.families.wan.bundle import CLIP_MEAN, CLIP_STD, load_tokenizer
from cinelora.io.atomic import sha256_file, sha256_json
from cinelora.io.hardware import default_device
from cinelora.io.hub import is_model_source, shadowed
from cinelora.io.tensor_files import load_tensors
from cinelora.io.terminal import say
from cinelora.metrics.clip_metric import Clip, in_parts
from cinelora.nn.vae_unchunked import encode, whole_clips

IMAGENET_MEAN, IMAGENET_STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
ALEXNET = "7be5be79"
"""The first digits of the SHA-256 of torchvision's ``alexnet-owt-7be5be79.pth``."""
ALEXNET_LAYERS = {
    **{0: (3, 64, 11, 4, 2), 3: (64, 192, 5, 1, 2)},
    **{6: (192, 384, 3, 1, 1), 8: (384, 256, 3, 1, 1), 10: (256, 256, 3, 1, 1)},
}
"""Channels in and out, kernel, stride and padding of each convolution, by its place in that file."""
AT_ONCE = 16
"""Frames that go through a large network together."""


class FrameNetwork(Protocol):
    """Looks at single frames."""

    name: str

    def of_frames(self, clip: Clip) -> Tensor:
        """Features (T, D) of a clip's frames."""


class FrameDistance(Protocol):
    """Compares single frames."""

    name: str
    side: int

    def paired(self, clip: Clip) -> Tensor:
        """Distances (T) of a clip's frames to its reference's."""

    def steps(self, clip: Clip) -> tuple[Tensor, Tensor]:
        """Distances (T - 1) of adjacent frames, of a clip and of its reference."""


# -- the embedded model ------------------------------------------------------------------------------------------------


class ScaleModel:
    """Features of the embedded model's own VAE and image encoder; trained on rendered scenes, and rough elsewhere."""

    NUM_FEATURES = 48
    FRAMES, SIDE = 9, 48
    """Frames of a clip that the VAE is shown, and their shorter side: enough for a look, and for motion that is not fast."""
    STRIDE = 2
    """The image encoder is shown every other frame, which halves the time."""
    side = 16

    def __init__(self, device: torch.device) -> None:
        if not embedded.is_trained():
            raise MetricError("the embedded model is untrained here, and features of noise measure nothing")
        embedded.check_shipped(embedded.HOME)
        encoders = embedded.load_encoders(embedded.HOME)
        self.device = device
        self.vae = encoders.vae.to(device).eval().requires_grad_(False)
        self.image = encoders.image.to(device).eval().requires_grad_(False)
        self.name = f"scale-model@{sha256_json(shipped_hashes(embedded.HOME, embedded.RESTORE))[:12]}"

    def of_clip(self, clip: Clip) -> Tensor:
        """What a look in motion is made of, (48): of each latent channel its mean, its deviation, and its change in time.

        Nine frames spread over the clip, at short side 48, latents normalised by the VAE's own statistics.
        """
        frames = clip.frames_TCHW
        chosen = torch.linspace(0, len(frames) - 1, min(self.FRAMES, len(frames))).round().long()
        chosen = chosen[: (len(chosen) - 1) // 4 * 4 + 1]  # what the VAE makes latent frames of
        size = _multiple(frames, self.SIDE / min(frames.shape[2:]), 8)
        small = F.interpolate(frames[chosen].to(self.device), size=size, mode="area")
        with torch.no_grad(), whole_clips(self.vae):  # a third of the time that chunks take on a CPU
            latents = encode(self.vae, (2 * small - 1).transpose(0, 1)[None]).mode()[0]
        statistics = torch.tensor([self.vae.config.latents_mean, self.vae.config.latents_std], device=self.device)
        latents = (latents - statistics[0].view(-1, 1, 1, 1)) / statistics[1].view(-1, 1, 1, 1)
        # What a look in motion is: per channel how bright it is, how contrasted, and how much it changes from one latent frame
        # to the next. A single latent frame does not change.
        change = latents.diff(dim=1).abs().mean((1, 2, 3)) if latents.shape[1] > 1 else latents.new_zeros(len(latents))
        return torch.cat([latents.mean((1, 2, 3)), latents.std((1, 2, 3)), change])

    def of_frames(self, clip: Clip) -> Tensor:
        """The image encoder's class tokens (T / 2, 96) of every other frame."""
        return clip.once(f"{self.name}/frames", lambda clip: self._seen(clip.frames_TCHW))[1]

    def paired(self, clip: Clip) -> Tensor:
        """``layer_distance`` (T / 2) over the image encoder's layers and places, of every other frame."""
        return layer_distance(*(layers for layers, _ in self._both(clip)))

    def steps(self, clip: Clip) -> tuple[Tensor, Tensor]:
        """As ``paired``, of frames two apart."""
        (own, _), (others, _) = self._both(clip)
        one, other = (layer_distance([f[:-1] for f in layers], [f[1:] for f in layers]) for layers in (own, others))
        return one, other

    def _both(self, clip: Clip) -> tuple[tuple[list[Tensor], Tensor], tuple[list[Tensor], Tensor]]:
        frames = clip.once(f"{self.name}/frames", lambda clip: self._seen(clip.frames_TCHW))
        return frames, clip.once(f"{self.name}/reference", lambda clip: self._seen(clip.beside_TCHW))

    def _seen(self, frames_TCHW: Tensor) -> tuple[list[Tensor], Tensor]:
        """Features of unit length (T, D, P) of each layer, and class tokens (T, D)."""
        size, frames = (self.image.config.image_size,) * 2, frames_TCHW[:: self.STRIDE].to(self.device)
        squashed = F.interpolate(frames, size=size, mode="bicubic", align_corners=False)
        with torch.no_grad():
            seen = self.image(_normalised(squashed, CLIP_MEAN, CLIP_STD), output_hidden_states=True)
        # Token 0 of a layer stands for the whole picture, the others for its places.
        layers = [F.normalize(layer[:, 1:].transpose(1, 2), dim=1) for layer in seen.hidden_states[1:]]
        return layers, seen.pooler_output


# -- CLIP and DINO -----------------------------------------------------------------------------------------------------


class _Published:
    """A network of transformers from a folder or the hub, which looks at frames one by one."""

    def __init__(self, kind: Any, source: str | None, wanted: tuple[str, str, str], device: torch.device) -> None:
        self.folder, self.device = fetched(source, *wanted), device
        self.model = _pretrained(kind, self.folder, wanted[0]).to(device)
        weights = sorted(self.folder.glob("*.safetensors"))
        self.name = f"{source}@{sha256_json([sha256_file(path) for path in weights])[:12]}"

    def of_frames(self, clip: Clip) -> Tensor:
        """Features (T, D) of a clip's frames, worked out once for all measures of it."""
        return clip.once(f"{self.name}/frames", self._of_all)

    @torch.no_grad()
    def _of_all(self, clip: Clip) -> Tensor:
        return torch.cat([self._seen(frames.to(self.device)) for frames in torch.split(clip.frames_TCHW, AT_ONCE)])

    def _seen(self, frames_TCHW: Tensor) -> Tensor:
        raise NotImplementedError


class Clips(_Published):
    """CLIP, as published: frames at short side 224 and centre crop, bicubic, normalised; prompts cut at 77 tokens."""

    def __init__(self, source: str | None, device: torch.device) -> None:
        wanted = ("metrics.clip", "CLIP ViT-B/32", "openai/clip-vit-base-patch32")
        super().__init__(CLIPModel, source, wanted, device)
        try:
            self.tokenizer = load_tokenizer(self.folder)
        except (OSError, ValueError, RuntimeError, KeyError, CineloraError) as error:
            raise MetricError(
                f"metrics.clip: the tokenizer of {self.folder} does not load: {first_line(error)}"
            ) from error

    @torch.no_grad()
    def of_text(self, prompt: str) -> Tensor:
        """Projected features (D) of a prompt."""
        limit = self.model.config.text_config.max_position_embeddings
        tokens = self.tokenizer([prompt], truncation=True, max_length=limit, return_tensors="pt").to(self.device)
        features: Tensor = self.model.text_projection(self.model.text_model(**tokens).pooler_output)[0]
        return features

    def _seen(self, frames_TCHW: Tensor) -> Tensor:
        """Projected features."""
        centred = _centred(frames_TCHW, self.model.config.vision_config.image_size)
        pooled = self.model.vision_model(_normalised(centred, CLIP_MEAN, CLIP_STD)).pooler_output
        features: Tensor = self.model.visual_projection(pooled)
        return features


class Dino(_Published):
    """DINO's class token: frames at short side 224, uncropped to a multiple of a patch, positions interpolated."""

    def __init__(self, source: str | None, device: torch.device) -> None:
        super().__init__(AutoModel, source, ("metrics.dino", "DINO ViT-B/16", "facebook/dino-vitb16"), device)

    def _seen(self, frames_TCHW: Tensor) -> Tensor:
        """Class tokens."""
        config = self.model.config
        size = _multiple(frames_TCHW, config.image_size / min(frames_TCHW.shape[2:]), config.patch_size)
        small = F.interpolate(frames_TCHW, size=size, mode="bilinear", align_corners=False)
        seen = self.model(_normalised(small, IMAGENET_MEAN, IMAGENET_STD), interpolate_pos_encoding=True)
        tokens: Tensor = seen.last_hidden_state[:, 0]
        return tokens


# -- LPIPS -------------------------------------------------------------------------------------------------------------


def layer_distance(one: Iterable[Tensor], other: Iterable[Tensor]) -> Tensor:
    """``sum_l mean_P sum_D (f_l - g_l)^2`` of features (N, D, P) of each layer l: (N)."""
    return torch.stack([(f - g).square().sum(1).mean(1) for f, g in zip(one, other, strict=True)]).sum(0)


class AlexNet(nn.Module):
    """LPIPS of version 0.1 with AlexNet: the trunk from torchvision's file, the heads from torchmetrics.

    The five convolutions are written out here, so that LPIPS needs the weights and not torchvision. Sources: Krizhevsky 2014,
    One weird trick; Zhang et al. 2018.
    """

    side = 63
    """Pixels that the strides leave something of."""

    def __init__(self, source: str | None, device: torch.device) -> None:
        super().__init__()
        state, self.name = _alexnet_weights(source)
        self.convolutions = nn.ModuleList(nn.Conv2d(*shape) for shape in ALEXNET_LAYERS.values())
        for number, convolution in zip(ALEXNET_LAYERS, self.convolutions, strict=True):
            convolution.load_state_dict({name: state[f"features.{number}.{name}"] for name in ("weight", "bias")})
        heads = Path(their_lpips.__file__).parent / "lpips_models" / "alex.pth"
        weights = torch.load(heads, map_location="cpu", weights_only=True)
        # LPIPS weighs squared differences, w (f - g)^2. As no w is negative, that is (sqrt(w) f - sqrt(w) g)^2: the root goes
        # onto the features once, and comparing two frames is then a plain sum of squares.
        self.roots = [weights[f"lin{layer}.model.1.weight"][0, :, 0].sqrt().to(device) for layer in range(5)]
        self.to(device).eval().requires_grad_(False)
        self.device = device

    def layers(self, images_NCHW: Tensor) -> Iterator[Tensor]:
        """Yield features of unit length after each convolution, weighted, (N, D, P). Images in [0, 1]."""
        shift, scale = (-0.030, -0.088, -0.188), (0.458, 0.448, 0.450)  # of [-1, 1]; LPIPS' own, nearly ImageNet's
        features = _normalised(2 * images_NCHW.to(self.device) - 1, shift, scale)
        for layer, (convolution, root) in enumerate(zip(self.convolutions, self.roots, strict=True)):
            if layer in (1, 2):
                features = F.max_pool2d(features, 3, stride=2)
            features = F.relu(convolution(features))
            length = (features.square().sum(1, keepdim=True) + 1e-8).sqrt()
            yield (features / length).flatten(2) * root

    @torch.no_grad()
    def distance(self, one_NCHW: Tensor, other_NCHW: Tensor) -> Tensor:
        """LPIPS (N) of images (N, 3, H, W) in [0, 1]."""
        parts = in_parts(AT_ONCE, one_NCHW, other_NCHW)
        return torch.cat([layer_distance(self.layers(one), self.layers(other)) for one, other in parts])

    def paired(self, clip: Clip) -> Tensor:
        """LPIPS (T) of frames to the reference's."""
        return self.distance(clip.frames_TCHW, clip.beside_TCHW)

    def steps(self, clip: Clip) -> tuple[Tensor, Tensor]:
        """LPIPS (T - 1) of adjacent frames, of both."""
        frames, reference = clip.frames_TCHW, clip.beside_TCHW
        return self.distance(frames[:-1], frames[1:]), self.distance(reference[:-1], reference[1:])


def _alexnet_weights(source: str | None) -> tuple[dict[str, Tensor], str]:
    way = f"set metrics.alexnet to the path of alexnet-owt-{ALEXNET}.pth from https://download.pytorch.org/models"
    if source is None:
        raise MetricError(f"it needs AlexNet as torchvision publishes it: {way}")
    path = Path(source)
    if not path.is_file():
        raise MetricError(f"metrics.alexnet={source}: there is no such file; {way}")
    digest = sha256_file(path)
    if path.suffix == ".safetensors":
        return load_tensors(path)[0], f"{path.name}@{digest[:12]}"
    if not digest.startswith(ALEXNET):
        raise MetricError(
            f"metrics.alexnet={source} is not torchvision's file: its SHA-256 is {digest[:8]}..., not {ALEXNET}...; {way}"
        )
    return torch.load(path, map_location="cpu", weights_only=True), f"{path.name}@{digest[:12]}"


# -- FVD ---------------------------------------------------------------------------------------------------------------


class I3d:
    """I3D's 400 logits of a clip, Kinetics-400, by the TorchScript program that FVD is reported with.

    Frames at short side 224, bilinear, centre crop, in [-1, 1]. Sources: Carreira and Zisserman 2017; Unterthiner et al. 2018;
    the program is Skorokhodov et al. 2022's.
    """

    NUM_FEATURES = 400
    FRAMES = 10

    def __init__(self, source: str | None, sha256: str | None, device: torch.device) -> None:
        if source is None:
            raise MetricError(
                "it needs I3D as FVD is reported with: fetch i3d_torchscript.pt as https://github.com/universome/fvd-comparison "
                "tells, and set metrics.i3d to its path and metrics.i3d_sha256 to its SHA-256"
            )
        if not Path(source).is_file():
            raise MetricError(f"metrics.i3d={source}: there is no such file")
        content = Path(source).read_bytes()  # read once: the bytes that are compared are those that are run
        digest = hashlib.sha256(content).hexdigest()
        if sha256 is None or digest != sha256.lower():
            raise MetricError(
                f"metrics.i3d={source} is a program, and is run only where its SHA-256 is stated: it is {digest}; if that "
                f"is the file you trust, set metrics.i3d_sha256 to it"
            )
        self.program = torch.jit.load(io.BytesIO(content), map_location=device).eval()  # type: ignore[no-untyped-call]
        self.device = device
        self.name = f"i3d@{digest[:12]}"

    def of_clip(self, clip: Clip) -> Tensor:
        """Logits (400)."""
        frames = _centred(clip.frames_TCHW.to(self.device), 224, "bilinear")
        with torch.no_grad():
            video = (2 * frames - 1).transpose(0, 1)[None]
            logits: Tensor = self.program(video, rescale=False, resize=False, return_features=True)[0]
        return logits


# -- all of them -------------------------------------------------------------------------------------------------------


class Networks:
    """Every network at most once, loaded when the first measure asks; each raises ``MetricError`` where it is missing.

    ``places`` say where they lie; the names of measures in there are of no concern.
    """

    def __init__(self, places: MetricsConfig | None = None, device: torch.device | None = None) -> None:
        self.places = places or MetricsConfig()
        self.device = device or default_device()

    @cached_property
    def scale(self) -> ScaleModel:
        """The embedded model."""
        return ScaleModel(self.device)

    @cached_property
    def clip(self) -> Clips:
        """CLIP."""
        return Clips(self.places.clip, self.device)

    @cached_property
    def dino(self) -> Dino:
        """DINO."""
        return Dino(self.places.dino, self.device)

    @cached_property
    def alexnet(self) -> AlexNet:
        """AlexNet with LPIPS' heads."""
        return AlexNet(self.places.alexnet, self.device)

    @cached_property
    def i3d(self) -> I3d:
        """I3D."""
        return I3d(self.places.i3d, self.places.i3d_sha256, self.device)

    def names(self) -> dict[str, str]:
        """What has been loaded, with hashes."""
        return {kind: network.name for kind, network in vars(self).items() if hasattr(network, "name")}


def fetched(source: str | None, setting: str, what: str, example: str) -> Path:
    """The folder of a network: a directory, or a hub repository (``owner/name``), of which safetensors alone are fetched."""
    if source is None:
        raise MetricError(f"it needs {what}: set {setting} to a directory or a hub repository such as {example}")
    if not is_model_source(source):
        raise MetricError(f"{setting}={source} is neither a directory nor a hub repository such as {example}")
    say(*shadowed(setting, source))
    folder = Path(source)
    if not folder.exists():
        from huggingface_hub import snapshot_download
        from huggingface_hub.errors import HfHubHTTPError, LocalEntryNotFoundError

        try:
            folder = Path(snapshot_download(source, allow_patterns=["*.json", "*.txt", "*.safetensors"]))
        except (HfHubHTTPError, LocalEntryNotFoundError, OSError, ValueError) as error:
            raise MetricError(
                f"{setting}={source} cannot be fetched from the hub ({first_line(error)}); give a directory instead"
            ) from error
    if not (folder / "config.json").is_file() or not list(folder.glob("*.safetensors")):
        raise MetricError(
            f"{setting}={source} lacks config.json or weights as .safetensors: pickles are not read; load and save it again with "
            "transformers, which writes both, or give another copy"
        )
    return folder


def _pretrained(kind: Any, folder: Path, setting: str) -> Any:
    """A model with every weight from its file; transformers would fill in those that are missing with noise."""
    try:
        model, told = kind.from_pretrained(
            folder,
            use_safetensors=True,
            trust_remote_code=False,
            output_loading_info=True,
            local_files_only=True,
            dtype=torch.float32,
        )
    except (OSError, ValueError, RuntimeError, KeyError, CineloraError) as error:
        raise MetricError(f"{setting}: {folder} does not load: {first_line(error)}") from error
    # DINO's pooler was never published, and nothing here reads it; CLIP has none of that name.
    if missing := sorted(name for name in told["missing_keys"] if not name.startswith("pooler.")):
        raise MetricError(
            f"{setting}: {folder} is no {kind.__name__}: it lacks {missing[0]} and {len(missing) - 1} more"
        )
    return model.eval().requires_grad_(False)


def _normalised(images_NCHW: Tensor, mean: tuple[float, ...], deviation: tuple[float, ...]) -> Tensor:
    statistics = torch.tensor([mean, deviation], device=images_NCHW.device).view(2, 1, 3, 1, 1)
    return (images_NCHW - statistics[0]) / statistics[1]


def _centred(images_NCHW: Tensor, size: int, mode: str = "bicubic") -> Tensor:
    """Short side to ``size``, and the middle square."""
    height, width = images_NCHW.shape[2:]
    scale = size / min(height, width)
    shape = (max(size, round(height * scale)), max(size, round(width * scale)))
    antialias = mode == "bicubic"  # as CLIP's own preparation does, and FVD's does not
    images = F.interpolate(images_NCHW, size=shape, mode=mode, align_corners=False, antialias=antialias)
    top, left = (shape[0] - size) // 2, (shape[1] - size) // 2
    images = images[:, :, top : top + size, left : left + size]
    return images.clamp(0, 1)


def _multiple(frames_TCHW: Tensor, scale: float, of: int) -> tuple[int, int]:
    """Height and width times ``scale``, rounded down to a multiple."""
    height, width = (max(of, int(size * scale + 1e-6) // of * of) for size in frames_TCHW.shape[2:])
    return height, width
