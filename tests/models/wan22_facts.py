"""The facts of Wan2.2's families, as tests of what lies below them need."""

from cinelora.families.family import Family, Geometry, Network
from cinelora.families.wan21 import WAN21

A14B = Family(
    "wan22_a14b",
    WAN21.geometry,
    512,
    tuple(
        Network(f"{task}_{expert}", channels, shows_first_frame=task == "i2v")
        for task, channels in (("t2v", 16), ("i2v", 36))
        for expert in ("high_noise", "low_noise")
    ),
)
TI2V = Family("wan22_5b", Geometry(16, 4, 2, 48), 512, (Network("ti2v", 48, shows_first_frame=True),))
