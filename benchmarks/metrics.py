"""Whether the metrics order known cases rightly, and how long the offline default takes.

python benchmarks/metrics.py [style=<adapter file of stage=style>]

Floors: frames out of order, a jittering picture and a frozen one are each told from the clip itself, in every clip, by the
measure meant for them; real held-out noir is nearer to noir than what the adapter draws, and that nearer than what the base draws
(with ``style=``); 200 clips of 33x112x192 with references, and as many real ones, in 2 minutes on 2 cores.
"""

import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from common import ROOT, report
from scale_tools.studio import FPS, HEIGHT, HELDOUT_SEED, WIDTH, Studio, acting, caption
from torch import Tensor
from torchmetrics.functional.image import structural_similarity_index_measure

from cinelora.footage.video_reader import open_video
from cinelora.metrics.clip_metric import Clip
from cinelora.metrics.networks import Networks
from cinelora.metrics.reference import mean_ssim
from cinelora.metrics.suite import OFFLINE, Suite, as_clip
from tools.scale_model.render import render_scene
from tools.scale_model.render.scenes import draw_scene

FRAMES, CLIPS, CORES = 33, 200, 2
STEPS, DRAWN, SHORT = 15, 12, 9
CPU = torch.device("cpu")


def shipped(folder: str) -> list[Tensor]:
    """The clips of a folder of ``data``, uint8."""
    paths = sorted((ROOT / "data" / folder).glob("*.mp4"))
    return [torch.stack([torch.from_numpy(f) for f in open_video(path).frames(range(FRAMES))]) for path in paths]


def shuffled(clip: Tensor) -> Tensor:
    return clip[torch.randperm(len(clip), generator=torch.Generator().manual_seed(0))]


def jittered(clip: Tensor) -> Tensor:
    """Every frame moved by up to two pixels each way, the other side coming in."""
    steps = torch.randint(-2, 3, (len(clip), 2), generator=torch.Generator().manual_seed(0)).tolist()
    return torch.stack([frame.roll(step, (0, 1)) for frame, step in zip(clip, steps, strict=True)])


def frozen(clip: Tensor) -> Tensor:
    return clip[:1].expand_as(clip)


CAUGHT: dict[str, tuple[Callable[[Tensor], Tensor], str, Callable[[float, float], bool]]] = {
    "shuffled": (shuffled, "warping_error", lambda spoilt, own: spoilt > 1.5 * own),
    "jittered": (jittered, "shake", lambda spoilt, own: spoilt > 3 * own),
    "frozen": (frozen, "flow_motion", lambda spoilt, own: spoilt < 0.01 < own),
}


def disturbances(networks: Networks) -> dict[str, Any]:
    """Of held-out noir: the number of each clip, as it is and spoilt."""
    found: dict[str, Any] = {}
    for name, (spoil, measure, is_caught) in CAUGHT.items():
        rows = []
        for clip in shipped("noir/heldout"):
            values = []
            for video in (clip, spoil(clip)):
                suite = Suite.of([measure], networks)
                suite.add(as_clip(video))
                values.append(suite.report().numbers[measure])
            rows.append(values)
        caught = [is_caught(spoilt, own) for own, spoilt in rows]
        found[name] = {"measure": measure, "own_and_spoilt": rows, "caught": sum(caught), "of": len(caught)}
        print(f"{name}: {measure} catches {sum(caught)} of {len(caught)}")
    return found


def distances(networks: Networks, style: Path | None) -> dict[str, Any]:
    """``frechet_scale`` to rendered noir: of other noir, of what is drawn with and without an adapter, of daylight."""
    scenes = [draw_scene(HELDOUT_SEED + 5000 + number) for number in range(3 * DRAWN)]

    def render(look: str, which: slice) -> list[Tensor]:
        return [render_scene(s, look, SHORT, HEIGHT, WIDTH, FPS, grain=False, device=CPU) for s in scenes[which]]

    asked = slice(2 * DRAWN, None)
    real = render("noir", slice(2 * DRAWN))
    sets = {"held-out noir": render("noir", asked), "daylight": render("daylight", asked)}
    if style:
        studio = Studio(ROOT / "outputs" / "cache", {"cpu": {}}, steps=STEPS, device=CPU)
        prompts = [caption(scene, "noir") for scene in scenes[asked]]
        transformer = studio.transformer("t2v", {"style": style})
        with torch.no_grad():
            sets["base"] = list(studio.draw(transformer, prompts, SHORT))
            with acting(transformer, {"style": 1.0}):
                sets["adapted"] = list(studio.draw(transformer, prompts, SHORT))
    found = {}
    for name, clips in sets.items():
        suite = Suite.of(["frechet_scale"], networks)
        for clip in real:
            suite.add_real(as_clip(clip))
        for clip in clips:
            suite.add(as_clip(clip))
        found[name] = suite.report().numbers["frechet_scale"]
    print(f"frechet_scale to {len(real)} clips of noir, {DRAWN} each: {found}")
    return {"real": len(real), "clips": DRAWN, "frames": SHORT, "steps": STEPS, "distance": found}


def seconds(work: Callable[[], object]) -> float:
    """Processor time: other work on the machine counts little."""
    started = time.process_time()
    work()
    return time.process_time() - started


def speed(networks: Networks) -> dict[str, Any]:
    """All clips and as many real ones, measured on both cores by the clock; and SSIM against torchmetrics' on the same frames."""
    torch.set_num_threads(CORES)
    clips = [as_clip(clip) for clip in shipped("noir/heldout")]
    suite = Suite.of(OFFLINE, networks)
    suite.add(Clip(clips[0].frames_TCHW, clips[1].frames_TCHW))  # the first loads what the others use
    processor, started = time.process_time(), time.perf_counter()
    for number in range(CLIPS):
        suite.add(Clip(clips[number % 6].frames_TCHW, clips[(number + 1) % 6].frames_TCHW))
        suite.add_real(Clip(clips[number % 6].frames_TCHW))
    suite.report()
    whole, processor = time.perf_counter() - started, time.process_time() - processor
    torch.set_num_threads(1)
    one, other = clips[0].frames_TCHW[1:], clips[0].frames_TCHW[:-1]
    ours = seconds(lambda: mean_ssim(one, other))
    theirs = seconds(lambda: structural_similarity_index_measure(one, other, data_range=1.0))
    print(
        f"{CLIPS} clips and as many real ones on {CORES} cores: {whole:.0f} s of 120, {processor:.0f} s of processor time"
    )
    print(f"SSIM of 32 pairs: {ours:.3f} s, torchmetrics {theirs:.3f} s")
    return {
        "measures": OFFLINE,
        "clips": CLIPS,
        "wall_s": whole,
        "cpu_s": processor,
        "ssim_s": {"ours": ours, "torchmetrics": theirs},
    }


def main(style: Path | None) -> None:
    networks = Networks(device=CPU)
    results = {
        "speed": speed(networks),
        "disturbances": disturbances(networks),
        "distances": distances(networks, style),
    }
    report("metrics", results)


if __name__ == "__main__":
    given = dict(argument.split("=", 1) for argument in sys.argv[1:])
    main(Path(given["style"]) if "style" in given else None)
