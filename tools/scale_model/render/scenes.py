"""Scenes and captions: what there is to see and what it is called. Numbers and words only, no pixels, no light.

The same seed is the same scene in every look. Lengths are metres with the subject's place as origin, x to the right, y
up from the ground, z away from the camera; angles are degrees; times are seconds.
"""

from __future__ import annotations

import random
from dataclasses import dataclass, fields, replace
from typing import Any

from cinelora.errors import ConfigError
from tools.scale_model.render.looks import LOOKS

COLOURS = ("red", "green", "blue", "yellow", "white", "black")
MOVES = {"pans": ("left", "right"), "moves": ("in", "out"), "orbits": ("left", "right")}
VOCABULARY: dict[str, tuple[Any, ...]] = {
    "place": ("street", "room"),
    "weather": ("dry", "rain", "fog"),
    "time": ("noon", "dusk", "night"),
    "camera": (*(f"{move} {way}" for move, ways in MOVES.items() for way in ways), "is hand-held", "stands still"),
    "coat": COLOURS,
    "count": (1, 2, 3),
    "act": ("walks left", "walks right", "stands"),
    "car": (None, *COLOURS),
    "car_direction": ("left", "right"),
}
"""Every attribute that a caption names, and its values: the fields of a scene that a benchmark may set."""


@dataclass(frozen=True)
class Scene:
    """What there is to see, whatever the look. The first group is ``VOCABULARY``; the second composes the picture."""

    seed: int
    place: str
    weather: str
    time: str
    """Seen in looks that have more than one hour."""
    camera: str
    coat: str
    count: int
    act: str
    car: str | None
    car_direction: str

    hat: bool
    heading: float
    """Which way the camera looks at the subject: 0 is straight at the houses or the far wall."""
    framing: float
    """Turn of the camera that sets the subject beside the middle."""
    distance: float
    eye: float
    """Height of the camera."""
    speed: float
    """Of a walking figure, per second."""
    side: int
    """-1 or 1: where the light comes from."""
    opening: float
    """x of the side street, or of the door."""
    wording: int


def draw_scene(seed: int, **overrides: Any) -> Scene:
    """The scene of a seed; ``overrides`` replace fields of it and keep everything else.

    A room has neither weather nor cars: those drawn are dropped. Raises ``ConfigError`` for a value outside the
    vocabulary, and for weather or a car asked for in a room.
    """
    draw = random.Random(seed)
    # Every line below takes the next numbers of the generator: in another order, or with one line more in their midst, every
    # seed is another scene, and the shipped footage is no longer what its seeds say. What is new comes last. A value that
    # stands twice in a choice is chosen twice as often.
    coat = draw.choice(VOCABULARY["coat"])
    scene = Scene(
        seed=seed,
        place=draw.choice(("street", "street", "room")),
        weather=draw.choice(("dry", "dry", "rain", "fog")),
        time=draw.choice(VOCABULARY["time"]),
        camera=draw.choice(VOCABULARY["camera"]),
        coat=coat,
        count=draw.choice((1, 1, 2, 3)),
        act=draw.choice(VOCABULARY["act"]),
        # a car in the colour of the coat would blur whose colour the caption means
        car=draw.choice((None, *(paint for paint in COLOURS if paint != coat))),
        car_direction=draw.choice(VOCABULARY["car_direction"]),
        hat=draw.random() < 0.5,
        heading=draw.choice((-1, 1)) * draw.uniform(4, 24),
        framing=draw.uniform(-4, 4),
        distance=draw.uniform(-0.2, 0.2),
        eye=draw.uniform(1.0, 1.45),
        speed=draw.uniform(0.55, 0.78),
        side=draw.choice((-1, 1)),
        opening=draw.uniform(-1, 1),
        wording=draw.randrange(3),
    )
    _check(overrides)
    # All was drawn before anything is replaced: an override leaves the rest of the scene as its seed has it.
    scene = replace(scene, **overrides)
    if scene.place != "room":
        return scene
    for name, absent in (("weather", "dry"), ("car", None)):
        if overrides.get(name, absent) != absent:
            raise ConfigError(f"{name}={overrides[name]} is not seen in a room; use place=street or {name}={absent}")
    return replace(scene, weather="dry", car=None)


def _check(overrides: dict[str, Any]) -> None:
    names = [field.name for field in fields(Scene) if field.name != "seed"]
    for name, value in overrides.items():
        if name not in names:
            raise ConfigError(f"a scene has no {name}; it has {', '.join(names)}")
        if value not in VOCABULARY.get(name, (value,)):
            raise ConfigError(f"{name}={value} cannot be drawn; use one of {', '.join(map(str, VOCABULARY[name]))}")


def describe(scene: Scene, look: str, hidden: bool = False) -> str:
    """The caption: everything it says can be seen. Colours are named where the look has any, the look itself never.

    With ``hidden`` it also names the scene's colours and its hour where the look hides them: whoever is taught that a red coat at
    dusk is grey and dark, draws grey and dark whatever a prompt asks for.
    """
    told = _clauses(scene, look, hidden)
    who, camera = told["who"] + told["coat"] + told["act"] + told["way"], f"the camera {scene.camera}"
    where, car = told["where"] + told["when"], told["car"]
    # the order of the words says nothing of the scene, so that a model cannot learn to read the first ones alone
    sentence = (
        f"{who} {where}{car}; {camera}.",
        f"{where}, {who}{car}; {camera}.",
        f"{camera}: {who} {where}{car}.",
    )[scene.wording % 3]
    return _begun(sentence)


def describe_in_part(scene: Scene, look: str, number: int, hidden: bool = False) -> str:
    """A caption that leaves most unsaid, as people's prompts do; each ``number`` chooses again what it says.

    Whoever is taught such captions beside the whole one also knows the look where a prompt names no hour and no coat.
    """
    draw, told = random.Random(f"{scene.seed} {number}"), _clauses(scene, look, hidden)

    def maybe(clause: str, chance: float = 0.5) -> str:
        return told[clause] if draw.random() < chance else ""

    where = draw.choice((told["where"], f"{'on a' if scene.place == 'street' else 'in a'} {scene.place}"))
    where += maybe("when", 0.3)
    act = maybe("act", 0.8)
    who = told["who"] + maybe("coat") + act + (maybe("way") if act else "")
    sentences = [f"{who} {where}", f"{where}, {who}", who]
    if scene.car:
        sentences += [f"{who} {where}{told['car']}", f"{told['car'].removeprefix(' as ')} {where}"]
    return _begun(draw.choice(sentences) + (f"; the camera {scene.camera}" if draw.random() < 0.2 else "") + ".")


def _clauses(scene: Scene, look: str, hidden: bool) -> dict[str, str]:
    """What can be told of a scene, in words that can be put together; empty where there is no car."""
    film = LOOKS[look]
    coloured, hour = hidden or film.saturation, scene.time if hidden else film.hours[scene.time].name
    plural = scene.count > 1
    coat = f"{scene.coat} coat" if coloured else "long coat"
    hat = (" and hats" if plural else " and hat") * scene.hat
    # "walks left" is read as a verb, without its s where several act, and a way, which "stands" does not have
    verb, _, way = scene.act.partition(" ")
    dry = "wet street" if film.wetness > 0.3 else "dry street"
    street = {"rain": "on a street in the rain", "fog": "on a street in fog", "dry": f"on a {dry}"}[scene.weather]
    paint = f"{scene.car} car" if coloured else "car"
    return {
        "who": {1: "a man", 2: "two men", 3: "three men"}[scene.count],
        "coat": f" in {coat}s{hat}" if plural else f" in a {coat}{hat}",
        "act": f" {verb.removesuffix('s' * plural)}",
        "way": f" to the {way}" if way else "",
        "where": street if scene.place == "street" else "in a room",
        "when": f" at {hour}",
        "car": f" as a {paint} drives to the {scene.car_direction}" if scene.car else "",
    }


def _begun(sentence: str) -> str:
    return sentence[0].upper() + sentence[1:]
