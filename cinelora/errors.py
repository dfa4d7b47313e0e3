"""The errors a user can cause and mend: one sentence, the value, the way out.

Scripts print these without a traceback and leave with ``exit_code``; everything else is a bug and shows its trace.
"""

from pathlib import Path


class CineloraError(Exception):
    """Something the user can mend; ``str(error)`` is the sentence to print."""

    exit_code = 1


class ConfigError(CineloraError):
    """A setting that is missing, misspelt, or contradicts another."""

    exit_code = 2


class FootageError(CineloraError):
    """Footage that is missing, unreadable, or not enough to train on."""


class ModelError(CineloraError):
    """A checkpoint that is missing, incomplete, or not the one asked for."""


class AdapterError(CineloraError):
    """An adapter file that does not fit the model, or is no adapter."""


class MetricError(CineloraError):
    """A number that cannot be had: of too few clips, of frames that do not fit it, or without the network it needs."""


class InferenceError(CineloraError):
    """Clips that could not be made."""


class TrainingError(CineloraError):
    """A run that cannot go on: a loss that is not finite, a full disk, a checkpoint that does not load."""


class EncodingLost(TrainingError):
    """A sample's encoding that is damaged, or gone from the cache: it is encoded again."""


def first_line(error: BaseException) -> str:
    """What another library says went wrong, in one line: for sentences that quote it."""
    return (str(error).strip() or type(error).__name__).splitlines()[0]


class FileError(CineloraError):
    """A file that is missing, damaged, cannot be written, or is in use by another run."""


def unwritable(path: Path, error: OSError) -> FileError:
    """The error for a place that cannot be written, with the system's reason."""
    return FileError(f"cannot write {path} ({reason(error)}): choose another folder or mend its permissions")


def reason(error: Exception) -> str:
    """The system's own words for an error, without its number."""
    return str(getattr(error, "strerror", None) or error)
