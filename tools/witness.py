"""Compares two checkouts bit for bit: ``python tools/witness.py OLD NEW [--only NAME ...] [--work DIR] [--python PATH]``.

Both checkouts are driven from outside, by the commands a user types, on one thread. What they print and write is taken apart
into facts (one tensor, one frame, one key, one line each), and the facts are compared. Nothing is imported from either
checkout, so that a mistake in one of them cannot hide itself.

Every check runs in the same folder, ``now``, whichever checkout does it: paths inside of files are then equal too. Afterwards
the folder is moved to ``old/<check>`` or ``new/<check>``. What OLD made is kept under its commit, and made only once. What
one check needs of another is always OLD's: NEW resumes OLD's run, hits OLD's cache, and reads OLD's adapters.
"""

from __future__ import annotations

import argparse
import csv
import fcntl
import hashlib
import json
import os
import re
import shlex
import shutil
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import av
import numpy as np
import yaml
from PIL import Image

RENAMED: dict[str, str] = {r"(config\.yaml:)weights\.": r"\1scale."}
"""Names that changed on purpose: a regular expression over OLD's facts, and what NEW calls it, as ``re.sub`` takes them.

``r"(config\\.yaml:)weights\\.": r"\\1scale."`` renames the keys of one section in every config.yaml.
"""
ALLOWED: dict[str, str] = {
    r"^words/printed\.txt:.*(weights|scale)": "scales of adapters are scale.*",
    r"^words/printed\.txt:.*these can": "what a resume may change is listed in the schema's order",
    r"^prepare/prepared/(contact\.html|README\.md):": "pages and cards are templates",
    r"^(study|evaluate)/run/\w+\.html:": "pages and cards are templates",
    r"[:.]trust$|^words/printed\.txt:.*trust": "trust= is a setting",
    r"^resume/printed\.txt:\$ train\.py": "trust=true is typed where it is known",
    r"model\.(family|[ti]2v_(high|low|shift|boundary))\b": "families have experts",
    r"stage\.(expert|(high|low)_steps)\b|optimizer\.(high|low)_(lr|extended)\b": "experts learn one after the other",
    r"preview\.num_frames\b": "previews may be shorter",
    r"(scale|weights)\.\w+_(high|low)_noise\b": "experts have scales of their own",
    r"metadata\.(digest|beside)$|state\.json:(sha256|digest)$": "encodings and states of checkpoints carry digests",
    r"model\.(base(_revision)?|tuned|motion_adapter|domain_(adapter|scale)|sparse_control)\b": "families lie in more places",
    r"^words/printed\.txt:": "commands, models and settings were added",
    r"^layouts/printed\.txt:": "what another tool's file is for is not guessed",
    r"^plans/printed\.txt:": "cards have their makers' figures",
    r"^evaluate/": "x264 writes the same frames in more than one way, and measures are of what it wrote",
}
"""Differences on purpose: a regular expression over the facts that may differ, and the reason in a few words."""

CLOCK = re.compile(
    r"seconds|_per_s\b|_s\b|peak_|sitting|hardware|(rows\.csv|study\.html|pareto\.png|\.lock|rank-\d+\.log):"
)
"""Facts that no two runs share: time and memory. They must be there on both sides, with any value."""
CODEC = 4.0
"""Mean difference of two frames, in levels of 255: x264 writes the same frames in more than one way (2.1 apart)."""
MEASURED = re.compile(
    r"\d+(\.\d+)?(?= ?(s|ms|min|GiB|MiB|samples/s)\b)|^(text|keyframe|condition|denoise|decode): [\d.]+"
)
"""The same inside of a printed line."""

SMALL = "model.height=32 model.width=48 model.num_frames=9"
FOOTAGE = "data=folder data.root={home}/footage data.prepared={now}/prepared data.trigger=nwr"
TRAINED = (
    f"{SMALL} {FOOTAGE} stage.steps=20 checkpoint.every_steps=10 validation.every_steps=10 validation.samples=2 "
    "logger=csv logger.every_steps=1 cache={now}/cache out={now}/run"
)
DRAWN = f"{SMALL} sampler.steps=2 cache={{now}}/cache out={{now}}/run"
CLIPS = ("train/919-room", "train/920-street", "train/922-room", "heldout/954-room", "heldout/956-street")
ONE_THREAD = dict.fromkeys(("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS", "NUMEXPR_NUM_THREADS"), "1")


@dataclass(frozen=True)
class Side:
    """One of the two checkouts, by its name ``old`` or ``new``. ``home`` holds the products of both."""

    name: str
    checkout: Path
    python: str
    home: Path

    @property
    def now(self) -> Path:
        """Where the check at hand is done."""
        return self.home / "now"

    def old(self, check: str) -> Path:
        """What OLD made in an earlier check."""
        return self.home / "old" / check

    def start(self, command: str) -> subprocess.CompletedProcess[str]:
        """Run Python in the checkout; the command may name the places ``{home}``, ``{old}`` and ``{now}``."""
        own = {
            "PYTHONPATH": str(self.checkout),
            "HF_HUB_OFFLINE": "1",
            "CUDA_VISIBLE_DEVICES": "",
            "PYTHONHASHSEED": "0",
            "XDG_STATE_HOME": str(self.home / "state"),
        }
        places = {"home": self.home, "old": self.home / "old", "now": self.now}
        words = [self.python, *(word.format(**places) for word in shlex.split(command))]
        surroundings = os.environ | ONE_THREAD | own
        return subprocess.run(words, cwd=self.checkout, env=surroundings, capture_output=True, text=True)

    def note(self, text: str) -> None:
        """Keep a text beside the products."""
        self.now.mkdir(parents=True, exist_ok=True)
        with (self.now / "printed.txt").open("a") as file:
            file.write(text.replace(str(self.checkout), "<checkout>") + "\n")

    def call(self, command: str, code: int = 0) -> None:
        """Run a command and keep what it printed; another exit code than ``code`` ends the check."""
        done = self.start(command)
        refusal = done.stderr if code == 2 else ""  # else there are progress bars in it
        self.note(f"$ {command}\n{done.stdout}\n{refusal}\nexit code {done.returncode}")
        if done.returncode != code:
            raise RuntimeError(f"{command} ended with {done.returncode}: {done.stderr.strip()[-1500:]}")


# -- what is done ------------------------------------------------------------------------------------------------------


def words(side: Side) -> None:
    """Help, composed settings, and refusals with their exit codes."""
    for program in ("train.py", "infer.py", "-m cinelora.prepare", "-m cinelora.evaluate", "-m cinelora.study"):
        side.call(f"{program} --help")
    side.call("train.py stage=style data=noir recipe=paper --show")
    side.call("train.py stage=motion data=folder data.root=/x memory=swap strategy=zero2 --show")
    side.call("infer.py 'prompt=a, b: [c]' model=wan21_14b_480p weights.style=0.5 --show")
    for wrong in ("stage.step=3", "stage.steps=many", "lora.targets=all", "memory=little", "resume=/nowhere"):
        side.call(f"train.py stage=style data=noir {wrong}", code=2)
    for wrong in ("prompt=x num_frames=8", "prompt=x ckpt=/nowhere", "prompts=/nowhere", ""):
        side.call(f"infer.py {wrong}", code=2)


def plans(side: Side) -> None:
    """Memory, time and partition, here and on other GPUs."""
    given = "data=noir model.weights=random plan=true"
    side.call(f"train.py stage=motion model=wan21_14b_720p gpus=4 strategy=zero3 {given}")
    side.call(f"train.py stage=style model=wan21_1_3b {given}")
    side.call("infer.py model=wan21_14b_720p model.weights=random prompt=x plan=true")
    side.call("infer.py model=wan21_1_3b model.weights=random mode=t2v prompt=x gpus=2 plan=true")


def prepare(side: Side) -> None:
    """Surveys, verdicts, the manifest and its pages; verdicts by hand are heeded."""
    by_hand = {"verdicts": {"train/919-room.mp4@0-49": "reject", "train/920-street.mp4@0-49": "keep"}}
    put_json(side.now / "prepared/overrides.json", by_hand)
    side.call(f"-m cinelora.prepare {FOOTAGE} {SMALL} num_frames=9 workers=0")


def style(side: Side) -> None:
    """Stage 1 from nothing, with the best adapter kept."""
    side.call(f"train.py stage=style {TRAINED} stage.batch_size=2 checkpoint.best=heldout/loss")


def motion(side: Side) -> None:
    """Stage 2 above OLD's style adapter, from OLD's surveys, with EMA, a schedule and a preview."""
    shutil.copytree(side.old("prepare") / "prepared", side.now / "prepared")
    learnt = "stage.num_frames=9 stage.accumulation=2 ema_decay=0.9 optimizer.warmup_steps=2 optimizer.schedule=cosine"
    shown = "preview.every_steps=20 preview.sampler_steps=2 metrics=temporal"
    side.call(f"train.py stage=motion adapter={{old}}/style/run {TRAINED} {learnt} {shown}")


def resume(side: Side) -> None:
    """A motion run that OLD began and that ends after step 10 is taken to its end, out of OLD's cache alone."""
    shutil.copytree(side.old("motion"), side.now)
    run = side.now / "run"
    for left in (run / "checkpoints/step-00000020", run / "previews"):
        shutil.rmtree(left)
    for left in (run / "summary.json", run / "motion.safetensors", run / "README.md", side.now / "printed.txt"):
        left.unlink()
    (run / "checkpoints/last").write_text("step-00000010")
    there = set(side.now.glob("cache/*/*/*"))
    # an OLD of before trust= has noted nowhere that the run is one's own
    trusted = " trust=true" if "trust " in side.start("train.py --help").stdout else ""
    side.call(f"train.py resume={{now}}/run{trusted}")
    side.note(f"encoded beside the old cache: {sorted(path.name for path in {*side.now.glob('cache/*/*/*')} - there)}")


def clip(side: Side) -> None:
    """A scene with both of OLD's adapters, and without them."""
    given = "compare=true seed=0 weights.motion=0.5 weights.keyframe=0.8"
    side.call(f"infer.py 'prompt=a man waits in the rain' ckpt={{old}}/motion/run {DRAWN} {given}")


ASKED = f"prompts={{home}}/prompts.txt ckpt={{old}}/motion/run {DRAWN}"


def pass_for_begun(side: Side, command: str) -> None:
    """Lay the settings of a command into its run directory, which is then no stranger's although something lies there."""
    (side.now / "run/config.yaml").write_text(side.start(f"{command} --show").stdout)


def begun(side: Side) -> None:
    """A run of three prompts that OLD could not end: one clip is whole, one a draft of latents, one is missing.

    A folder in the place of the second clip is what ends it.
    """
    (side.home / "prompts.txt").write_text("a man waits\na car drives to the left\na room at night\n")
    run = side.now / "run"
    (run / "0001/clip.mp4").mkdir(parents=True)
    pass_for_begun(side, f"infer.py {ASKED}")
    side.call(f"infer.py {ASKED}", code=1)
    shutil.rmtree(run / "0002")
    (run / "0001/clip.mp4").rmdir()


def prompts(side: Side) -> None:
    """NEW goes on with it: it decodes the draft, makes the missing clip, and leaves the whole one alone."""
    shutil.copytree(side.old("begun"), side.now)
    (side.now / "printed.txt").unlink()
    dates = {path: path.stat().st_mtime_ns for path in (side.now / "run/0000").iterdir()}
    side.call(f"infer.py {ASKED}")
    side.note(f"touched of the whole clip: {[p.name for p, date in dates.items() if p.stat().st_mtime_ns != date]}")


def layouts(side: Side) -> None:
    """OLD's style adapter in the layouts of other tools is read to the same factors, and one of them draws a clip."""
    ours = side.old("style") / "run/style.safetensors"
    side.now.mkdir()
    tensors, _ = read_tensors(ours)
    files = [side.now / f"{tool}.safetensors" for tool in named(next(iter(tensors)))]
    for file in files:
        metadata = {"lora_adapter_metadata": json.dumps(PEFT)} if file.stem == "diffusers" else {}
        write_tensors(file, {named(name)[file.stem]: value for name, value in tensors.items()}, metadata)
    side.call(shlex.join(["-c", READ, "{now}", str(ours), *map(str, files)]))
    given = f"ckpt={{now}}/musubi.safetensors model=tiny mode=t2v sampler=euler negative_prompt=rain seed=3 {DRAWN}"
    side.call(f"infer.py 'prompt=a man waits' {given}")


PROJECTIONS = {"q": "attn2.to_q", "k": "attn2.to_k", "v": "attn2.to_v", "o": "attn2.to_out.0"}
PEFT = {"transformer.r": 8, "transformer.lora_alpha": 16.0, "transformer.target_modules": list(PROJECTIONS.values())}


def named(name: str) -> dict[str, str]:
    """What other tools call what this project calls as ComfyUI does, ``diffusion_model.blocks.0.cross_attn.q.lora_A.weight``."""
    _, _, block, _, projection, factor, _ = name.split(".")
    return {
        "comfy": name,
        "musubi": f"lora_unet_blocks_{block}_cross_attn_{projection}.{factor.replace('A', 'down').replace('B', 'up')}.weight",
        "diffsynth": f"blocks.{block}.cross_attn.{projection}.{factor}.default.weight",
        "diffusers": f"transformer.blocks.{block}.{PROJECTIONS[projection]}.{factor}.weight",
    }


READ = """
import sys; from pathlib import Path; from safetensors.torch import save_file
try: from cinelora import read_adapter
except ImportError: from cinelora.models.adapter_file import read_adapter
for file in map(Path, sys.argv[2:]):
    found = read_adapter(file); print(file.stem, found.spec.rank, found.spec.alpha, found.spec.targets, found.transformer)
    save_file(dict((k, v.contiguous()) for k, v in found.state.items()), Path(sys.argv[1], "read-" + file.name))
"""


def study(side: Side) -> None:
    """Rows of a baseline and of fewer steps, with their latents."""
    given = f"ckpt={{old}}/motion/run {DRAWN} steps=[1] repetitions=1"
    side.call(f"-m cinelora.study 'prompt=a man waits' {given}")


def evaluate(side: Side) -> None:
    """A held-out caption by the base and by each stage, with numbers and pages; the blind test has a secret of ours."""
    shutil.copytree(side.old("prepare") / "prepared", side.now / "prepared")
    put_json(side.now / "run/pairs-key.json", {"format": "cinelora-pairs/1", "page": "", "secret": "00", "pairs": []})
    command = f"-m cinelora.evaluate ckpt={{old}}/motion/run {FOOTAGE} {DRAWN} clips=1"
    pass_for_begun(side, command)
    side.call(command)


CHECKS = (words, plans, prepare, style, motion, resume, clip, begun, prompts, layouts, study, evaluate)
NEEDS = {"motion": "prepare style", "resume": "motion", "clip": "motion", "begun": "motion", "prompts": "begun"}
NEEDS |= {"layouts": "style", "study": "motion", "evaluate": "motion prepare"}
"""The checks of OLD that must have been done before."""


# -- what came out -----------------------------------------------------------------------------------------------------

Tensors = dict[str, tuple[str, list[int], bytes]]


def put_json(path: Path, value: Any) -> None:
    """Write a JSON file, and the folders above it."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(value))


def read_tensors(path: Path) -> tuple[Tensors, dict[str, str]]:
    """A safetensors file by its own description: dtype, shape and bytes of each tensor, and the metadata."""
    data = path.read_bytes()
    start = 8 + int.from_bytes(data[:8], "little")
    header = json.loads(data[8:start])
    metadata = header.pop("__metadata__", {})
    places = {name: (one["dtype"], one["shape"], *one["data_offsets"]) for name, one in header.items()}
    return {name: (kind, shape, data[start + a : start + b]) for name, (kind, shape, a, b) in places.items()}, metadata


def write_tensors(path: Path, tensors: Tensors, metadata: dict[str, str]) -> None:
    """Write what ``read_tensors`` reads."""
    header: dict[str, Any] = {"__metadata__": {"made": "by the witness", **metadata}}
    body = b""
    for name, (kind, shape, data) in tensors.items():
        header[name] = {"dtype": kind, "shape": shape, "data_offsets": [len(body), len(body) + len(data)]}
        body += data
    text = json.dumps(header).encode()
    path.write_bytes(len(text).to_bytes(8, "little") + text + body)


def flat(value: Any, key: str = "") -> Iterator[tuple[str, Any]]:
    """The leaves of nested lists and dictionaries, each with its way there; JSON inside of a text is opened too."""
    if isinstance(value, str) and re.match(r'\{"|\[\{', value):
        value = json.loads(value)
    if isinstance(value, dict) and value:
        for name, one in value.items():
            yield from flat(one, f"{key}.{name}" if key else name)
    elif isinstance(value, list) and value:
        for number, one in enumerate(value):
            yield from flat(one, f"{key}[{number}]")
    else:
        yield key, value


def digest(data: bytes) -> str:
    """A short name of bytes."""
    return hashlib.sha256(data).hexdigest()[:16]


def of_tensors(path: Path) -> Iterator[tuple[str, Any]]:
    """Every tensor and every entry of the header of a safetensors file."""
    tensors, metadata = read_tensors(path)
    yield from flat(metadata, "metadata")
    yield from ((name, f"{kind} {shape} {digest(data)}") for name, (kind, shape, data) in tensors.items())


def of_video(path: Path) -> Iterator[tuple[str, Any]]:
    """Every decoded frame. Exact pixels are in the contact sheets and in the latents of a study."""
    with av.open(str(path), format="mp4") as file:
        for number, frame in enumerate(file.decode(video=0)):
            yield f"frame {number}", frame.to_ndarray(format="rgb24")


def of_lines(path: Path) -> Iterator[tuple[str, Any]]:
    """Every line of a text with how often it is there, whatever its place."""
    lines = (MEASURED.sub("#", line.strip()) for line in path.read_text().splitlines())
    yield from Counter(filter(None, lines)).items()


def of_bytes(path: Path) -> Iterator[tuple[str, Any]]:
    """A file of a kind that is not taken apart."""
    yield "bytes", digest(path.read_bytes())


READERS: dict[str, Callable[[Path], Iterator[tuple[str, Any]]]] = {
    **dict.fromkeys((".safetensors", ".latents"), of_tensors),
    **dict.fromkeys((".txt", ".md", ".html"), of_lines),
    ".mp4": of_video,
    ".png": lambda path: iter([("pixels", digest(Image.open(path, formats=["PNG"]).tobytes()))]),
    ".json": lambda path: flat(json.loads(path.read_text())),
    ".jsonl": lambda path: flat([json.loads(line) for line in path.read_text().splitlines()]),
    ".yaml": lambda path: flat(yaml.safe_load(path.read_text())),
    ".csv": lambda path: flat(list(csv.DictReader(path.read_text().splitlines()))),
}


def facts(folder: Path) -> dict[str, Any]:
    """All there is in a folder: ``<check>/<file>:<what of it>`` -> its value, the clock's without one."""
    found: dict[str, Any] = {}
    for path in sorted(path for path in folder.rglob("*") if path.is_file()):
        name = f"{folder.name}/{path.relative_to(folder)}:"
        reader = READERS.get(path.suffix, of_bytes)
        for key, value in [("", None)] if CLOCK.search(name) else reader(path):
            found[name + key] = "any" if CLOCK.search(name + key) else value
    return found


def differences(old: dict[str, Any], new: dict[str, Any]) -> list[str]:
    """Where the facts differ and nobody wanted them to, in lines."""
    for pattern, name in RENAMED.items():
        old = {re.sub(pattern, name, key): value for key, value in old.items()}
    keys = [key for key in {**old, **new} if not any(re.search(pattern, key) for pattern in ALLOWED)]
    both = [(key, old.get(key, "has none"), new.get(key, "has none")) for key in keys]
    return [f"{key[:160]}: old {str(a)[:80]!r}, new {str(b)[:80]!r}" for key, a, b in both if not alike(a, b)]


def alike(one: Any, other: Any) -> bool:
    """Whether two facts agree: frames to what the codec adds, all others exactly."""
    if isinstance(one, np.ndarray) and isinstance(other, np.ndarray):
        return one.shape == other.shape and bool(np.abs(one.astype(int) - other).mean() < CODEC)
    return type(one) is type(other) and bool(one == other)


# -- the comparison ----------------------------------------------------------------------------------------------------


def made(side: Side, check: Callable[[Side], None]) -> Path:
    """Where the products of a check are, after it was done; OLD's are kept from the last time."""
    folder = side.home / side.name / check.__name__
    if side.name == "new" or not folder.exists():
        for leftover in (side.now, folder):
            shutil.rmtree(leftover, ignore_errors=True)
        check(side)
        folder.parent.mkdir(parents=True, exist_ok=True)
        side.now.rename(folder)
    return folder


def same(old: Side, new: Side, check: Callable[[Side], None]) -> bool:
    """Do a check on both sides, and print what came out."""
    start, name = time.perf_counter(), check.__name__
    try:
        found = differences(facts(made(old, check)), facts(made(new, check)))
    except (RuntimeError, OSError) as error:
        found = [str(error)]
    print(f"{name:9} {'DIFFERS' if found else 'same':8} {time.perf_counter() - start:6.1f} s", flush=True)
    print("".join(f"  {line}\n" for line in found[:8]), end="")
    if len(found) > 8:
        print(f"  and {len(found) - 8} more; all that was written is in {old.home}")
    return not found


def with_needs(names: list[str]) -> set[str]:
    """The names, with what they need of OLD."""
    return {one for name in names for one in (name, *with_needs(NEEDS.get(name, "").split()))}


def side_of(name: str, checkout: Path, python: str, home: Path) -> Side:
    """A checkout whose own package is the one that is imported; anything else ends the comparison."""
    side = Side(name, checkout.resolve(), python, home)
    found = side.start("-c 'import cinelora; print(cinelora.__file__)'").stdout.strip()
    if not found.startswith(f"{side.checkout}{os.sep}"):
        sys.exit(f"in {side.checkout} Python imports {found or 'no cinelora at all'}: give another --python")
    return side


def home_of(work: Path, old: Path) -> Path:
    """The folder of OLD's commit, with the footage of all checks; what was made with changes beside it is not kept."""
    git = ["git", "-C", str(old), "describe", "--always", "--exclude=*", "--dirty"]
    home = work.resolve() / subprocess.run(git, capture_output=True, text=True, check=True).stdout.strip()
    if home.name.endswith("-dirty"):
        shutil.rmtree(home, ignore_errors=True)
    for file in [f"{clip}{suffix}" for clip in CLIPS for suffix in (".mp4", ".txt")]:
        if not (home / "footage" / file).exists():  # its date stands in what is made of it
            (home / "footage" / file).parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(old / "data/noir" / file, home / "footage" / file)
    return home


def main() -> int:
    """Compare as the command line says; 1 where anything differs."""
    names = [check.__name__ for check in CHECKS]
    parser = argparse.ArgumentParser(description="compare two checkouts, bit for bit")
    parser.add_argument("old", type=Path)
    parser.add_argument("new", type=Path)
    parser.add_argument("--only", nargs="+", choices=names, default=names, help="these checks alone")
    parser.add_argument(
        "--work", type=Path, default=Path(tempfile.gettempdir(), "witness"), help="where products are kept"
    )
    parser.add_argument("--python", default=sys.executable, help="the interpreter for both")
    given = parser.parse_args()
    home = home_of(given.work, given.old)
    old, new = (side_of(name, getattr(given, name), given.python, home) for name in ("old", "new"))
    alone = (home / "lock").open("w")
    fcntl.flock(alone, fcntl.LOCK_EX)  # another comparison with this OLD works in the same folder
    needed, agree = with_needs(given.only), True
    for check in CHECKS:
        if check.__name__ in given.only and check is not begun:  # which is a preparation of OLD's for `prompts`
            agree &= same(old, new, check)
        elif check.__name__ in needed:
            made(old, check)
    return int(not agree)


if __name__ == "__main__":
    sys.exit(main())
