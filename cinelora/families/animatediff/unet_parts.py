"""Where the parts of Stable Diffusion and its motion modules lie on disk, and whether they fit each other. No torch.

Enters: settings. Leaves: files, or one sentence that says what is missing or does not fit. Headers and
``config.json`` are read, and never a weight.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from cinelora.config.schema import ModelConfig
from cinelora.errors import CineloraError, ConfigError, ModelError
from cinelora.families import family_of
from cinelora.families.family import Expert, Part
from cinelora.io.hub import EMBEDDED
from cinelora.io.plain_data import read_json
from cinelora.io.tensor_files import read_header

FOLDERS = {Part.TRANSFORMER: "unet"}
"""What diffusers calls the folders of parts, where not as the part."""
MOTION_WEIGHTS = (".safetensors", ".ckpt")
_SD15 = (320, 640, 1280, 1280)
_SDXL = (320, 640, 1280)


class UNetParts:
    """See ``parts.Parts``."""

    @staticmethod
    def source_of(model: ModelConfig, kind: str, part: Part, expert: str = "") -> str | None:
        """Where a part comes from: its own setting, or the base; None where its values are drawn."""
        own: str | None = getattr(model, part, None)
        return own or (None if model.weights == "random" else model.source(kind))

    @staticmethod
    def check(model: ModelConfig, kind: str, wanted: Sequence[Part], experts: Sequence[Expert]) -> list[str]:
        """Look at the parts of the base and at the motion modules that lie on this machine."""
        if model.weights == "random":
            return []
        for part in wanted:
            source = UNetParts.source_of(model, kind, part)
            if source is not None and Path(source).exists():
                _checked(
                    f"model.{part if getattr(model, part, None) else model.key_of(kind)}={source}", part, Path(source)
                )
        beside = family_of(model).network(kind).beside
        for key in ("tuned", "domain_adapter"):
            named: str | None = getattr(model, key) if key in beside else None
            if named is not None and Path(named).is_dir():
                raise ConfigError(f"model.{key}={named} is no file: give one .safetensors or .ckpt")
        if model.sparse_control and Path(model.sparse_control).exists():
            _check_folder_of("sparse_control", Path(model.sparse_control))
        levels = _levels_of_base(model)
        if "motion_adapter" in beside and model.motion_adapter:
            _check_motion(model, levels)
        return _licence_line(model)

    @staticmethod
    def check_length(model: ModelConfig, kind: str, num_frames: int, trains: bool) -> list[str]:
        """Motion modules take as many frames as their config says; longer clips attend in windows."""
        longest = longest_clip(model) if "motion_adapter" in family_of(model).network(kind).beside else None
        if longest is None or num_frames <= longest:
            return []
        if trains:
            raise ConfigError(f"stage.num_frames={num_frames}: these motion modules take {longest} frames at most")
        taken = f"{num_frames} frames are more than the {longest} that these motion modules take"
        return [f"{taken}: they attend in windows of {family_of(model).window}"]


def part_files(part: Part, source: Path) -> tuple[Path, ...]:
    """The files of a part in diffusers' folder of a whole base, or in its own. Raises ``ModelError`` for what is missing."""
    name = FOLDERS.get(part, str(part))
    folder = source / name if (source / name).is_dir() else source
    files = tuple(sorted(path for path in folder.glob("*") if path.suffix in (".json", ".safetensors", ".txt")))
    lacks = _lacking(part, folder, files)
    if lacks:
        where = f"no {lacks} in {name}/" if folder != source else f"no folder {name}/"
        raise ModelError(f"{where}{_pickles(folder)}")
    return files


def _lacking(part: Part, folder: Path, files: tuple[Path, ...]) -> str:
    if part is Part.TOKENIZER:
        there = (folder / "vocab.json").is_file() or (folder / "tokenizer.json").is_file()
        return "" if there else "vocab.json or tokenizer.json"
    if not (folder / "config.json").is_file():
        return "config.json"
    return "" if any(path.suffix == ".safetensors" for path in files) else ".safetensors file"


def _pickles(folder: Path) -> str:
    found = sorted(path.name for path in folder.glob("*.bin"))
    return f" but {found[0]}, a pickle, which is never loaded" if found else ""


def base_folder(source: Path) -> Path:
    """The folder of a base in diffusers' layout. Raises ``ModelError`` for a single file, which is named elsewhere."""
    if source.is_file():
        raise ModelError(f"{source.name} is one file: leave model.base as it is, and give the file as model.tuned=")
    return source


def _checked(setting: str, part: Part, source: Path) -> None:
    """Refuse a part that is not whole, or a network that is not one of text-to-image."""
    try:
        files = part_files(part, base_folder(source))
        if part is Part.TRANSFORMER:
            refuse_other_unet(read_json(files[0].parent / "config.json", dict[str, Any]))
        for path in files:
            if path.suffix == ".safetensors":
                read_header(path)
    except CineloraError as error:
        raise ConfigError(f"{setting}: {part}: {error}") from error


def refuse_other_unet(config: dict[str, Any]) -> None:
    """Raise ``ModelError`` for a network that takes more than noisy latents, such as one for inpainting, by its settings."""
    channels = config.get("in_channels", 4)
    if channels != 4:
        what = "an inpainting network" if channels == 9 else "a network of another sort"
        raise ModelError(
            f"the base has {channels} input channels and is {what}: take one that makes pictures from text"
        )


def _levels_of_base(model: ModelConfig) -> tuple[int, ...] | None:
    """Channels of each level of the base, as its config says; SD1.5's where that is on the hub, None where it is embedded."""
    if model.base in EMBEDDED:
        return None
    config = Path(model.base or "") / "unet" / "config.json"
    return tuple(read_json(config, dict[str, Any]).get("block_out_channels", ())) if config.is_file() else _SD15


def _check_motion(model: ModelConfig, levels: tuple[int, ...] | None) -> None:
    """Refuse motion modules that were made for another base, or for fewer frames than a clip is to have."""
    source = Path(model.motion_adapter or "")
    if not source.exists():
        return
    config = source / "config.json"
    if source.is_file():
        if source.suffix not in MOTION_WEIGHTS:
            raise ConfigError(f"model.motion_adapter={source} is neither a folder nor {' or '.join(MOTION_WEIGHTS)}")
        return
    _check_folder_of("motion_adapter", source)
    theirs = tuple(read_json(config, dict[str, Any]).get("block_out_channels", ()))
    if levels is not None and (reason := other_base(theirs, levels)):
        raise ConfigError(f"model.motion_adapter={source}: {reason}")


def _check_folder_of(key: str, folder: Path) -> None:
    """Refuse a folder that holds no network in diffusers' layout."""
    if not (folder / "config.json").is_file() or not any(folder.glob("*.safetensors")):
        raise ConfigError(f"model.{key}={folder}: no config.json or no .safetensors{_pickles(folder)}")


def other_base(theirs: tuple[int, ...], ours: tuple[int, ...]) -> str:
    """Why motion modules of such levels do not fit a base of ours; "" where they do."""
    if theirs == ours:
        return ""
    sort = "SDXL" if theirs == _SDXL else f"a base of {len(theirs)} levels, {' '.join(map(str, theirs))}"
    return (
        f"the motion adapter was made for {sort} and does not fit this base with {len(ours)} levels,"
        f" {' '.join(map(str, ours))}: take one for it"
    )


def longest_clip(model: ModelConfig) -> int | None:
    """Frames that the motion modules take at most, as their config says; None where that is not on this machine.

    Embedded ones take a window of their family.
    """
    if model.motion_adapter in EMBEDDED:
        return family_of(model).window
    config = Path(model.motion_adapter or "") / "config.json"
    return read_json(config, dict[str, Any]).get("motion_max_seq_length") if config.is_file() else None


def _licence_line(model: ModelConfig) -> list[str]:
    licence = family_of(model).licence
    return [f"LICENCE: {licence}"] if licence else []
