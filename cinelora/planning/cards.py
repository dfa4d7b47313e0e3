"""The GPUs that plans are made for, by the figures that their maker publishes, and how a name finds one.

Enters: a name. Leaves: a ``Gpu``, or None where it is not known: of such a card nothing is estimated but memory.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

from cinelora.errors import ConfigError


@dataclass(frozen=True)
class Link:
    """What one GPU can send, in bytes a second each way as published, and what an exchange takes however small it is."""

    name: str
    rate: float
    latency_s: float = 20e-6

    def seconds(self, sent: float) -> float:
        """For ``sent`` bytes, without the latency."""
        return sent / (REACHED * self.rate)


REACHED = 0.74
"""The fraction of a link's rate that an all-to-all gets: 335 of 450 GB/s on four H100 (nccl issue 2169, 524 MB). An all-reduce of
eight A100 gets 230 to 250 of 300."""
NVLINK3, NVLINK4, NVLINK5 = Link("NVLink 3", 300e9), Link("NVLink 4", 450e9), Link("NVLink 5", 900e9)
PCIE4, PCIE5 = Link("PCIe 4", 32e9), Link("PCIe 5", 64e9)
"""Half of what NVIDIA's data sheets give for both ways together: 600, 900 and 1800 GB/s, and 64 and 128 GB/s for 16 lanes."""
HDR, NDR = Link("InfiniBand HDR", 25e9, 40e-6), Link("InfiniBand NDR", 50e9, 40e-6)
"""One adapter of 200 or 400 Gb/s for each GPU, as in NVIDIA's DGX A100 and DGX H100."""
ETHERNET = Link("100 Gb Ethernet for a node", 12.5e9 / 8, 60e-6)
"""Assumed for cards that are not sold in such systems. All latencies are assumed too; at 720p they are 1 % of a step."""


@dataclass(frozen=True)
class Gpu:
    """A kind of GPU, all as published (SXM boards, where a card is sold in several forms).

    Memory as sold, less what ECC takes; dense FLOP/s for bf16 and fp8 with float32 accumulation (None: it computes no fp8); the
    links within a node and between nodes; bytes a second of its own memory; compute capability. ``driver`` matches the
    driver's name where that says more than ``name``; ``measured``: its seconds are those of runs on such a card, from which
    all others follow.
    """

    name: str
    gib: float
    bf16: float
    fp8: float | None
    link: Link
    network: Link
    memory_rate: float
    capability: tuple[int, int]
    driver: str = ""
    measured: bool = False

    @property
    def dtypes(self) -> tuple[str, ...]:
        """What frozen weights can be computed in."""
        return ("bf16", "fp8") if self.fp8 else ("bf16",)

    @property
    def seconds_are(self) -> str:
        """Where its seconds come from, in a word."""
        return "measured" if self.measured else "estimated"


# Sources are documents of NVIDIA, read where others quote them. Where one gives only the rate with sparsity, half of it stands
# here. Capabilities are those of its list of CUDA GPUs.
GPUS = (
    # Data sheets (1,979 and 3,958 with sparsity); H100 whitepaper, table 3: 989.4, accumulated in float32.
    Gpu("H200", 141, 989e12, 1979e12, NVLINK4, NDR, 4.8e12, (9, 0), r"H200(?!.*NVL)", measured=True),
    Gpu("H100", 80, 989e12, 1979e12, NVLINK4, NDR, 3.35e12, (9, 0), r"H100(?!.*(PCIe|NVL))", measured=True),
    # HGX B200 data sheet (4.5e15 and 9e15 with sparsity). The DGX B200's rounds to 64 TB/s for eight.
    Gpu("B200", 180, 2250e12, 4500e12, NVLINK5, NDR, 7.7e12, (10, 0)),
    # A100 data sheet; H100 whitepaper, table 3: accumulated in float32.
    Gpu("A100 80GB", 80, 312e12, None, NVLINK3, HDR, 2.039e12, (8, 0), r"A100(?!.*40GB)"),
    Gpu("A100 40GB", 40, 312e12, None, NVLINK3, HDR, 1.555e12, (8, 0), r"A100.*40GB"),
    # Data sheets; the A40's names float32 accumulation.
    Gpu("A40", 45, 149.7e12, None, PCIE4, ETHERNET, 0.696e12, (8, 6)),
    Gpu("A10", 22.5, 125e12, None, PCIE4, ETHERNET, 0.6e12, (8, 6)),
    # Data sheets (the L4's: 242 and 485 with sparsity).
    Gpu("L40S", 45, 362.05e12, 733e12, PCIE4, ETHERNET, 0.864e12, (8, 9)),
    Gpu("L4", 22.5, 121e12, 242.5e12, PCIE4, ETHERNET, 0.3e12, (8, 9)),
    # GA102 whitepaper, table 3.
    Gpu("RTX A6000", 48, 154.8e12, None, PCIE4, ETHERNET, 0.768e12, (8, 6)),
    # Data sheet (1,457 in fp8 with sparsity); RTX Blackwell PRO whitepaper, table 4: a quarter of it, 364, in bf16.
    Gpu("RTX 6000 Ada", 48, 364.2e12, 728.5e12, PCIE4, ETHERNET, 0.96e12, (8, 9)),
    # RTX Blackwell whitepaper, table 3.
    Gpu("RTX 5090", 32, 209.5e12, 419e12, PCIE5, ETHERNET, 1.792e12, (12, 0)),
    # Ada whitepaper, appendix A, table 2; its fp8 rate as version 2.02 corrects it.
    Gpu("RTX 4090", 24, 165.2e12, 330.3e12, PCIE4, ETHERNET, 1.008e12, (8, 9)),
    # GeForce comparison page: multiprocessors and clock, from which the rates follow (see below).
    Gpu("RTX 4080 SUPER", 16, 104.4e12, 208.9e12, PCIE4, ETHERNET, 0.736e12, (8, 9)),
    Gpu("RTX 4080", 16, 97.5e12, 195e12, PCIE4, ETHERNET, 0.7168e12, (8, 9)),
    Gpu("RTX 4070 Ti SUPER", 16, 88.2e12, 176.4e12, PCIE4, ETHERNET, 0.672e12, (8, 9)),
    # RTX Blackwell whitepaper, table 3; GA102 whitepaper, table 9, rounds to 71.
    Gpu("RTX 3090", 24, 71.2e12, None, PCIE4, ETHERNET, 0.936e12, (8, 6)),
    # As the RTX 4080.
    Gpu("RTX 3060", 12, 25.5e12, None, PCIE4, ETHERNET, 0.36e12, (8, 6)),
)
"""What no document was found for:

- RTX 4080 SUPER, RTX 4080, RTX 4070 Ti SUPER and RTX 3060: rates with float32 accumulation. They are multiprocessors x boost
  clock x 512 operations a cycle in bf16, 1024 in fp8, as the whitepapers give an RTX 4090 and an RTX 3090. Their bandwidths
  are bits of the bus x Gb/s of a pin by reviews (23, 22.4, 21 and 15).
- A10, L40S and L4: what the rates accumulate in. Users' products in bf16 reach 269e12 on an L40S and 71e12 on an L4, more than
  half of the rate; an A10 has the chip of an A40.

On an RTX 5090 users' products in fp8 reach 774e12, more than is published: a plan in fp8 is slower than the card.

A GB of memory as sold is a GiB: drivers report at least 99.4 % of it, but fifteen sixteenths on an A40, A10, L40S and L4. These
are delivered with ECC on, which takes the rest of their GDDR6.
"""
SHOWN = (
    "RTX 3060",
    "RTX 4070 Ti SUPER",
    "RTX 3090",
    "RTX 4090",
    "RTX 5090",
    "L40S",
    "A100 80GB",
    "H100",
    "H200",
    "B200",
)
"""The cards that a plan for this machine lists beside it."""


def gpu_named(name: str | None) -> Gpu | None:
    """The kind of GPU that a driver's name means, or None: a laptop's card, a 4090 D or an H100 PCIe is another card."""
    if name is None or re.search(r"\b(Laptop|Mobile|Max-Q|MIG)\b", name):
        return None
    other = r"(?! ?(Ti|D|SUPER)\b)" if "RTX" in name else ""
    return next((gpu for gpu in GPUS if re.search(rf"\b(?:{gpu.driver or gpu.name})\b{other}", name)), None)


def card(text: str) -> Gpu:
    """The card that ``plan=`` names, as ``rtx4090`` or ``A100 80GB``. Raises ``ConfigError`` with those there are."""
    wanted = _plain(text)
    found = [gpu for gpu in GPUS if _plain(gpu.name) == wanted] or [
        gpu for gpu in GPUS if _plain(gpu.name).startswith(wanted)
    ]
    if not wanted or not found:
        raise ConfigError(f"plan={text}: wants true, cluster or a card: {', '.join(_plain(gpu.name) for gpu in GPUS)}")
    return found[0]


def _plain(text: str) -> str:
    return re.sub(r"[^a-z0-9]", "", text.lower())
