"""Networks say what they are, read every weight or refuse, and order known cases rightly."""

import os
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from rounding import EPS, LAYERS, SUMS, units
from torch import Tensor
from transformers import ViTConfig, ViTModel

from cinelora.errors import MetricError
from cinelora.footage.video_reader import open_video
from cinelora.io.atomic import sha256_file
from cinelora.io.tensor_files import save_tensors
from cinelora.metrics.clip_metric import Clip
from cinelora.metrics.networks import AlexNet, Clips, Dino, I3d, Networks, ScaleModel
from cinelora.metrics.reference import PerceptualDistance, TemporalPerceptualDistance
from cinelora.metrics.similarity import AdjacentSimilarity, Consistency, SetDistance, TextSimilarity

CPU = torch.device("cpu")
DATA = Path(__file__).parents[2] / "data"
WEIGHTS = os.environ.get("CINELORA_METRIC_WEIGHTS")
"""A folder with alexnet-owt-7be5be79.pth and i3d_torchscript.pt, for the published golden values."""


@pytest.fixture(scope="module")
def scale() -> ScaleModel:
    return Networks(device=CPU).scale


def shipped(look: str, first: int, count: int) -> list[Tensor]:
    """Every fourth frame of shipped clips (9, 3, 56, 96), half their size."""
    paths = sorted((DATA / look / "train").glob("*.mp4"))[first : first + count]
    clips = []
    for path in paths:
        frames = torch.stack([torch.from_numpy(frame) for frame in open_video(path).frames(range(0, 36, 4))])
        clips.append(F.avg_pool2d(frames.permute(0, 3, 1, 2).float() / 255, 2))
    return clips


@pytest.fixture(scope="module")
def noir() -> list[Tensor]:
    return shipped("noir", 0, 6)


def paired(clip: Tensor, reference: Tensor) -> Clip:
    return Clip(clip, reference)


# -- the embedded model ------------------------------------------------------------------------------------------------


def test_other_noir_is_nearer_to_noir_than_half_noir_and_that_than_daylight(scale: ScaleModel, noir: list[Tensor]):
    others, daylight = shipped("noir", 12, 6), shipped("daylight", 0, 6)
    half = [(grey + plain) / 2 for grey, plain in zip(noir, daylight, strict=True)]  # of the same scenes

    def distance(clips: list[Tensor]) -> float:
        metric = SetDistance(scale)
        for clip in noir:
            metric.add(Clip(clip), real=True)
        for clip in clips:
            metric.add(Clip(clip), real=False)
        return float(metric.compute())

    assert distance(noir) < LAYERS * EPS < distance(others) < distance(half) < distance(daylight)


def test_disturbances_order_the_perceptual_distance(scale: ScaleModel, noir: list[Tensor]):
    clip = noir[1]
    generator = torch.Generator().manual_seed(0)
    noise = torch.randn(clip.shape, generator=generator)
    metric = PerceptualDistance(scale)
    same, little, much = (
        float(metric.score(paired((clip + amount * noise).clamp(0, 1), clip))) for amount in (0, 0.03, 0.12)
    )
    other = float(metric.score(paired(noir[2], clip)))
    assert same == pytest.approx(0, abs=SUMS * EPS)
    assert same < little < much < other


def test_too_still_is_heard_by_the_temporal_perceptual_distance(scale: ScaleModel, noir: list[Tensor]):
    metric = TemporalPerceptualDistance(scale)
    same = float(metric.score(paired(noir[1], noir[1])))
    frozen = float(metric.score(paired(noir[1][:1].expand_as(noir[1]), noir[1])))
    assert same == pytest.approx(0, abs=SUMS * EPS)
    assert frozen > 1


def test_a_cut_lowers_what_frames_have_in_common(scale: ScaleModel, noir: list[Tensor]):
    cut = torch.cat([noir[0][:4], noir[1][4:]])
    for measure in (AdjacentSimilarity, Consistency):
        metric = measure(scale)
        frozen = float(metric.score(Clip(noir[0][:1].expand_as(noir[0]))))
        assert frozen == pytest.approx(1)
        assert float(metric.score(Clip(cut))) < float(metric.score(Clip(noir[0]))) < frozen


def test_one_frame_and_odd_sizes_have_features(scale: ScaleModel):
    for shape in ((1, 3, 56, 96), (5, 3, 50, 71), (2, 3, 16, 400)):
        features = scale.of_clip(Clip(torch.rand(shape)))
        assert features.shape == (scale.NUM_FEATURES,)
        assert features.isfinite().all()


def test_a_network_says_which_it_is(scale: ScaleModel):
    networks = Networks(device=CPU)
    assert networks.names() == {}
    assert networks.scale.name == scale.name
    assert networks.names() == {"scale": scale.name}


# -- from elsewhere ----------------------------------------------------------------------------------------------------


def test_clip_similarities_are_plain_cosines(clip_folder: Path, noir: list[Tensor]):
    network = Clips(str(clip_folder), CPU)
    clip = Clip(noir[0], prompt="a man in the rain")
    frames = F.normalize(network.of_frames(clip), dim=1)
    text = F.normalize(network.of_text("a man in the rain"), dim=0)
    assert frames.shape == (9, 16)
    assert float(TextSimilarity(network).score(clip)) == pytest.approx(float((frames @ text).mean()), abs=SUMS * EPS)
    adjacent = (frames[1:] * frames[:-1]).sum(1).mean()
    assert float(AdjacentSimilarity(network).score(clip)) == pytest.approx(float(adjacent), abs=SUMS * EPS)
    assert network.name.startswith(f"{clip_folder}@")


def test_clip_sees_what_its_own_processor_shows_it(clip_folder: Path, noir: list[Tensor]):
    """Short side, centre crop and normalisation, as transformers prepares pictures for CLIP."""
    from PIL import Image
    from transformers.models.clip.image_processing_pil_clip import CLIPImageProcessorPil

    network = Clips(str(clip_folder), CPU)
    frame = (noir[0][:1] * 255).round() / 255
    picture = Image.fromarray((frame[0].permute(1, 2, 0) * 255).round().byte().numpy())
    processor = CLIPImageProcessorPil(size={"shortest_edge": 32}, crop_size={"height": 32, "width": 32})
    pixels = processor(images=picture, return_tensors="pt").pixel_values
    with torch.no_grad():
        theirs = network.model.visual_projection(network.model.vision_model(pixels).pooler_output)
    ours = network.of_frames(Clip(frame))
    assert float(F.cosine_similarity(ours, theirs)) > 0.999


def test_long_prompts_are_cut(clip_folder: Path):
    assert Clips(str(clip_folder), CPU).of_text("rain " * 200).isfinite().all()


def test_dino_looks_at_wide_frames_whole(dino_folder: Path, noir: list[Tensor]):
    network = Dino(str(dino_folder), CPU)
    features = network.of_frames(Clip(noir[0]))
    assert features.shape == (9, 32)
    edge = noir[0].clone()
    edge[..., -4:] = 1
    assert not torch.allclose(network.of_frames(Clip(edge)), features)


def test_a_model_that_lacks_weights_is_refused(clip_folder: Path, dino_folder: Path, tmp_path: Path):
    with pytest.raises(MetricError, match=r"metrics.clip: .* is no CLIPModel|does not load"):
        Clips(str(dino_folder), CPU)
    config = ViTConfig.from_pretrained(dino_folder)
    config.num_hidden_layers = 3
    model = ViTModel.from_pretrained(dino_folder)
    model.save_pretrained(tmp_path)
    config.save_pretrained(tmp_path)
    with pytest.raises(MetricError, match="it lacks"):
        Dino(str(tmp_path), CPU)


def test_what_is_missing_is_said_with_the_way_to_get_it(tmp_path: Path):
    for sentence, build in {
        r"it needs CLIP ViT-B/32: set metrics.clip": lambda: Clips(None, CPU),
        r"it needs DINO ViT-B/16: set metrics.dino": lambda: Dino(None, CPU),
        r"metrics.clip=/nowhere is neither": lambda: Clips("/nowhere", CPU),
        r"metrics.clip=nobody/nothing cannot be fetched": lambda: Clips("nobody/nothing", CPU),
        r"lacks config.json or weights as .safetensors": lambda: Clips(str(tmp_path), CPU),
        r"set metrics.alexnet to the path of alexnet-owt-7be5be79.pth": lambda: AlexNet(None, CPU),
        r"fetch i3d_torchscript.pt": lambda: I3d(None, None, CPU),
    }.items():
        with pytest.raises(MetricError, match=sentence):
            build()


def test_alexnet_of_another_hash_is_refused(tmp_path: Path):
    path = tmp_path / "alexnet-owt-7be5be79.pth"
    path.write_bytes(b"something else")
    with pytest.raises(MetricError, match=r"is not torchvision's file: its SHA-256 is .*, not 7be5be79"):
        AlexNet(str(path), CPU)


@pytest.fixture
def random_alexnet(tmp_path: Path) -> AlexNet:
    torch.manual_seed(0)
    shapes = {0: (64, 3, 11, 11), 3: (192, 64, 5, 5), 6: (384, 192, 3, 3), 8: (256, 384, 3, 3), 10: (256, 256, 3, 3)}
    state = {f"features.{number}.weight": 0.05 * torch.randn(shape) for number, shape in shapes.items()}
    state |= {f"features.{number}.bias": 0.05 * torch.randn(shape[0]) for number, shape in shapes.items()}
    save_tensors(tmp_path / "alexnet.safetensors", state, {})
    return AlexNet(str(tmp_path / "alexnet.safetensors"), CPU)


def test_lpips_is_a_distance(random_alexnet: AlexNet):
    one, other = torch.rand(2, 20, 3, 64, 64).unbind()
    assert random_alexnet.distance(one, one).max() == 0
    torch.testing.assert_close(random_alexnet.distance(one, other), random_alexnet.distance(other, one))
    assert random_alexnet.distance(one, other).min() > 0


def test_lpips_agrees_with_torchmetrics(random_alexnet: AlexNet):
    pytest.importorskip(
        "torchvision", reason="torchmetrics builds its AlexNet with torchvision: pip install .[metrics]"
    )
    from torchmetrics.functional.image.lpips import _NoTrainLpips

    theirs = _NoTrainLpips(net="alex", pnet_rand=True)
    trunk = [module for module in theirs.net.modules() if isinstance(module, torch.nn.Conv2d)]
    for convolution, ours in zip(trunk, random_alexnet.convolutions, strict=True):
        convolution.load_state_dict(ours.state_dict())
    one, other = torch.rand(2, 3, 3, 64, 96).unbind()
    expected = theirs(one, other, normalize=True).flatten()
    assert units(random_alexnet.distance(one, other), expected) <= LAYERS


class Program(torch.nn.Module):
    """Answers as I3D's program does, with 400 numbers."""

    def forward(self, video: Tensor, rescale: bool, resize: bool, return_features: bool) -> Tensor:
        assert not rescale
        assert not resize
        return video.mean((2, 3, 4)).repeat(1, 134)[:, :400] * float(return_features)


def test_a_program_runs_only_where_its_hash_is_stated(tmp_path: Path):
    path = tmp_path / "i3d_torchscript.pt"
    torch.jit.save(torch.jit.script(Program()), path)
    digest = sha256_file(path)
    for stated in (None, "0" * 64):
        with pytest.raises(MetricError, match=f"it is {digest}"):
            I3d(str(path), stated, CPU)
    network = I3d(str(path), digest.upper(), CPU)
    logits = network.of_clip(Clip(torch.ones(10, 3, 64, 96)))
    assert units(logits, torch.ones(400)) <= SUMS


@pytest.mark.skipif(not WEIGHTS, reason="CINELORA_METRIC_WEIGHTS names no folder with the published weights")
def test_published_golden_values():
    assert WEIGHTS
    zeros, ones = torch.zeros(30, 3, 64, 64), torch.ones(30, 3, 64, 64)
    alexnet = AlexNet(f"{WEIGHTS}/alexnet-owt-7be5be79.pth", CPU)
    assert float(alexnet.distance(zeros[:2], ones[:2]).mean()) == pytest.approx(0.81401, abs=1e-4)
    path = f"{WEIGHTS}/i3d_torchscript.pt"
    i3d = I3d(path, sha256_file(Path(path)), CPU)
    for frames, expected in ((30, 151.256), (10, 569.23)):
        metric = SetDistance(i3d, frames=I3d.FRAMES)
        for _ in range(8):
            metric.add(Clip(zeros[:frames]), real=True)
            metric.add(Clip(ones[:frames]), real=False)
        assert float(metric.compute()) == pytest.approx(expected, rel=1e-3)
