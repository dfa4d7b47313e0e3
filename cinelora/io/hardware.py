"""What the numbers were measured on, written beside every one of them; and how loud the libraries on it may be."""

from __future__ import annotations

import ctypes
import logging
import os
import platform
import re
import resource
import signal
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any

import psutil

if TYPE_CHECKING:
    import torch

from cinelora.errors import CineloraError
from cinelora.io.terminal import warn

PACKAGES = ("torch", "diffusers", "peft", "lightning")
PR_SET_PDEATHSIG = 1  # linux/prctl.h
CONTEXT_GIB = 1.0
"""More than CUDA itself takes in a process (0.5 to 0.7 GiB on an H200)."""


def _cuda() -> Any:
    """torch's side of CUDA where there is a GPU, else None."""
    # torch is imported when somebody asks for a GPU, and not with this module: a command line, and processes that decode
    # footage, want their death tied to their parent's and no second and a half of imports.
    import torch

    return torch.cuda if torch.cuda.is_available() else None


def hardware() -> dict[str, Any]:
    """Devices, memory and the versions that matter for speed and results."""
    import torch

    gpus = [torch.cuda.get_device_name(i) for i in range(torch.cuda.device_count())]
    return {
        "device": gpus[0] if gpus else platform.processor() or platform.machine(),
        "gpus": len(gpus),
        "cpu_cores": psutil.cpu_count(logical=False),
        "memory_gib": round(psutil.virtual_memory().total / 2**30, 1),
        "python": platform.python_version(),
        **{package: version(package) for package in PACKAGES},
    }


def fingerprint() -> dict[str, Any]:
    """``hardware``, and the GPU's driver: what seconds may depend on."""
    driver = Path("/proc/driver/nvidia/version")
    found = re.search(r"\d+(\.\d+)+", driver.read_text()) if driver.is_file() else None
    return {**hardware(), "driver": found[0] if found else None}


def forget_peak_memory() -> None:
    """Let ``peak_memory_mib`` count from here on; on the host where the kernel lets a process do so."""
    with suppress(OSError):
        Path("/proc/self/clear_refs").write_text("5")  # proc(5): 5 sets the high-water mark to what is resident now
    if cuda := _cuda():
        cuda.reset_peak_memory_stats()


def gpu_at_hand() -> tuple[str | None, float | None]:
    """Name of the current GPU, and GiB of it that are not in other processes' hands; None where there is none."""
    if cuda := _cuda():
        return cuda.get_device_name(), cuda.mem_get_info()[1] / 2**30 - gib_of_others()
    return None, None


def gib_of_others() -> float:
    """What other processes hold of the current GPU, in GiB; nothing below what may be CUDA's own."""
    # The driver says what is taken in all. Less what torch has reserved here, and what CUDA took for this process, the rest is
    # others'. As CUDA's own part is known only roughly, as much again is let pass before anybody is accused of anything.
    cuda = _cuda()
    free, total = cuda.mem_get_info()
    others: float = (total - free - cuda.memory_reserved()) / 2**30 - CONTEXT_GIB
    return others if others > CONTEXT_GIB else 0.0


def say_of_others() -> None:
    """Print what other processes hold of the current GPU, where there is one and they do."""
    if _cuda() and (gib := gib_of_others()):
        warn(f"other processes hold {gib:.1f} GiB of this GPU; the plan uses the rest")


def limit_gpu_memory(gib: float | None) -> None:
    """Limit this process to ``gib`` GiB of its GPU, as on a smaller one; None, or no GPU: no limit."""
    if gib and (cuda := _cuda()):
        cuda.set_per_process_memory_fraction(min(1.0, gib / (cuda.mem_get_info()[1] / 2**30)))


def free_gpu_bytes(device: Any) -> float:
    """Memory of a GPU that this process can still take."""
    import torch

    # What is free on the card, and what torch reserved and has not given out; but no more than a limit on this process leaves.
    free, total = torch.cuda.mem_get_info(device)
    held, used = torch.cuda.memory_reserved(device), torch.cuda.memory_allocated(device)
    return min(free + held - used, total * torch.cuda.get_per_process_memory_fraction(device) - used)


def peak_memory_mib() -> dict[str, int]:
    """Highest memory of this process so far: resident on the host, allocated on the GPU."""
    peak = {"host": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024}  # Linux counts in KiB
    return peak | {"gpu": cuda.max_memory_allocated() // 2**20} if (cuda := _cuda()) else peak


def out_of_memory(where: str = "") -> str:
    """The start of every sentence about GPU memory that ran out: ``where`` and the peak."""
    import torch

    return f"out of GPU memory {where}at {torch.cuda.max_memory_allocated() / 2**30:.1f} GiB"


@contextmanager
def explained_out_of_memory(error_type: type[CineloraError], advice: Callable[[], tuple[str, str]]) -> Iterator[None]:
    """Turn running out of GPU memory into one sentence: where and at what peak, what is kept, and the next setting to try.

    ``advice`` gives the place and the rest of the sentence; it is asked when memory has run out.
    """
    import torch

    try:
        yield
    except torch.OutOfMemoryError as error:
        where, rest = advice()
        raise error_type(f"{out_of_memory(where)}; {rest}") from error


def quiet_libraries() -> None:
    """Keep the libraries' advice to programmers from drowning our own lines to users, be they imported already or not."""
    # The variables count at the libraries' import, here and in child processes; the levels, where they were imported already.
    for variable in ("TRANSFORMERS_VERBOSITY", "DIFFUSERS_VERBOSITY"):
        os.environ.setdefault(variable, "error")
    from transformers.utils.logging import disable_progress_bar

    disable_progress_bar()  # of weights read and written; downloads keep theirs
    for name in ("transformers", "diffusers"):
        logging.getLogger(name).setLevel(logging.ERROR)
    for module in ("lightning", "diffusers", "torch.distributed"):
        warnings.filterwarnings("ignore", module=module)


def quiet_lightning() -> None:
    """The same for Lightning, whose import sets its levels and must come before; ranks that do not train never import it."""
    import lightning.pytorch.utilities.rank_zero

    for name in ("lightning.pytorch", "lightning.fabric", lightning.pytorch.utilities.rank_zero.__name__):
        logging.getLogger(name).setLevel(logging.ERROR)


def die_with(parent: int) -> None:
    """Let the kernel kill this process when its parent dies, whatever signals it traps (prctl(2))."""
    if ctypes.CDLL(None, use_errno=True).prctl(PR_SET_PDEATHSIG, signal.SIGKILL) != 0:
        raise OSError(ctypes.get_errno(), "prctl(PR_SET_PDEATHSIG)")
    # The kernel kills at the parent's death. Where the parent died before the call above, that moment is over, and somebody
    # else is the parent by now.
    if os.getppid() != parent:
        os._exit(1)


def default_device() -> torch.device:
    """The current GPU, or the CPU where there is none."""
    import torch

    return torch.device("cuda", torch.cuda.current_device()) if torch.cuda.is_available() else torch.device("cpu")
