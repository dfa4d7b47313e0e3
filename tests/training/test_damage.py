"""Files of a run that were damaged after they were written: each is noticed, and what can be made again is."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
import rank_pool
from small_runs import assert_same_adapter, assert_same_end, run_until_killed

from cinelora.adapters.run_directory import RunDirectory
from cinelora.config.schema import CheckpointConfig, TrainConfig
from cinelora.config.store import save_config
from cinelora.latents.cache import Index, encoding_path
from cinelora.training import run_stage
from cinelora.training.run_stage import train


@pytest.fixture(autouse=True)
def pooled() -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(run_stage, "launch", rank_pool.on_ranks)
        yield


def test_a_run_over_damaged_encodings_encodes_them_again_and_ends_at_the_same_bits(
    style_config: TrainConfig, tmp_path: Path, capfd: pytest.CaptureFixture[str]
):
    config = replace(
        style_config,
        stage=replace(style_config.stage, steps=6),
        checkpoint=CheckpointConfig(every_steps=2, keep=2),
        cache=str(tmp_path / "cache"),
    )
    whole, run = (RunDirectory(tmp_path / name) for name in ("whole", "damaged"))
    for one in (whole, run):
        one.path.mkdir()
        save_config(config, one.config)
    assert train(config, whole.path) == 0
    run_until_killed(2, config, run)
    index = Index.load(run.dataset)
    for number, entry in enumerate(index.split("train")[:3]):
        path = encoding_path(tmp_path / "cache" / "latents", entry.video if number else entry.text)
        content = path.read_bytes()
        path.write_bytes(content[:-5] + bytes([content[-5] ^ 16]) + content[-4:])
    assert train(replace(config, resume=str(run.path)), run.path) == 0
    assert "it is encoded again, and the run continues" in capfd.readouterr().out
    assert_same_end(run, whole)
    assert_same_adapter(run, whole, "style")
