"""What lies on disk, and which part of a Wan2.1 or Wan2.2 it is: said before anything is loaded.

Enters: a path that the user named (a checkpoint directory in diffusers' or Wan's own layout, a part's folder, one
file). Leaves: the files of each part, or a sentence that says what is missing or what the thing really is. It reads
names, JSON and the headers of safetensors files, never a weight, and it needs no torch.
"""

from __future__ import annotations

import re
import zipfile
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple, NotRequired, TypedDict

from cinelora.config.schema import ModelConfig
from cinelora.config.shipped import choices, values
from cinelora.errors import CineloraError, FileError, ModelError
from cinelora.families import experts_of, family_of
from cinelora.families.family import HIGH, LOW, Expert, Family, Network, Part
from cinelora.families.wan.transformer_tensors import refuse_misfit
from cinelora.families.wan21 import WAN21
from cinelora.io.gguf_file import read_gguf
from cinelora.io.plain_data import quoted, read_json, short_key
from cinelora.io.tensor_files import HEADER_LIMIT, read_header

NAMES = read_json(Path(__file__).with_name("names.json"), dict[str, Any])
"""What the files, classes and tensors of checkpoints are called, by what is asked of them (``names.json``)."""
WAN_FILES: dict[str, list[str]] = NAMES["files"]
"""File names, less their ending, of the parts in Wan's own checkpoint directories."""
_ENDS = (".safetensors", ".pth")
WAN_TOKENIZER = Path("google", "umt5-xxl")
WAN_SHARDS = "diffusion_pytorch_model"
PREFIXES = ("model.diffusion_model.", "diffusion_model.")
"""What single-file checkpoints put before the names of a transformer's tensors."""
FP8 = {"F8_E4M3": "fp8 e4m3", "F8_E5M2": "fp8 e5m2"}
_FORM = re.compile(
    r"(?P<stem>.+?)(?:\.(?P<variant>bf16|fp16|fp32))?(?P<shard>-(?P<number>\d{5})-of-(?P<total>\d{5}))?"
    r"(?:\.(?P<late>bf16|fp16|fp32))?\.safetensors"
)
_VARIANTS = ("", "fp32", "bf16", "fp16")
"""Which of several precisions is taken, first to last; the one without a name is what the authors publish."""
_TOKENIZER_FILES = ("tokenizer.json", "spiece.model", "tokenizer_config.json")
EXPERT_FOLDERS = {HIGH: ("transformer", "high_noise_model"), LOW: ("transformer_2", "low_noise_model")}
"""Where each lies in a checkpoint of both: in diffusers' layout, and in that of Wan's authors."""
_OWN_EXPERTS = tuple(own for _, own in EXPERT_FOLDERS.values())


@dataclass(frozen=True)
class FoundPart:
    """A part as it lies on disk: ``weights`` hold tensors, ``config`` its shape where a file says it."""

    part: Part
    folder: Path
    weights: tuple[Path, ...] = ()
    config: Path | None = None
    variant: str = ""

    @property
    def files(self) -> tuple[Path, ...]:
        """Every file whose content decides what the part is."""
        if not self.weights:
            return tuple(sorted(path for path in self.folder.iterdir() if path.is_file()))
        return tuple(sorted({*self.weights, *([self.config] if self.config else [])}))


# -- where a part lies -------------------------------------------------------------------------------------------------


def locate(part: Part, source: Path, expert: str = "") -> FoundPart:
    """The files of ``part`` in a directory of any layout, or in the one file that ``source`` is.

    Of a transformer that is an ``expert``, ``source`` may hold both. Raises ``ModelError`` saying what is missing.
    """
    if expert and part is Part.TRANSFORMER:
        source = _expert_folder(source, expert)
    if source.is_file():
        return _single_file(part, source)
    if (source / part).is_dir():
        return _part_folder(part, source / part)
    if _is_wan_directory(source):
        return _wan_part(part, source)
    if _is_folder_of(part, source):
        return _part_folder(part, source)
    _refuse_gguf_in(source)
    raise ModelError(f"no folder {part}/")


def _expert_folder(source: Path, expert: str) -> Path:
    """The folder of one expert in a checkpoint of both; ``source`` itself where it is one transformer, by file or folder."""
    diffusers, own = EXPERT_FOLDERS[expert]
    if (source / own).is_dir():
        return source / own
    # transformer/ alone may be Wan2.1: it is an expert where the other one lies beside it, or is listed
    if (source / diffusers).is_dir() and (expert == LOW or _second_expert(source)):
        return source / diffusers
    if source.is_file() or source.name in _OWN_EXPERTS or _class_name(source / "config.json"):
        return source
    there = "; its transformer/ has no other expert beside it, so name that folder if it is one"
    raise ModelError(f"no folder {diffusers}/ or {own}/{there if (source / 'transformer').is_dir() else ''}")


def _second_expert(source: Path) -> str | None:
    """What in a directory says that it holds two transformers; None where it holds one."""
    for folder in ("transformer_2", "high_noise_model", "low_noise_model"):
        if (source / folder).is_dir():
            return f"it has {folder}/"
    index = source / "model_index.json"
    listed = index.is_file() and ([*(read_json(index, _Pipeline).get("transformer_2") or ()), None])[0]
    return "its model_index.json lists two transformers" if listed else None


def patterns(part: Part, expert: str = "") -> list[str]:
    """What a part is called in a repository of diffusers' layout, or of Wan's own: what to fetch of it."""
    folders = EXPERT_FOLDERS[expert] if expert and part is Part.TRANSFORMER else (part,)
    own: list[str] = NAMES["own_files"][part] if len(folders) == 1 else ["model_index.json"]
    return [*(f"{folder}/*.{end}" for folder in folders for end in ("json", "safetensors", "model", "txt")), *own]


def _single_file(part: Part, path: Path) -> FoundPart:
    if part is Part.TOKENIZER:
        if path.name not in _TOKENIZER_FILES:
            raise ModelError(f"not in {path.name}: give model.tokenizer=<folder with tokenizer.json>")
        return FoundPart(part, path.parent)
    if path.suffix in (".safetensors", ".gguf"):
        thing = identify(entries_of(path))
        if part is not Part.TRANSFORMER and thing and thing.part == Part.TRANSFORMER:
            raise ModelError(f"not in {path.name}, which is the transformer alone: give model.{part}=<file or folder>")
        if path.suffix == ".gguf":
            if part is not Part.TRANSFORMER:
                raise ModelError(
                    f"{path.name} is a GGUF file, from which transformers alone are read: give .safetensors"
                )
            return FoundPart(part, path.parent, (path,))
        if shard := _FORM.fullmatch(path.name).group("shard"):  # type: ignore[union-attr]  # the form takes any such name
            raise ModelError(f"{path.name} is one shard ({shard[1:]}) of several: give their folder")
        return FoundPart(part, path.parent, (path,))
    if path.suffix == ".pth" and part in WAN_FILES:
        return FoundPart(part, path.parent, (_plain_pickle(path),))
    raise ModelError(f"{path.name} is no .safetensors file; pickled weights are never loaded")


def _refuse_gguf_in(folder: Path) -> None:
    """Raise ``ModelError`` for a folder of GGUF files, of which each is a transformer of its own."""
    if found := sorted(path.name for path in folder.glob("*.gguf")):
        raise ModelError(
            f"{folder.name}/ holds GGUF files ({', '.join(found[:3])}): name one of them, and the other parts"
        )


def _part_folder(part: Part, folder: Path) -> FoundPart:
    if part is Part.TOKENIZER:
        if not any((folder / name).is_file() for name in _TOKENIZER_FILES):
            raise ModelError(f"none of {', '.join(_TOKENIZER_FILES)} in {folder.name}/")
        return FoundPart(part, folder)
    config = folder / "config.json"
    if not config.is_file():
        raise ModelError(f"no config.json in {folder.name}/")
    config_facts(config)  # a damaged one is named now
    weights, variant = _weight_files(folder)
    return FoundPart(part, folder, weights, config, variant)


def _is_wan_directory(folder: Path) -> bool:
    """Whether a directory is as Wan's authors publish it: a ``WanModel`` at its top, or the files of their names."""
    names = (f"{name}{end}" for several in WAN_FILES.values() for name in several for end in (".pth", ".safetensors"))
    named = any((folder / name).exists() for name in names)
    named |= (folder / WAN_TOKENIZER).is_dir()  # the hub may have given that part alone
    named |= folder.name in _OWN_EXPERTS  # without a config.json, too: shapes say what it would
    return named or _class_name(folder / "config.json").endswith("WanModel")


def _wan_part(part: Part, folder: Path) -> FoundPart:
    if part is Part.TOKENIZER:
        if not (folder / WAN_TOKENIZER).is_dir():
            raise ModelError(f"no folder {WAN_TOKENIZER}/")
        return _part_folder(part, folder / WAN_TOKENIZER)
    if part is Part.TRANSFORMER:
        config = folder / "config.json"
        weights, variant = _weight_files(folder, WAN_SHARDS)
        return FoundPart(part, folder, weights, config if config.is_file() else None, variant)
    stems = [name for name in WAN_FILES[part] if any((folder / f"{name}{end}").is_file() for end in _ENDS)]
    if len(stems) > 1:
        raise ModelError(f"several in {folder.name}/: {' and '.join(stems)}; name one with model.{part}=<file>")
    if not stems:
        raise ModelError(f"no {' or '.join(WAN_FILES[part])}.pth, nor .safetensors of that name")
    path = next(path for path in (folder / f"{stems[0]}{end}" for end in _ENDS) if path.is_file())
    return FoundPart(part, folder, (path if path.suffix == ".safetensors" else _plain_pickle(path),))


def _is_folder_of(part: Part, folder: Path) -> bool:
    """Whether a directory is the folder of this one part: what its ``config.json`` says it is."""
    if part is Part.TOKENIZER:
        return any((folder / name).is_file() for name in _TOKENIZER_FILES)
    return _class_name(folder / "config.json").startswith(NAMES["classes"][part])


def _class_name(config: Path | None) -> str:
    if config is None or not config.is_file():
        return ""
    settings = config_facts(config)  # of any project: nothing has to be in it
    return str(settings.get("_class_name") or next(iter(settings.get("architectures") or ()), ""))


def _plain_pickle(path: Path) -> Path:
    """A ``.pth`` in torch's zip form, which can be read as tensors alone; see ADR 10."""
    if not zipfile.is_zipfile(path):
        raise ModelError(f"{path.name} is damaged, cut short, or older than torch's zip form: fetch it again")
    return path


def _weight_files(folder: Path, stem: str | None = None) -> tuple[tuple[Path, ...], str]:
    """The safetensors of a folder and the precision in their names; raises ``ModelError`` naming the missing shards."""
    sets = {key: names for key, names in _weight_sets(folder).items() if stem in (None, key.stem)}
    if not sets:
        _refuse_gguf_in(folder)
        pickles = [path.name for path in folder.glob("*.bin")] + [path.name for path in folder.glob("*.pt")]
        pickled = f" but {pickles[0]}" if pickles else ""
        raise ModelError(f"no .safetensors file{pickled} in {folder.name}/; pickled weights are never loaded")
    # A folder may hold the same weights in several precisions, whole or in shards. The set that is complete wins, in the order of
    # ``_VARIANTS``; where none is, the first says what it lacks. Two different stems are two models, and a guess may be wrong.
    known = [key for key in sets if key.stem in (WAN_SHARDS, "model")] or list(sets)
    ranked = sorted(known, key=lambda key: (_VARIANTS.index(key.variant), key.total))
    if len(stems := {key.stem for key in ranked}) > 1:
        raise ModelError(f"several checkpoints in {folder.name}/: {', '.join(sorted(stems))}")
    missing = {key: sorted(name for name in sets[key] if not (folder / name).is_file()) for key in ranked}
    key = next((key for key in ranked if not missing[key]), ranked[0])
    if missing[key]:
        shown = ", ".join(map(short_key, missing[key][:3])) + (", ..." if len(missing[key]) > 3 else "")
        raise ModelError(f"{len(missing[key])} of {len(sets[key])} shards missing ({shown})")
    return tuple(folder / name for name in sorted(sets[key])), key.variant


class _Set(NamedTuple):
    """Files that belong together: their precision, the beginning of their names, and their number where it is said."""

    variant: str
    stem: str
    total: str


def _weight_sets(folder: Path) -> dict[_Set, set[str]]:
    """File names by set: those there are, and those that an index or a shard's own name promises."""
    # A missing shard has no file, but an index that names it, or a sibling whose own name says how many there are. So what is
    # promised is counted like what is there, and looked for afterwards.
    sets: dict[_Set, set[str]] = {}
    promised = [name for index in folder.glob("*.safetensors.index*.json") for name in _promised(index)]
    for name in {*promised, *(path.name for path in folder.glob("*.safetensors"))}:
        form = _FORM.fullmatch(name)
        if form is None or "/" in name:
            raise ModelError(f"an index in {folder.name}/ names {quoted(name)}, which is no file beside it")
        key = _Set(form["variant"] or form["late"] or "", form["stem"], form["total"] or "")
        sets.setdefault(key, set()).update(_siblings(name, form))
    return sets


def _promised(index: Path) -> set[str]:
    try:
        return set(read_json(index, _Shards, limit=HEADER_LIMIT)["weight_map"].values())
    except FileError as error:
        raise ModelError(f"{index.name} is no index of shards: {error}") from error


class _Shards(TypedDict):
    weight_map: dict[str, str]


def _siblings(name: str, form: re.Match[str]) -> set[str]:
    """All shards of the count that a shard's name carries."""
    if form["shard"] is None:
        return {name}
    count = int(form["total"])
    return {name.replace(form["shard"], f"-{number:05d}-of-{form['total']}") for number in range(1, count + 1)}


# -- what it is --------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Thing:
    """What a set of tensor names belongs to, in words; ``part`` where it is a part that this project loads."""

    words: str
    part: str | None = None
    ways: tuple[tuple[str, ...], ...] = ()
    pattern: str | None = None
    lacks: str | None = None

    def holds(self, names: str) -> bool:
        """Whether tensors of these names, a line each, are such a thing.

        One of the ``ways`` has to fit, which lists how names begin that must all occur, or the ``pattern``; no name may
        begin as what it ``lacks``.
        """
        # Every name has a line break on both sides, so that a beginning is looked for with the break before it; what stands
        # for a whole name in the table carries the break at its end, too.
        found = any(all(f"\n{start}" in names for start in way) for way in self.ways)
        found = found or (self.pattern is not None and re.search(self.pattern, names, re.MULTILINE) is not None)
        return found and (self.lacks is None or f"\n{self.lacks}" not in names)


# The order decides. Wan's derivatives hold all names of Wan and some of their own, so they are tried before it; a T5 is a UMT5
# that lacks a table of positions in its second block; and the image VAE has every name of Wan's but for its norms.
THINGS = tuple(Thing(**facts) for facts in NAMES["things"])
"""What files are, in the order they are tried."""


def bare(name: str) -> str:
    """A tensor's name without the prefix of single-file checkpoints."""
    return next((name.removeprefix(prefix) for prefix in PREFIXES if name.startswith(prefix)), name)


def identify(names: Iterable[str]) -> Thing | None:
    """What tensors of these names belong to, or None where that is not known."""
    held = "".join(f"\n{bare(name)}\n" for name in names)
    return next((thing for thing in THINGS if thing.holds(held)), None)


def refuse_other_part(part: Part, names: Iterable[str]) -> None:
    """Raise ``ModelError`` where tensors of these names are not those of ``part``, saying what they are."""
    names = list(names)
    thing = identify(names)
    if thing is None:
        some = ", ".join(sorted(names)[:2]) or "nothing"
        raise ModelError(f"no {part} of Wan that is known here (it holds {some})")
    if thing.part != part:
        raise ModelError(f"this is {thing.words}")


def refuse_other_transformer(
    shapes: dict[str, tuple[int, ...]], family: Family, kind: str, model: ModelConfig | None
) -> None:
    """Raise ``ModelError`` where the transformer whose tensors have these shapes is not the network ``kind`` of the model."""
    # Names are diffusers' or Wan's own: the first layer and the blocks are called alike in both, the image's embedding is not.
    shapes = {bare(name): shape for name, shape in shapes.items()}
    hidden, channels = shapes["patch_embedding.weight"][:2]
    layers = max(int(name.split(".")[1]) for name in shapes if name.startswith("blocks.")) + 1
    takes_image = any(name.startswith(("img_emb.", "condition_embedder.image_embedder.")) for name in shapes)
    fits = [one for one in family.networks if (one.channels, one.image_tokens > 0) == (channels, takes_image)]
    wanted, name = family.network(kind), model.name if model else family.name
    if wanted not in fits and fits:
        keys = " or ".join(key for one in fits for key in _keys_of(one))
        raise ModelError(
            f"this is the {fits[0].task} transformer: its first layer takes {channels} channels, {wanted.task} takes "
            f"{wanted.channels}; give it as {keys}"
        )
    if wanted not in fits:
        takes = f"{wanted.channels} channels{' and image tokens' if wanted.image_tokens else ''}"
        raise ModelError(
            f"this is {_transformer_of(channels, takes_image, hidden)}: {kind} of model={name} takes {takes}"
            f"{_way_out((channels, takes_image, layers, hidden))}"
        )
    if model and (layers, hidden) != (model.num_layers, model.hidden_size):
        raise ModelError(
            f"it has {layers} blocks of width {hidden}, model={name} has {model.num_layers} "
            f"of width {model.hidden_size}{_way_out((channels, takes_image, layers, hidden)) or ': choose the model that it is'}"
        )


def _keys_of(network: Network) -> tuple[str, ...]:
    """The keys that name a network, or each of its experts."""
    return (f"model.{network.name}",) if network.boundary is None else (
        f"model.{network.name}_high", f"model.{network.name}_low"
    )  # fmt: skip


def _way_out(facts: tuple[int, bool, int, int]) -> str:
    """The models of ``conf/`` that have a transformer of such channels, image tokens, blocks and width; "" where none has."""
    models = {name: ModelConfig(**values(f"model/{name}")) for name in choices("model")}
    found = [
        name
        for name, model in models.items()
        for one in family_of(model).networks
        if (one.channels, one.image_tokens > 0, model.num_layers, model.hidden_size) == facts
        and model.source(one.name, next(iter(experts_of(model, one.name))).name)
    ]
    return f"; choose model={'|'.join(dict.fromkeys(found))}" if found else ""


def _transformer_of(channels: int, takes_image: bool, hidden: int) -> str:
    """Which published Wan takes so many channels, in words."""
    known = {
        (16, False): "a text-to-video transformer of Wan2.1, or an expert of Wan2.2 T2V-A14B",
        (36, True): "the image-to-video transformer of Wan2.1",
        (36, False): "an expert of Wan2.2 I2V-A14B",
        **({(48, False): "Wan2.2 TI2V-5B"} if hidden == 3072 else {}),
    }
    words = known.get((channels, takes_image), "another Wan, such as Fun Control or Inpaint")
    return f"{words}, whose first layer takes {channels} channels{'' if takes_image else ' and which takes no image tokens'}"


# -- a whole model, before it is loaded --------------------------------------------------------------------------------


def source_of(model: ModelConfig, kind: str, part: Part, expert: str = "") -> str | None:
    """Where a part is to come from: its own setting, or the checkpoint of ``kind``; None = drawn at random."""
    # each part but the transformer has a setting of its name; a transformer is what the checkpoint itself is named for
    own: str | None = getattr(model, part, None)
    expert = expert if part is Part.TRANSFORMER else ""
    return own or (None if model.weights == "random" else model.source(kind, expert))


def survey(model: ModelConfig, kind: str, parts: Iterable[Part], experts: Iterable[Expert] | None = None) -> list[str]:
    """Look at every part that lies on this machine; what there is to say about them, a line each.

    Of two experts only those among ``experts`` take part, where some are named. Parts that are on the hub, embedded or random
    are not looked at. Raises ``ModelError``, one sentence that lists each part with what was found and what is missing.
    """
    # Parts are read to the end even where one is wrong: whoever put a checkpoint together from files wants all that is missing at
    # once, and not one part at each start.
    lines: list[str] = []
    verdicts: dict[str, str] = {}
    names = [expert.name for expert in experts or experts_of(model, kind)]
    for part, expert in [(one, name) for one in parts for name in (names if one is Part.TRANSFORMER else [""])]:
        source, what = source_of(model, kind, part, expert), f"{part} ({expert})" if expert else str(part)
        if source is None or not Path(source).exists():
            continue
        try:
            lines += inspect(part, Path(source), kind, model, expert)
            verdicts[what] = "ok"
        except CineloraError as error:
            verdicts[what] = str(error)
    if any(verdict != "ok" for verdict in verdicts.values()):
        raise ModelError("; ".join(f"{part}: {verdict}" for part, verdict in verdicts.items()))
    return lines


def inspect(part: Part, source: Path, kind: str, model: ModelConfig | None = None, expert: str = "") -> list[str]:
    """Look at one part of a directory or file; lines to print, such as that fp8 weights are widened.

    Raises ``ModelError`` (or ``FileError`` for a damaged file) with what is wrong.
    """
    family = family_of(model) if model else WAN21
    if part is Part.TRANSFORMER and not expert:
        _refuse_two_experts(source)
    found = locate(part, source, expert)
    lines = [f"{part}: the .{found.variant} weights of {found.folder}"] if found.variant else []
    if part is Part.TOKENIZER:
        return lines
    if found.weights[0].suffix == ".pth":
        return [f"{part}: {found.weights[0].name} is a pickle, of which tensors alone are read"]
    entries = {name: entry for path in found.weights for name, entry in entries_of(path).items()}
    shapes = {name: tuple(entry["shape"]) for name, entry in entries.items()}
    refuse_unread(found, entries)
    refuse_other_part(part, shapes)
    if part is Part.TRANSFORMER:
        refuse_other_transformer(shapes, family, kind, model)
        said = {} if _class_name(found.config).endswith("WanModel") else config_facts(found.config)
        refuse_misfit({bare(name): shape for name, shape in shapes.items()}, said)
    if part is Part.VAE:
        refuse_other_vae(shapes, family.geometry.channels)
    if kinds := {FP8[entry["dtype"]] for entry in entries.values() if entry["dtype"] in FP8}:
        scaled = " with scales" if any(name.endswith(("scale_weight", "weight_scale")) for name in entries) else ""
        dtype = model.dtype if model else "the dtype of the run"
        lines.append(f"{part}: {' and '.join(sorted(kinds))} weights{scaled} are widened to {dtype} as they are loaded")
    if found.weights[0].suffix == ".gguf":
        kinds = {entry["dtype"] for entry in entries.values()}
        dtype = model.dtype if model else "the dtype of the run"
        lines.append(f"{part}: GGUF ({', '.join(sorted(kinds))}), widened to {dtype} as it is loaded")
    return lines


def entries_of(path: Path) -> dict[str, dict[str, Any]]:
    """``dtype`` and ``shape`` of every tensor in a safetensors or GGUF file, by name; raises ``FileError`` for a damaged one."""
    if path.suffix == ".gguf":
        return {name: {"dtype": tensor.kind, "shape": tensor.shape} for name, tensor in read_gguf(path)[0].items()}
    return {name: entry for name, entry in read_header(path).items() if name != "__metadata__"}


def refuse_unread(found: FoundPart, entries: dict[str, dict[str, Any]]) -> None:
    """Raise ``ModelError`` for weights in a form that is not read, by the tensors that only such a form has."""
    kind = next((form.words for form in UNREAD if any(form.is_one(*item) for item in entries.items())), None)
    if kind is None and config_facts(found.config).get("quantization_config"):
        kind = "quantised weights (its config.json has a quantization_config)"
    if kind:
        raise ModelError(
            f"it holds {kind}, which is not read: give it in bf16, fp16, fp8 with a scale a tensor or row, or GGUF"
        )


@dataclass(frozen=True)
class Unread:
    """A form of weights that is not read: how its tensors are called, in which dtypes, and whether scales come in blocks."""

    words: str
    pattern: str
    dtypes: tuple[str, ...] = ()
    in_blocks: bool = False

    def is_one(self, name: str, entry: dict[str, Any]) -> bool:
        """Whether a tensor is of this form."""
        fits = re.search(self.pattern, name) is not None and (not self.dtypes or entry["dtype"] in self.dtypes)
        return fits and (not self.in_blocks or (len(entry["shape"]) > 1 and min(entry["shape"]) > 1))


# The order decides: nvfp4 has scales in blocks, too.
UNREAD = (
    Unread("Nunchaku's 4-bit weights (SVDQuant)", r"\.(qweight|wscales|wtscale|smooth_factor|smooth_orig)$"),
    Unread("4-bit or 8-bit weights of bitsandbytes", r"\.(absmax|quant_map|nested_absmax|SCB)$|\.quant_state\."),
    Unread("nvfp4 weights", r"\.(weight_scale_2|weight_global_scale|weight_packed)$"),
    Unread("mxfp8 weights", r"\.(weight_scale|scale_weight)$", ("U8", "F8_E8M0")),
    Unread("int8 weights", r"\.weight$", ("I8",)),
    Unread("4-bit weights", r"\.weight$", ("U8", "I4", "U4", "F4", "F4_E2M1")),
    Unread("fp8 weights with scales in blocks", r"\.(weight_scale_inv|weight_scale|scale_weight)$", in_blocks=True),
)
"""Forms that load in other programs, or nowhere but where they were made."""


def refuse_other_vae(shapes: dict[str, tuple[int, ...]], wanted: int) -> None:
    """Raise ``ModelError`` where a VAE has another number of latent channels than is ``wanted``."""
    channels = next(shapes[name][0] for name in ("post_quant_conv.weight", "conv2.weight") if name in shapes)
    if channels != wanted:
        whose = {16: "of Wan2.1 and Wan2.2 A14B", 48: "of Wan2.2 TI2V-5B"}
        this, other = (
            f"{count} latent channels, that {whose.get(count, 'of another model')}" for count in (channels, wanted)
        )
        raise ModelError(f"this is a VAE of {this}: the model takes one of {other}")


def _refuse_two_experts(source: Path) -> None:
    if sign := _second_expert(source):
        way_out = "choose a model of two experts, or name the folder of one of them"
        raise ModelError(f"this is a Wan2.2 checkpoint of two experts ({sign}): {way_out}")


class _Pipeline(TypedDict):
    transformer_2: NotRequired[list[Any] | None]


class PartConfig(TypedDict):
    """What is asked of a part's ``config.json``, of any project; a loader takes the rest as it is."""

    _class_name: NotRequired[str]
    architectures: NotRequired[list[str] | None]
    num_heads: NotRequired[int]
    num_layers: NotRequired[int]
    ffn_dim: NotRequired[int]
    text_dim: NotRequired[int]
    freq_dim: NotRequired[int]
    image_dim: NotRequired[int | None]
    vision_config: NotRequired[dict[str, Any]]


def config_facts(path: Path | None) -> dict[str, Any]:
    """The settings in a ``config.json``, none where there is no file; raises ``FileError``."""
    return {**read_json(path, PartConfig)} if path else {}
