"""Several models in one picture: what a second of film, or a megapixel of a frame, costs each, and what it buys.

Enters: rows of several models. Leaves: plots as marks, in the order of ``MEASURES``: of each model at its own geometry, then of
all at one that they share. Rows of older versions, which do not say their geometry, are in none.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Mapping

from cinelora.config.metric_names import NEITHER_IS_BETTER, better
from cinelora.io.html.figure import Mark
from cinelora.studies.pareto import Group, Spot, marks_of_groups
from cinelora.studies.results import FOOTAGE, HELDOUT, OF_FILM, OF_PIXELS, STEP_OF_PIXELS, Result

MEASURES = ("tssim_warped", "warping_error", "flow_motion", f"{HELDOUT}frechet_scale", f"{HELDOUT}fvd_i3d")
"""What holds still, how much moves beside it, and how far it is from real footage."""
ACROSS = {OF_FILM: "seconds for a second of film", OF_PIXELS: "seconds for a megapixel of a frame"}
Size = tuple[int, int, int]
Numbered = tuple[int, Result]


def family_plots(rows: list[Result]) -> list[list[Mark]]:
    """The plots of every machine, those of most rows first; none of a single model."""
    alike = defaultdict[tuple[object, ...], list[Numbered]](list)
    for number, row in enumerate(rows, 1):
        if row.size:
            alike[row.place[1], bool(row.facts.get("compiled"))].append((number, row))
    found = list[list[Mark]]()
    for group in sorted(alike.values(), key=len, reverse=True):
        found += [plot for plot in _of_machine(group) if plot]
    return found


def _of_machine(rows: list[Numbered]) -> Iterator[list[Mark] | None]:
    geometries = geometries_of([row for _, row in rows])
    names = [name for name in MEASURES if any(name in row.numbers and row.step_s for _, row in rows)]
    for name in names:
        for title, sizes in geometries.items():
            across = OF_FILM if len(set(sizes.values())) > 1 else OF_PIXELS
            yield _plot(rows, sizes, name, f"{name}, {title}", across)
    if not names:
        for title, sizes in geometries.items():
            yield _plot(rows, sizes, "", f"peak memory in GiB, {title}", STEP_OF_PIXELS)


def geometries_of(rows: list[Result]) -> dict[str, dict[str, Size]]:
    """The size of each model's clips by a title: each its own, which is the largest that only it has, and those that all have."""
    sizes = defaultdict[str, set[Size]](set)
    for row in rows:
        if row.size:
            sizes[row.facts["model"]].add(row.size)
    if len(sizes) < 2:
        return {}
    shared = set.intersection(*sizes.values())
    own = {model: max(found - shared or found, key=_pixels) for model, found in sizes.items()}
    alike = {"{} frames of {}x{}".format(*size): dict.fromkeys(sizes, size) for size in sorted(shared, key=_pixels)}
    return ({} if len(set(own.values())) == 1 else {"each at its own size": own}) | alike


def _pixels(size: Size) -> int:
    frames, height, width = size
    return frames * height * width


def _plot(rows: list[Numbered], sizes: Mapping[str, Size], name: str, title: str, across: str) -> list[Mark] | None:
    """A measure, or without a name the memory, of every model; None where fewer than two have it."""
    groups = dict[str, Group]()
    for model, size in sizes.items():
        mine = [(number, row) for number, row in rows if row.facts["model"] == model and row.size == size]
        spots = [
            Spot(number, row.costs()[across], value)
            for number, row in mine
            if not row.trouble and across in row.costs() and (value := _value(row, name)) is not None
        ]
        real = next((row.numbers[name] for _, row in mine if row.name == FOOTAGE and name in row.numbers), None)
        if spots:
            groups[model] = Group(spots, real)
    if len(groups) < 2:
        return None
    more = None if name in NEITHER_IS_BETTER else better(f"heldout/{name.removeprefix(HELDOUT)}") == "max"
    return marks_of_groups(groups, title, ACROSS.get(across, "seconds of a step for a megapixel of a frame"), more)


def _value(row: Result, name: str) -> float | None:
    return row.numbers.get(name) if name else row.peak_gib
