"""What colours go through before they are looked at: HDR mapped to ordinary colours, a team's own LUT.

Enters: RGB frames. Leaves: RGB frames, by FFmpeg's lut3d and lut1d, tetrahedral. Tone mapping is a LUT as well, computed here. It
does not know files of footage.

Tone mapping, with signals of 0 to 1 and light in cd/m2:

1. PQ: SMPTE ST 2084, equations 4.1 (EOTF). HLG: ITU-R BT.2100, table 5, inverse OETF, then its OOTF for a display of 1000 cd/m2
   with gamma 1.2. Wide primaries alone: ITU-R BT.1886, gamma 2.4.
2. The EETF of ITU-R BT.2390-10, 5.4.1, on the largest of R, G and B, which all three are scaled by: from ``PEAK`` down to
   ``WHITE``, the diffuse white of ITU-R BT.2408. Wide primaries alone need none.
3. BT.2020 to BT.709 primaries, ITU-R BT.2087, then what lies outside is clipped.
4. The inverse of BT.1886, gamma 2.4.
"""

from __future__ import annotations

import math
import tempfile
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from av.filter import Graph
from numpy.typing import NDArray

from cinelora.errors import FileError, FootageError
from cinelora.io.plain_data import MOST_OF_LISTS, read_text

if TYPE_CHECKING:
    from av import VideoFrame

    from cinelora.footage.colour import Hdr

Values = NDArray[np.float64]

PEAK, WHITE = 1000.0, 203.0
"""cd/m2: what most HDR is mastered to, and what becomes white."""
GRID = 65
"""Points on each side of the tone-mapping LUT."""
LARGEST = {"LUT_3D_SIZE": 256, "LUT_1D_SIZE": 65536}
"""Points on a side of a .cube file that are read, by the word that names its size."""
PQ_M1, PQ_M2, PQ_C1, PQ_C2, PQ_C3 = 2610 / 16384, 2523 / 32, 3424 / 4096, 2413 / 128, 2392 / 128
"""The constants of PQ, as SMPTE ST 2084 names them."""
TO_BT709 = np.array([[1.6605, -0.5876, -0.0728], [-0.1246, 1.1329, -0.0083], [-0.0182, -0.1006, 1.1187]])
"""Linear BT.2020 to BT.709: ITU-R BT.2087, annex 2, the inverse of its matrix M1."""


# -- tone mapping ------------------------------------------------------------------------------------------------------


def pq_to_light(signal: Values) -> Values:
    """cd/m2 of a PQ signal: SMPTE ST 2084, equation 4.1."""
    # PQ spends its steps as the eye sees: of 0 to 10,000 cd/m2, half of all signals lie below 92.
    root = np.clip(signal, 0, 1) ** (1 / PQ_M2)
    light: Values = 10000 * (np.maximum(root - PQ_C1, 0) / (PQ_C2 - PQ_C3 * root)) ** (1 / PQ_M1)
    return light


def light_to_pq(light: Values) -> Values:
    """The inverse: SMPTE ST 2084, equation 5.1."""
    power = (np.maximum(light, 0) / 10000) ** PQ_M1
    signal: Values = ((PQ_C1 + PQ_C2 * power) / (1 + PQ_C3 * power)) ** PQ_M2
    return signal


def hlg_to_light(signal_rgb: Values) -> Values:
    """cd/m2 of an HLG signal (..., RGB) on a display of ``PEAK``: ITU-R BT.2100, table 5."""
    # HLG stores the light of the scene, not that of a screen: a root in the shadows, a logarithm in the highlights. The
    # OOTF makes of the scene what a screen shows, by a power of luma that all three colours share, so that hues stay.
    a, b, c = 0.17883277, 0.28466892, 0.55991073
    signal = np.clip(signal_rgb, 0, 1)
    scene = np.where(signal <= 0.5, signal**2 / 3, (np.exp((signal - c) / a) + b) / 12)
    luma = scene @ np.array([0.2627, 0.6780, 0.0593])
    light: Values = PEAK * scene * np.maximum(luma, 1e-9)[..., None] ** 0.2
    return light


def eetf(light: Values) -> Values:
    """Light up to ``PEAK`` within ``WHITE``, with a soft knee: ITU-R BT.2390-10, 5.4.1, black left where it is."""
    # Below the knee nothing changes. Above it a cubic (a Hermite spline) begins with slope 1, so that no edge is seen, and
    # ends flat at `WHITE`: highlights are pressed together instead of clipped. All of it happens on PQ signals, where equal
    # steps look equal. `t` is 0 at the knee and 1 at `PEAK`.
    peak, white = light_to_pq(np.array([PEAK, WHITE]))
    signal, most = np.minimum(light_to_pq(light) / peak, 1.0), white / peak
    knee = 1.5 * most - 0.5
    t = np.clip((signal - knee) / (1 - knee), 0, 1)
    spline = (2 * t**3 - 3 * t**2 + 1) * knee + (t**3 - 2 * t**2 + t) * (1 - knee) + (3 * t**2 - 2 * t**3) * most
    return pq_to_light(np.where(signal < knee, signal, spline) * peak)


def tone_mapped(signal_rgb: Values, kind: Hdr) -> Values:
    """RGB signals (..., 3) of 0 to 1 in PQ, HLG or plain BT.2020, as BT.709 ones: the module's four steps."""
    if kind == "bt2020":
        linear = np.clip(signal_rgb, 0, 1) ** 2.4
    else:
        light = pq_to_light(signal_rgb) if kind == "pq" else hlg_to_light(signal_rgb)
        # Pressing R, G and B together one by one would turn a red lamp orange. So one factor is found for the largest of the
        # three, and all are multiplied by it.
        brightest = np.maximum(light.max(-1, keepdims=True), 1e-6)
        linear = light * (eetf(brightest) / brightest) / WHITE
    mapped: Values = np.clip(linear @ TO_BT709.T, 0, 1) ** (1 / 2.4)
    return mapped


# -- LUTs --------------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Cube:
    """A LUT: ``table`` (size, size, size, 3) indexed by blue, green, red, or (size, 3); the signals its grid spans."""

    table: Values
    low: tuple[float, ...] = (0.0, 0.0, 0.0)
    high: tuple[float, ...] = (1.0, 1.0, 1.0)

    def as_text(self) -> str:
        """As a .cube file, red fastest: Adobe's Cube LUT Specification 1.0."""
        kind = "LUT_3D_SIZE" if self.table.ndim == 4 else "LUT_1D_SIZE"
        rows = "\n".join(f"{red:.7g} {green:.7g} {blue:.7g}" for red, green, blue in self.table.reshape(-1, 3))
        low, high = (" ".join(map(str, ends)) for ends in (self.low, self.high))
        return f"{kind} {len(self.table)}\nDOMAIN_MIN {low}\nDOMAIN_MAX {high}\n{rows}\n"


@lru_cache(maxsize=4)
def tone_mapping(kind: Hdr) -> Cube:
    """``tone_mapped`` on a grid."""
    steps = np.linspace(0, 1, GRID)
    blue, green, red = np.meshgrid(steps, steps, steps, indexing="ij")
    return Cube(tone_mapped(np.stack([red, green, blue], -1), kind))


@lru_cache(maxsize=4)
def read_cube(path: Path) -> Cube:
    """Read a .cube file. Raises ``FootageError`` that names the line where it is damaged."""
    try:
        lines = read_text(path, MOST_OF_LISTS).splitlines()
    except FileError as error:
        raise FootageError(f"data.lut={path} is no .cube file that can be read: {error}") from error
    words: dict[str, list[float]] = {}
    rows: list[list[float]] = []
    for number, line in enumerate(lines, start=1):
        name, *values = line.split("#")[0].split() or [""]
        if not name or name == "TITLE":
            continue
        try:
            numbers = [float(word) for word in (values if name[0].isalpha() else (name, *values))]
        except ValueError as error:
            raise FootageError(f"data.lut={path}, line {number}: {line.strip()[:40]!r} is no row of numbers") from error
        if name[0].isalpha():
            words[name] = numbers
        elif len(numbers) != 3:
            raise FootageError(f"data.lut={path}, line {number}: a row has 3 numbers, not {len(numbers)}")
        else:
            rows.append(numbers)
    return _cube(path, words, rows)


def _cube(path: Path, words: dict[str, list[float]], rows: list[list[float]]) -> Cube:
    sizes = [name for name in LARGEST if name in words]
    if len(sizes) != 1:
        raise FootageError(f"data.lut={path} names no size, or two: want LUT_3D_SIZE or LUT_1D_SIZE and a number")
    name = sizes[0]
    number = next(iter(words[name]), 0.0)
    if not 2 <= number <= LARGEST[name]:
        raise FootageError(f"data.lut={path} has {name} {number:g}; want 2 to {LARGEST[name]}")
    size = int(number)
    sides = (size,) * (3 if name == "LUT_3D_SIZE" else 1)
    if len(rows) != math.prod(sides):
        raise FootageError(
            f"data.lut={path} has {len(rows)} rows of colours where {name} {size} makes {math.prod(sides)}"
        )
    table = np.array(rows)
    low, high = (words.get(f"DOMAIN_{end}", [float(end == "MAX")] * 3) for end in ("MIN", "MAX"))
    is_odd = table.shape[1] != 3 or not np.isfinite(table).all() or not len(low) == len(high) == 3
    if is_odd or not all(a < b for a, b in zip(low, high, strict=True)):
        raise FootageError(f"data.lut={path} is damaged: it holds numbers that are no colours, or an empty domain")
    return Cube(table.reshape(*sides, 3), tuple(low), tuple(high))


class Grade:
    """LUTs one after another. Takes float RGB frames (gbrpf32le) of one size, gives uint8 pixels HWC."""

    def __init__(self, cubes: list[Cube]) -> None:
        self.cubes = cubes
        self._size = (0, 0)

    def __call__(self, frame: VideoFrame) -> NDArray[np.uint8]:
        """The frame through every LUT."""
        if (frame.height, frame.width) != self._size:
            self._graph, self._size = self._built(frame), (frame.height, frame.width)
        frame.pts = None
        self._graph.push(frame)
        graded: Any = self._graph.pull()
        pixels: NDArray[np.uint8] = np.rint(255 * np.clip(graded.to_ndarray(), 0, 1)).astype(np.uint8)
        return pixels

    def _built(self, frame: VideoFrame) -> Graph:
        """FFmpeg reads the LUTs from files, while it is set up: of plain names, whatever the user's are called."""
        graph = Graph()
        source = graph.add_buffer(width=frame.width, height=frame.height, format=frame.format, time_base="1/25")  # type: ignore[arg-type]
        # lut3d loads 32 aligned bytes at a time, but rows of PyAV's own frames begin at multiples of 16: that would crash.
        # A copy made inside the graph is aligned.
        last = graph.add("copy")
        source.link_to(last)
        with tempfile.TemporaryDirectory() as folder:
            for number, cube in enumerate(self.cubes):
                file = Path(folder) / f"{number}.cube"
                file.write_text(cube.as_text())
                kind, interp = ("lut3d", "tetrahedral") if cube.table.ndim == 4 else ("lut1d", "linear")
                lut = graph.add(kind, file=str(file), interp=interp)
                last.link_to(lut)
                last = lut
            last.link_to(graph.add("buffersink"))
            graph.configure()
        return graph
