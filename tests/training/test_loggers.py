from dataclasses import replace
from pathlib import Path

import pytest
import wandb

from cinelora.config.schema import LoggerConfig, TrainConfig
from cinelora.training.loggers import make_logger


@pytest.mark.parametrize("rank", [0, 1])
def test_wandb_without_a_key_is_offline_and_rank_0_says_so(
    rank: int,
    style_config: TrainConfig,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
):
    monkeypatch.delenv("WANDB_API_KEY", raising=False)
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("RANK", str(rank))
    monkeypatch.setenv("WANDB_MODE", "disabled")  # what is said is looked at here, not what W&B writes
    make_logger(replace(style_config, logger=LoggerConfig(name="wandb")), tmp_path, 0)
    wandb.finish()
    line = f"W&B logs offline into {tmp_path / 'logs' / 'wandb'}; `wandb sync` uploads them\n"
    assert capsys.readouterr().out.count(line) == (rank == 0)
