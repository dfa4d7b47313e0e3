"""Where an adapter comes from and goes to: ``ckpt=``, ``adapter=`` and ``resume=`` take a run, a file or the hub; ``push=``.

What enters is the text the user typed; what leaves is a path on this machine: a run's directory (it holds
``config.yaml``, or at least its adapters) or one ``.safetensors`` file; or one commit on the hub. It knows nothing of what
such a file holds, and imports no torch.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path

from cinelora.errors import ConfigError, ModelError, first_line
from cinelora.families.family import EXPERTS, expert_in, suffixed

PREFIX = "hub:"
CONFIG_FILE = "config.yaml"
EMBEDDED = (
    *("embedded:tiny-t2v", "embedded:tiny-i2v"),
    *("embedded:tiny-wan22-5b", "embedded:tiny-wan22-t2v-a14b", "embedded:tiny-wan22-i2v-a14b"),
)
"""The models that come with the program; those of Wan2.2 are random weights, drawn where they are asked for."""
EMBEDDED_ADAPTER = "embedded:distilled"
"""The step-distilled adapter of the embedded image-to-video model, which lies beside that."""
_FORM = re.compile(r"hub:(?P<repository>[\w.-]+/[\w.-]+)(?:@(?P<revision>[\w./-]+))?", re.ASCII)
# Weights as safetensors and settings as text: no file that is run or unpickled when it is opened.
_WANTED = ["*.safetensors", "*.json", "*.jsonl", "*.yaml", "checkpoints/last"]
_WEIGHTS = (".safetensors", ".pth", ".pt", ".ckpt", ".bin", ".gguf")
_ADAPTERS = [f"{suffixed(stage, expert)}.safetensors" for stage in ("style", "motion") for expert in ("", *EXPERTS)]


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
    """The run directory or adapter file behind a source; ``hub:owner/name[@revision]`` is fetched first,
    ``embedded:distilled`` is shipped.

    ``key`` is the setting it stands in, for the sentence of an error.

    Raises:
        ConfigError: nothing is there, or it is neither a run nor an adapter file.
        ModelError: the hub cannot be reached, or has no such repository.
    """
    path = _fetch(source, key) if source.startswith(PREFIX) else Path(source)
    if source == EMBEDDED_ADAPTER:
        path = Path(__file__).resolve().parents[2] / "data" / "scale_model" / "distilled.safetensors"
    is_file = path.is_file()
    if (
        is_run(path)
        or any((path / name).is_file() for name in _ADAPTERS)
        or (is_file and path.suffix == ".safetensors")
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
        case [one, two] if {expert_in(one.stem), expert_in(two.stem)} == {*EXPERTS}:
            return path  # a pair, as most trainers of two experts write it
        case []:
            raise ConfigError(f"{key}={source} holds neither {CONFIG_FILE} nor an adapter: it is no run of train.py")
        case found:
            names = ", ".join(path.name for path in found[:5]) + (f" and {len(found) - 5} more" if found[5:] else "")
            raise ConfigError(f"{key}={source} holds {len(found)} adapter files: name one of {names}")


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
    if form is None:
        raise ConfigError(f"{key}={source}: a source on the hub is written hub:owner/name or hub:owner/name@revision")
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import HFValidationError

    try:
        return Path(snapshot_download(form["repository"], revision=form["revision"], allow_patterns=_WANTED))
    except HFValidationError as error:
        raise ConfigError(f"{key}={source}: {first_line(error)}") from error
    except Exception as error:  # the hub's client lets its transport's own errors through, of several families
        raise ModelError(f"{key}={source} cannot be fetched from the hub: {first_line(error)}") from error
