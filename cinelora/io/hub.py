"""Where an adapter comes from and goes to: ``ckpt=``, ``adapter=`` and ``resume=`` take a run, a file or the hub; ``push=``.

What enters is the text the user typed; what leaves is a path on this machine: a run's directory (it holds
``config.yaml``, or at least its adapters) or one ``.safetensors`` file; or one commit on the hub. It knows nothing of what
such a file holds, and imports no torch.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path, PurePosixPath
from typing import Any

from cinelora.errors import ConfigError, ModelError, first_line
from cinelora.families.family import EXPERTS, expert_in, suffixed

PREFIX = "hub:"
CONFIG_FILE = "config.yaml"
RANDOM_MEMBERS = (
    *("embedded:tiny-wan22-5b", "embedded:tiny-wan22-t2v-a14b", "embedded:tiny-wan22-i2v-a14b"),
    *("embedded:tiny-animatediff-random", "embedded:tiny-modelscope-random"),
)
"""Embedded models whose weights nobody has trained: they are drawn where they are asked for."""
PAIR = ("embedded:tiny-t2v", "embedded:tiny-i2v")
"""The embedded pair of Wan2.1, which is built where its weights are not shipped."""
EMBEDDED = (*PAIR, "embedded:tiny-animatediff", *RANDOM_MEMBERS)
"""The models that come with the program."""
EMBEDDED_ADAPTER = "embedded:distilled"
"""The step-distilled adapter of the embedded image-to-video model, which lies beside that."""
_FORM = re.compile(
    r"hub:(?P<repository>[\w.-]+/[\w.-]+)(?:/(?P<file>[^@\0\\*?\[\]]+\.safetensors))?(?:@(?P<revision>[\w./-]+))?",
    re.ASCII,
)
# Weights as safetensors and settings as text: no file that is run or unpickled when it is opened.
_WANTED = ["*.safetensors", "*.json", "*.jsonl", "*.yaml", "checkpoints/last", "*_noise/checkpoints/last"]
_WEIGHTS = (".safetensors", ".pth", ".pt", ".ckpt", ".bin", ".gguf")
_ADAPTERS = [f"{suffixed(stage, expert)}.safetensors" for stage in ("style", "motion") for expert in ("", *EXPERTS)]
_USUAL = ("adapter_model.safetensors", "pytorch_lora_weights.safetensors")
"""What peft and diffusers call the one adapter that they save into a folder."""


def is_run(path: Path) -> bool:
    """Whether a directory was written by ``train.py``."""
    return (path / CONFIG_FILE).is_file()


def is_model_source(source: str) -> bool:
    """Whether a text can be a model: an embedded one, a path that is there, or by its form a repository on the hub."""
    return is_at_hand(source) or is_hub_name(source)


def is_hub_name(source: str) -> bool:
    """Whether a model can only be a repository on the hub: it has the form of one, and nothing here has that name."""
    is_path = source.startswith(("embedded:", ".", "/", "~")) or source.endswith(_WEIGHTS) or Path(source).exists()
    return not is_path and re.fullmatch(r"[\w.-]+/[\w.-]+", source) is not None


def shadowed(key: str, source: str | None) -> list[str]:
    """A line where a name has the form of a repository, and is read from the folder of that name in the working directory."""
    if source is None or re.fullmatch(r"[\w-][\w.-]*/[\w.-]+", source) is None or not Path(source).is_dir():
        return []
    return [f"{key}={source} is the folder {Path(source).absolute()}, and not the hub's repository of that name"]


def is_at_hand(source: str) -> bool:
    """Whether a model is on this machine for certain: embedded, or a path that is there."""
    return source in EMBEDDED or Path(source).exists()


def resolve(source: str, key: str = "ckpt") -> Path:
    """The run directory or adapter file behind a source; ``embedded:distilled`` is shipped, and what is on the hub
    (``hub:owner/name[/file.safetensors][@revision]``) fetched first.

    ``key`` is the setting it stands in, for the sentence of an error.

    Raises:
        ConfigError: nothing is there, or it is neither a run nor an adapter file.
        ModelError: the hub cannot be reached, or has no such repository.
    """
    path = _fetch(source, key) if source.startswith(PREFIX) else Path(source)
    if source == EMBEDDED_ADAPTER:
        path = Path(__file__).resolve().parents[2] / "data" / "scale_model" / "distilled.safetensors"
    elif source.startswith("embedded:"):
        raise ConfigError(f"{key}={source}: the one adapter that is embedded is {EMBEDDED_ADAPTER}")
    is_file = path.is_file()
    if (
        is_run(path)
        or any((path / name).is_file() for name in _ADAPTERS)
        or (is_file and path.suffix in (".safetensors", ".ckpt"))
    ):
        return path
    if is_file:
        raise ConfigError(f"{key}={source} is not an adapter file: it should end in .safetensors")
    if not path.is_dir():
        raise ConfigError(
            f"{key}={source}: there is no {path.absolute()}; give a run, a .safetensors file or hub:owner/name"
        )
    # A folder that is no run: somebody's repository, or a folder for one adapter. What it holds decides, and never the order of
    # names in it, as the wrong adapter would draw without a complaint.
    match sorted(path.glob("*.safetensors")):
        case [single]:
            return single
        case found if _is_pair([path.name for path in found]):
            return path
        case []:
            raise ConfigError(f"{key}={source} holds neither {CONFIG_FILE} nor an adapter: it is no run of train.py")
        case found:
            names = _some([path.name for path in found])
            raise ConfigError(f"{key}={source} holds {len(found)} adapter files: name one of {names}")


def _is_pair(names: list[str]) -> bool:
    """Whether there is one adapter for each of two experts, as most trainers of two write them."""
    return len(names) == 2 and {expert_in(PurePosixPath(name).stem) for name in names} == {*EXPERTS}


def _some(names: list[str]) -> str:
    return ", ".join(names[:5]) + (f" and {len(names) - 5} more" if names[5:] else "")


def fetched_blobs(folder: Path) -> Path | None:
    """Where the hub's client keeps the files of the repository that it fetched as ``folder``; None for any other folder."""
    from huggingface_hub.constants import HF_HUB_CACHE

    # <cache>/models--owner--name/snapshots/<revision>/<file> is a link to <cache>/models--owner--name/blobs/<hash>
    cache, real = Path(HF_HUB_CACHE).resolve(), folder.resolve()
    return cache / real.relative_to(cache).parts[0] / "blobs" if cache in real.parents else None


def check_target(repository: str) -> None:
    """Refuse a repository that nothing can be uploaded to by its name, or for want of a token; asks nobody.

    Raises ``ConfigError``.
    """
    # Asked before a run begins: hours later, at its end, is too late to learn that there is no token.
    from huggingface_hub import get_token

    if re.fullmatch(r"[\w.-]+/[\w.-]+", repository, re.ASCII) is None:
        raise ConfigError(f"push={repository}: a repository on the hub is written owner/name")
    if get_token() is None:
        raise ConfigError(
            f"push={repository} needs a token that may write there: run 'hf auth login', or set HF_TOKEN in the environment"
        )


def publish(repository: str, files: Mapping[str, bytes], message: str, private: bool = False) -> str:
    """Upload ``files``, by their names there, as one commit, which is there whole or not at all; returns its address.

    The repository is made where there is none; ``private`` says how, and leaves one that is there as it is. Raises
    ``ConfigError`` for what ``check_target`` refuses, and for whatever the hub or the network answers.
    """
    from huggingface_hub import CommitOperationAdd, HfApi

    check_target(repository)
    api = HfApi()
    try:
        api.create_repo(repository, private=private or None, exist_ok=True)
        operations = [CommitOperationAdd(name, content) for name, content in files.items()]
        return api.create_commit(repository, operations, commit_message=message).commit_url
    except Exception as error:  # as in ``_fetch``
        raise ConfigError(f"push={repository}: nothing was uploaded: {first_line(error)}") from error


def _fetch(source: str, key: str) -> Path:
    form = _FORM.fullmatch(source)
    if form is None or ".." in (form["file"] or "").split("/"):
        raise ConfigError(
            f"{key}={source}: a source on the hub is written hub:owner/name or hub:owner/name/file.safetensors, with @revision "
            "after it where one is meant"
        )
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import HFValidationError

    about = (form["repository"], form["revision"])
    try:
        names = _names_in(*about)
        file = form["file"] or adapter_among(names, f"{key}={source}", form["repository"])
        if file and file not in names:
            raise ConfigError(
                f"{key}={source}: there is no {file} in it; it holds {_some(_safetensors(names)) or 'none such'}"
            )
        # Where somebody keeps many adapters, or a whole model beside one, all of them may be a terabyte.
        wanted = _WANTED if file is None else [file, str(PurePosixPath(file).with_name("adapter_config.json"))]
        folder = Path(snapshot_download(about[0], revision=about[1], allow_patterns=wanted))
        return folder / file if file else folder
    except ConfigError:
        raise
    except HFValidationError as error:
        raise ConfigError(f"{key}={source}: {first_line(error)}") from error
    except Exception as error:  # the hub's client lets its transport's own errors through, of several families
        raise ModelError(f"{key}={source} cannot be fetched from the hub: {first_line(error)}") from error


def _names_in(repository: str, revision: str | None) -> list[str]:
    """The files of a repository on the hub, or, where that is out of reach, those that were fetched before."""
    from huggingface_hub import HfApi, snapshot_download
    from huggingface_hub.errors import HfHubHTTPError, LocalEntryNotFoundError

    try:
        return [file.rfilename for file in HfApi().model_info(repository, revision=revision).siblings or []]
    except HfHubHTTPError:
        raise  # an answer: there is no such thing, or it is not for everybody
    except Exception as error:
        # a folder in which files are missing on purpose is given only to who asks for none of them
        nothing: dict[str, Any] = {"allow_patterns": [":"], "local_files_only": True}
        try:
            folder = Path(snapshot_download(repository, revision=revision, **nothing))
        except LocalEntryNotFoundError:
            raise error from None
        return [path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file()]


def adapter_among(names: list[str], said: str, repository: str) -> str | None:
    """The one adapter of a repository; None where it holds a run, or several side by side that belong together.

    Raises ``ConfigError`` for a choice.
    """
    found = _safetensors(names)
    on_top = [name for name in found if "/" not in name] or found
    if {CONFIG_FILE, *_ADAPTERS} & {*names} or _is_pair([name for name in on_top if "/" not in name]):
        return None
    usual = [name for name in on_top if name in _USUAL]
    if len(on_top) > 1 and len(usual) != 1:
        example = f"hub:{repository}/{on_top[0]}"
        raise ConfigError(f"{said} holds {len(found)} files of tensors ({_some(found)}): name one, as in {example}")
    return next(iter(usual or on_top), None)


def _safetensors(names: list[str]) -> list[str]:
    return sorted(name for name in names if name.endswith(".safetensors"))
