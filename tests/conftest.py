"""What every test may ask for: the embedded model and its encodings, built once per session, and small real runs."""

import gc
import os
import shutil
import signal
import tempfile
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

os.environ.setdefault("HF_HUB_OFFLINE", "1")
# before torch is imported: several threads of a small tensor wait for each other by spinning, a hundred times longer than
# they compute where another process wants the same cores
os.environ.setdefault("OMP_NUM_THREADS", "1")
# what a test compares is computed on the CPU on both sides, also on a machine with a GPU; CUDA_VISIBLE_DEVICES=0 asks for
# the few tests that time a GPU's kernels
os.environ.setdefault("CUDA_VISIBLE_DEVICES", "")

# what the tests start is not noted among what the user has started
os.environ["XDG_STATE_HOME"] = STATE = tempfile.mkdtemp(prefix="cinelora-test-state-")
# what a command sets for all that it starts, and so has set here as soon as a test calls one in this process
os.environ["PYTHONSAFEPATH"] = "1"

import numpy as np
import pytest
import rank_pool
import torch

from cinelora.adapters.run_directory import RunDirectory
from cinelora.config.schema import (
    CheckpointConfig,
    DataConfig,
    LoggerConfig,
    ModelConfig,
    StageConfig,
    StrategyConfig,
    TrainConfig,
    ValidationConfig,
)
from cinelora.families.wan import embedded
from cinelora.families.wan.bundle import WanBundle
from cinelora.io.media import write_mp4


@pytest.hookimpl(trylast=True)  # what is deselected is no longer there
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Begin with the long tests, half of them on each of two workers, which are given a half of ``items`` each."""
    long = [item for item in items if item.get_closest_marker("long")]
    others = [item for item in items if not item.get_closest_marker("long")]
    half = max(0, len(items) // 2 - len(long[::2]))
    items[:] = [*long[::2], *others[:half], *long[1::2], *others[half:]]


def pytest_collection_finish() -> None:
    """Leave all that was imported out of every later garbage collection, of which a small run makes several: 0.5 s each."""
    gc.collect()
    gc.freeze()


# A shell that starts the tests in the background has them ignore Ctrl-C, and every process that they start would, too.
signal.signal(signal.SIGINT, signal.default_int_handler)


@pytest.fixture(scope="session", autouse=True)
def no_state_is_left() -> Iterator[None]:
    yield
    shutil.rmtree(STATE)


@pytest.fixture(scope="session", autouse=True)
def shipped_files_stay_as_they_are() -> Iterator[None]:
    """Tests damage copies: what is shipped is whole when they end."""
    yield
    embedded.check_shipped.cache_clear()
    if embedded.is_trained():
        embedded.check_shipped(embedded.HOME)


@pytest.fixture(scope="session")
def small_model() -> ModelConfig:
    """The embedded model at 32x48 pixels and 9 frames."""
    return ModelConfig(
        name="tiny",
        t2v="embedded:tiny-t2v",
        i2v="embedded:tiny-i2v",
        dtype="fp32",
        num_layers=6,
        num_heads=4,
        hidden_size=192,
        height=32,
        width=48,
        fps=16,
        num_frames=9,
        sampling_shift=3.0,
    )


def moving_bars(seed: int, num_frames: int = 12) -> np.ndarray:
    """A clip (T, 32, 48, 3) of coloured bars that drift, different for every seed."""
    colours = np.random.default_rng(seed).integers(0, 256, (6, 3), dtype=np.uint8)
    frame = np.repeat(colours, 8, axis=0)[None].repeat(32, axis=0)
    return np.stack([np.roll(frame, shift, axis=1) for shift in range(num_frames)])


@pytest.fixture(scope="session")
def cache(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A cache folder for the whole session, so that the embedded model is built once."""
    return tmp_path_factory.mktemp("cache")


@pytest.fixture(scope="session")
def t2v(cache: Path) -> WanBundle:
    return WanBundle("embedded:tiny-t2v", dtype="fp32", cache=cache)


@pytest.fixture(scope="session")
def i2v(cache: Path) -> WanBundle:
    return WanBundle("embedded:tiny-i2v", dtype="fp32", cache=cache)


@pytest.fixture(scope="session")
def footage(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Six clips with captions."""
    folder = tmp_path_factory.mktemp("footage")
    for number in range(6):
        write_mp4(folder / f"clip{number}.mp4", moving_bars(number), fps=16)
        (folder / f"clip{number}.txt").write_text(f"bars, number {number}")
    return folder


@pytest.fixture
def style_config(footage: Path, small_model: ModelConfig, cache: Path) -> TrainConfig:
    return TrainConfig(
        model=small_model,
        stage=StageConfig(name="style", transformer="t2v", num_frames=1, steps=8, batch_size=2),
        data=DataConfig(name="bars", root=str(footage), prepared=f"{footage}-prepared", judged=False, holdout=0.2),
        strategy=StrategyConfig(),
        logger=LoggerConfig(name="csv", every_steps=1),
        checkpoint=CheckpointConfig(every_steps=2, keep=2),
        validation=ValidationConfig(every_steps=4, samples=2),
        cache=str(cache),
    )


@pytest.fixture
def motion_config(style_config: TrainConfig) -> TrainConfig:
    stage = StageConfig(
        name="motion", transformer="i2v", num_frames=9, image_condition=True, steps=8, batch_size=2, accumulation=2
    )
    return replace(style_config, stage=stage)


@pytest.fixture(autouse=True)
def no_forked_process_outlives_its_test() -> Iterator[None]:
    """Whatever way a test ends."""
    yield
    rank_pool.end_all()


@pytest.fixture
def pretrain_config(style_config: TrainConfig) -> TrainConfig:
    """Windows of 9 rendered frames, of which half the steps see the first alone."""
    stage = replace(style_config.stage, name="pretrain", num_frames=9, stills=0.5, steps=6)
    data = DataConfig(name="rendered", look="daylight", clips=4, heldout_clips=2)
    return replace(style_config, stage=stage, data=data, ema_decay=0.9)


@pytest.fixture
def pooled(monkeypatch: pytest.MonkeyPatch) -> None:
    """Lets every command take its ranks from tests/rank_pool.py, where they start in a tenth of a second."""
    from cinelora.sampling import scene
    from cinelora.studies import run_study
    from cinelora.training import run_stage

    for module in (scene, run_stage, run_study):
        monkeypatch.setattr(module, "launch", rank_pool.on_ranks)


@pytest.fixture(scope="session")
def both_adapters(
    tmp_path_factory: pytest.TempPathFactory, small_model: ModelConfig, cache: Path, t2v: WanBundle, i2v: WanBundle
) -> RunDirectory:
    """A run with both adapters, drawn at random so that they clearly do something."""
    from cinelora.adapters.lora_layers import adapter_state, add_adapter
    from cinelora.config.schema import LoraSpec
    from cinelora.latents.cache import Entry, Index
    from cinelora.training.export import export

    run = RunDirectory(tmp_path_factory.mktemp("run"))
    index = Index((Entry("a", "train", "", "text-0", "video-0", None),), {})
    for kind, bundle in (("style", t2v), ("motion", i2v)):
        stage = StageConfig(
            name=kind, transformer="t2v" if kind == "style" else "i2v", image_condition=kind == "motion"
        )
        config = TrainConfig(model=small_model, stage=stage, data=DataConfig(trigger="nwr"), cache=str(cache))
        transformer = bundle.load_transformer()
        add_adapter(transformer, kind, LoraSpec(8, 16.0), seed=0)
        generator = torch.Generator().manual_seed(1)
        state = adapter_state(transformer, kind)
        export(config, run, index, {k: torch.randn(v.shape, generator=generator) * 0.3 for k, v in state.items()})
    return run
