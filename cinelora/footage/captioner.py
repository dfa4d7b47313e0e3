"""Captions by a vision-language model in a local folder: frames of shots enter, a text for each goes into the prepared folder.

The model is one that transformers has code for; code in the folder, and weights other than safetensors, are refused. It answers
without chance. What it wrote is kept with its name and the prompt's, so that a re-run asks only of what is new.
"""

from __future__ import annotations

import hashlib
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property, partial
from itertools import groupby
from pathlib import Path
from typing import Any, NotRequired, TypedDict

from PIL import Image

from cinelora.config.schema import DataConfig
from cinelora.errors import FileError, FootageError
from cinelora.footage.build_dataset import Judged, Prepared, handling_of
from cinelora.footage.captions import to_write, write_lines
from cinelora.footage.scan_folder import open_clip
from cinelora.footage.video_reader import PLAIN, Handling, UnreadableClip
from cinelora.io.live_bar import LiveBar
from cinelora.io.plain_data import MOST_BYTES, opened, read_bytes, read_json
from cinelora.io.terminal import visible

FRAMES = 4
"""Pictures of a shot that a model is shown, at even distances."""
ONE_PICTURE = ("llava", "paligemma", "blip-2", "instructblip", "git")
"""Models (``model_type``) that were taught with one picture: they see the middle frame."""
SIDE = 512
"""Pixels of a frame's longer side at most; models make it smaller, or cut it in pieces."""
TOKENS = 128
"""Tokens of a caption, at most."""
SHOTS_AT_ONCE = 4
SAVE_EVERY_S = 20.0


def caption_missing(prepared: Prepared, shots: Sequence[Judged], data: DataConfig) -> None:
    """Caption those of ``shots`` that have no caption yet, by the model and the prompt that ``data`` names.

    Raises ``FootageError`` where the folder holds no model that can be run.
    """
    model = Captioner(Path(str(data.captioner)), data.captioner_prompt)
    by_name = {shot.id: shot for shot in shots}
    paths = {name: shot.path for name, shot in by_name.items()}
    todo = to_write(prepared.root, paths, prepared.folder, model.name, data.follow_links)
    show = partial(frames_of, root=prepared.root, count=model.num_frames, handling=handling_of(data))
    written: dict[str, str] = {}
    saved = time.monotonic()
    # Captions cost a second each on a GPU, so what was written must outlive a kill: it is saved now and then, and also when
    # an error or Ctrl-C ends the loop. The next run asks only of the shots that are still without.
    bar = LiveBar(total=len(todo), desc=f"captions by {model.folder.name}", unit="shot", disable=None if todo else True)
    try:
        with bar:
            for some in batches([by_name[name] for name in todo], model.num_frames):
                written |= model.captions(some, show)
                bar.update(len(some))
                if time.monotonic() - saved > SAVE_EVERY_S:
                    write_lines(prepared.folder, written, model.name)
                    saved = time.monotonic()
    finally:
        if written:
            write_lines(prepared.folder, written, model.name)


def batches(shots: Sequence[Judged], num_frames: int) -> Iterator[list[Judged]]:
    """Shots in small groups that are shown with equally many pictures: a still is only one."""
    shown = partial(num_shown, count=num_frames)
    for _, group in groupby(sorted(shots, key=shown), key=shown):
        alike = list(group)
        for first in range(0, len(alike), SHOTS_AT_ONCE):
            yield alike[first : first + SHOTS_AT_ONCE]


@dataclass
class Captioner:
    """The model in ``folder``, loaded when it is first asked. Raises ``FootageError`` where it cannot be run."""

    folder: Path
    prompt: str

    def __post_init__(self) -> None:
        refuse_folder(self.folder)

    @property
    def name(self) -> str:
        """What a caption is marked with: the folder, what is in it, and the prompt, the latter as hashes."""
        digest = hashlib.sha256(read_bytes(self.folder / "config.json"))
        for path in sorted(self.folder.glob("*.safetensors")):
            with opened(path) as file:
                digest.update(f"{path.name}:{path.stat().st_size}".encode() + file.read(65536))
        asked = hashlib.sha256(self.prompt.encode()).hexdigest()
        return f"{self.folder.resolve().name}-{digest.hexdigest()[:8]}:{asked[:8]}"

    def captions(self, shots: Sequence[Judged], show: Callable[[Judged], Iterator[Image.Image]]) -> dict[str, str]:
        """A caption for each shot, by its name, but for those that cannot be read and those it has no word for."""
        pictures: dict[str, list[Image.Image]] = {}
        for shot in shots:
            try:
                pictures[shot.id] = list(show(shot))
            except UnreadableClip as error:
                LiveBar.write(visible(f"no caption for {shot.id}: {error.reason}"))
        said = self.answers(list(pictures.values())) if pictures else []
        return {name: text for name, text in zip(pictures, said, strict=True) if text}

    def answers(self, pictures: list[list[Image.Image]]) -> list[str]:
        """What the model answers to the prompt about each list of pictures, which are as many for each."""
        import torch

        processor, model = self._loaded
        content = [*[{"type": "image"}] * len(pictures[0]), {"type": "text", "text": self.prompt}]
        chat = [{"role": "user", "content": content}]
        text = processor.apply_chat_template(chat, add_generation_prompt=True, tokenize=False)
        inputs = processor(text=[text] * len(pictures), images=pictures, return_tensors="pt", padding=True)
        inputs = inputs.to(model.device, model.dtype)
        # Greedy, so that a run asked again writes the same caption. What comes back repeats the question first.
        with torch.inference_mode():
            tokens = model.generate(**inputs, max_new_tokens=TOKENS, do_sample=False, num_beams=1)
        answers = processor.batch_decode(tokens[:, inputs["input_ids"].shape[1] :], skip_special_tokens=True)
        return [" ".join(answer.split()) for answer in answers]

    @property
    def num_frames(self) -> int:
        """Pictures of a shot that it is shown."""
        return 1 if _read(self.folder / "config.json").get("model_type") in ONE_PICTURE else FRAMES

    @cached_property
    def _loaded(self) -> tuple[Any, Any]:
        """Processor and model, on the GPU if there is one."""
        import torch
        from transformers import AutoModelForImageTextToText, AutoProcessor

        gpu = torch.cuda.is_available()
        local = {"local_files_only": True}
        weights = {"dtype": "auto" if gpu else torch.float32, **local}
        try:
            processor: Any = AutoProcessor.from_pretrained(self.folder, trust_remote_code=False, **local)
            model: Any = AutoModelForImageTextToText.from_pretrained(
                self.folder, trust_remote_code=False, use_safetensors=True, **weights
            )
        except (OSError, ValueError, KeyError, TypeError, AttributeError, ImportError, RuntimeError) as error:
            line = str(error).strip().split("\n")[0]
            raise FootageError(f"data.captioner={self.folder}: transformers cannot load it ({line})") from error
        if not getattr(processor, "chat_template", None):
            raise FootageError(
                f"data.captioner={self.folder} has no chat template, so it cannot be asked; use an "
                "instruction-tuned model"
            )
        processor.tokenizer.padding_side = "left"  # what is generated follows what was asked
        if processor.tokenizer.pad_token is None:
            processor.tokenizer.pad_token = processor.tokenizer.eos_token
        return processor, model.to("cuda" if gpu else "cpu").eval()


def refuse_folder(folder: Path) -> None:
    """Raise ``FootageError`` where ``folder`` holds no model, or one that wants code of its own or unpickled weights."""
    if trouble := _trouble(folder):
        raise FootageError(f"data.captioner={folder} {trouble}")


def _trouble(folder: Path) -> str:
    if not (folder / "config.json").is_file():
        return "holds no model: want a folder with config.json, weights as safetensors and a processor"
    # A model may bring its code along, as files or as the name of a repository in `auto_map`. Neither is run: a folder
    # from elsewhere is data, whatever it holds.
    asks = [
        path.name for path in folder.glob("*.json") if path.stat().st_size <= MOST_BYTES and "auto_map" in _read(path)
    ]
    if code := [path.name for path in sorted(folder.rglob("*.py"))] or asks:
        return f"brings code of its own ({code[0]}), which is not run; take a model that transformers knows"
    if (folder / "adapter_config.json").exists():
        return "holds an adapter; merge it into its model"
    if not any(folder.glob("*.safetensors")):
        return "has no weights as safetensors; others are not read: convert them"
    return ""


class _Asked(TypedDict):
    """What is asked of a model's settings; there is more in them, such as lengths of 1e30."""

    auto_map: NotRequired[Any]
    model_type: NotRequired[Any]


def _read(path: Path) -> _Asked:
    try:
        return read_json(path, _Asked, measured=True)
    except FileError as error:
        raise FootageError(str(error)) from error


def num_shown(shot: Judged, count: int) -> int:
    """Pictures of a shot that are shown of ``count``: it may have fewer."""
    return min(count, shot.shot.end - shot.shot.start)


def frames_of(shot: Judged, root: Path, count: int, handling: Handling = PLAIN) -> Iterator[Image.Image]:
    """At most ``count`` frames at even distances in a shot, without bars, in square pixels. Raises ``UnreadableClip``."""
    start, length, count = shot.shot.start, shot.shot.end - shot.shot.start, num_shown(shot, count)
    reader = open_clip(root / shot.path, handling=handling)
    for frame_HWC in reader.frames([start + (2 * k + 1) * length // (2 * count) for k in range(count)]):
        picture = Image.fromarray(frame_HWC).crop(shot.box)
        width, height = round(picture.width * reader.header.pixel_aspect), picture.height
        scale = min(1.0, SIDE / max(width, height))
        yield picture.resize((max(1, round(width * scale)), max(1, round(height * scale))), Image.Resampling.BICUBIC)
