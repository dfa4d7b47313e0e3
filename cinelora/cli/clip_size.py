"""Which size the clips of a command have: that of ``image=``, of what the adapters learnt from, or the model's own.

Enters: composed settings, and what was typed. Leaves: the same settings with the size in ``model.height`` and ``model.width``, so
that plans, checks, ranks and hashes all see the one, and a line that says where it comes from. A picture is read here, before
anything slow begins.
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from cinelora.adapters.run_directory import learnt_size
from cinelora.cli.parse import Command
from cinelora.cli.programs import Config
from cinelora.cli.run_dir import begun_in
from cinelora.config.schema import EvaluateConfig, InferConfig, PrepareConfig, StudyConfig, TrainConfig
from cinelora.config.sentences import sentence
from cinelora.config.store import anchored
from cinelora.families import family_of
from cinelora.footage.buckets import Size, clip_size, kept
from cinelora.io.hub import resolve


def sized(config: Config, command: Command) -> tuple[Config, list[str]]:
    """The settings with the size that their clips have, and a line that says whence, if there is a word to say.

    What was typed stands above all; then what an older run of this very request was begun with; then the picture, and what most
    samples of ``ckpt`` had. Raises ``CineloraError`` for a picture or adapter that cannot be read.
    """
    if isinstance(config, TrainConfig | PrepareConfig) or _draws_nothing(config):
        return config, []
    model = config.model
    own, typed = (model.height, model.width), {"model.height", "model.width"} & command.given.keys()
    picture = _picture(config)
    size = own if typed else _size(config, picture, own)
    # Version 0.1 gave every clip the model's own size. A run that it began keeps that size, or half of its clips would differ.
    place = begun_in(anchored(config)) if size != own else None
    if place:
        return config, [sentence("sizes", "begun", place=place, height=own[0], width=own[1], size=size)]
    words = {"c": config, "height": size[0], "width": size[1]}
    found = replace(config, model=replace(model, height=size[0], width=size[1])) if size != own else config
    if picture:
        crop = _crop(picture, size, getattr(config, "fit", "cover"))
        return found, [sentence("sizes", "typed" if typed else "image", **words, own=picture, crop=crop)]
    return found, [sentence("sizes", "learnt", **words)] if size != own else []


def _draws_nothing(config: InferConfig | EvaluateConfig | StudyConfig) -> bool:
    return any(getattr(config, name, None) for name in ("report", "answers", "merge", "models"))


def _size(config: InferConfig | EvaluateConfig | StudyConfig, picture: Size | None, own: Size) -> Size:
    """The size in the shape of the picture, else that was learnt from, with the model's ``own`` number of pixels."""
    learnt = None if picture or not config.ckpt else learnt_size(resolve(config.ckpt))
    shape = picture or learnt
    if shape is None:
        return own
    found = clip_size(shape[1] / shape[0], own, family_of(config.model).geometry)
    # A size that was trained on is taken as it is: the model knows it. Half and quarter sizes, of small footage, are enlarged.
    pixels = own[0] * own[1]
    return learnt if learnt and found != own and pixels / 2 < learnt[0] * learnt[1] <= pixels else found


def _picture(config: InferConfig | EvaluateConfig | StudyConfig) -> Size | None:
    """Height and width of ``image=``; None where there is none, or no such file, which the checks refuse."""
    image = getattr(config, "image", None)
    if image is None or not Path(image).is_file():
        return None
    from cinelora.footage.keyframe_image import read_keyframe

    height, width, _ = read_keyframe(Path(image)).shape
    return height, width


def _crop(picture: Size, size: Size, fit: str) -> str:
    """What becomes of a picture that is shown at ``size``."""
    part = 1 - kept(picture[1] / picture[0], size)
    sides = "left and right" if picture[1] / picture[0] > size[1] / size[0] else "top and bottom"
    if part < 0.0005:
        return "all of it is seen"
    if fit == "contain":
        other = "top and bottom" if sides == "left and right" else "left and right"
        return f"fit=contain shows all of it, with {part:.1%} of the clip black at {other}"
    return f"fit=cover cuts {part:.1%} of it away, at {sides}; fit=contain shows all of it"
