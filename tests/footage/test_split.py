"""Which shots are held out: as many as asked for, the same every time, and none on both sides."""

import hashlib
import random

import pytest

from cinelora.footage.holdout import Unit, split


def film(name: str, num_shots: int, content: str | None = None) -> list[Unit]:
    return [Unit(f"{name}.mp4", content or f"content of {name}", 40 * i, 40 * i + 40) for i in range(num_shots)]


def by_file_alone(hashes: set[str], holdout: float, seed: int) -> set[str]:
    """How files were held out before shots could be: the same share of the same files must come out."""
    order = sorted(hashes, key=lambda content: hashlib.sha256(f"{seed}:{content}".encode()).hexdigest())
    if holdout <= 0 or len(order) < 2:
        return set()
    return set(order[: min(max(round(holdout * len(order)), 1), len(order) - 1)])


@pytest.mark.parametrize("holdout", [0.0, 0.01, 0.1, 0.4, 0.9])
@pytest.mark.parametrize("count", [1, 2, 9, 10, 60])
def test_files_are_held_out_as_they_always_were(count: int, holdout: float):
    units = [unit for i in range(count) for unit in film(f"clip{i}", 1 if count < 10 else 3)]
    for seed in range(3):
        expected = by_file_alone({unit.content for unit in units}, holdout, seed)
        sides = split(units, holdout, seed, "auto")
        assert {u.content for u, side in zip(units, sides, strict=True) if side == "heldout"} == expected


def random_footage(draw: random.Random) -> list[Unit]:
    """Films of some shots, copies of some under other names, and shots that look like others."""
    units = [unit for i in range(draw.randint(1, 15)) for unit in film(f"film{i}", draw.randint(1, 12))]
    copied = draw.choice(units).content
    units += [Unit(f"copy/{u.path}", u.content, u.start, u.end) for u in units if u.content == copied]
    twins = [str(draw.randint(0, 5)) if draw.random() < 0.3 else None for _ in units]
    units = [Unit(u.path, u.content, u.start, u.end, twin) for u, twin in zip(units, twins, strict=True)]
    draw.shuffle(units)
    return units


@pytest.mark.parametrize("by", ["auto", "file", "shot"])
def test_nothing_is_on_both_sides(by: str):
    for seed in range(200):
        draw = random.Random(seed)
        units, holdout = random_footage(draw), draw.random() * 0.9
        sides = split(units, holdout, seed, by)
        for same in (
            lambda u: (u.content, u.start, u.end),
            lambda u: u.twin and f"twin {u.twin}",
            lambda u: u.content if by == "file" else None,
        ):
            found: dict[object, set[str]] = {}
            for unit, side in zip(units, sides, strict=True):
                if same(unit) is not None:
                    found.setdefault(same(unit), set()).add(side)
            assert all(len(each) == 1 for each in found.values())
        again = list(zip(units, sides, strict=True))
        draw.shuffle(again)
        assert split([unit for unit, _ in again], holdout, seed, by) == [side for _, side in again], "order matters"


def test_few_films_are_split_by_shot_and_many_by_file():
    few, many = ([unit for i in range(count) for unit in film(f"f{i}", 20)] for count in (2, 10))
    sides = split(few, 0.1, 0, "auto")
    assert sides.count("heldout") == 4
    sides = split(many, 0.1, 0, "auto")
    assert sides.count("heldout") == 20
    assert len({u.path for u, side in zip(many, sides, strict=True) if side == "heldout"}) == 1
    assert split(few, 0.1, 0, "file").count("heldout") == 20


def test_a_name_does_not_matter_and_a_seed_does():
    units = film("a", 20)
    renamed = [Unit(f"sub/{u.path}", u.content, u.start, u.end) for u in units]
    assert split(units, 0.2, 0, "shot") == split(renamed, 0.2, 0, "shot")
    assert len({tuple(split(units, 0.2, seed, "shot")) for seed in range(6)}) > 1


def test_one_more_file_leaves_most_where_they_were():
    before = [unit for i in range(40) for unit in film(f"f{i}", 2)]
    old = dict(zip(before, split(before, 0.25, 0, "file"), strict=True))
    after = [*before, *film("new", 2)]
    new = dict(zip(after, split(after, 0.25, 0, "file"), strict=True))
    assert sum(old[unit] != new[unit] for unit in before) <= 4


def test_shots_that_all_look_the_same_are_all_trained_on():
    units = [Unit("a.mp4", "a", 10 * i, 10 * i + 10, "t") for i in range(8)]
    assert set(split(units, 0.5, 0, "shot")) == {"train"}
    lone = [*units, Unit("a.mp4", "a", 200, 300)]
    assert split(lone, 0.5, 0, "shot") == ["train"] * 8 + ["heldout"]


def test_folders_decide():
    units = [Unit("train/a.mp4", "a", 0, 9), Unit("heldout/b.mp4", "a", 0, 9), Unit("c.mp4", "c", 0, 9)]
    assert split(units, 0.5, 0, "auto", folders=True) == ["train", "heldout", "train"]
