"""Where curves go: W&B (offline without a key), CSV or TensorBoard, below the run directory."""

from __future__ import annotations

import os
from dataclasses import asdict
from netrc import NetrcParseError, netrc
from pathlib import Path

from lightning.pytorch.loggers import CSVLogger, Logger, TensorBoardLogger, WandbLogger

from cinelora.config.schema import LoggerConfig, TrainConfig
from cinelora.launch import rank_info

WANDB_HOST = "api.wandb.ai"


def wandb_key_exists() -> bool:
    """Whether W&B would find a key: in the environment or in ~/.netrc."""
    if os.environ.get("WANDB_API_KEY"):
        return True
    try:
        return netrc(Path.home() / ".netrc").authenticators(WANDB_HOST) is not None
    except (OSError, NetrcParseError):
        return False


def make_logger(config: TrainConfig, run_dir: Path, first_step: int) -> Logger | None:
    """The logger that ``config.logger`` names; a resumed run writes beside what is there, not over it."""
    settings: LoggerConfig = config.logger
    part = f"from-step-{first_step:08d}"
    match settings.name:
        case "csv":
            return CSVLogger(run_dir / "logs", name="csv", version=part, flush_logs_every_n_steps=1)
        case "tensorboard":
            return TensorBoardLogger(run_dir / "logs", name="tensorboard", version=part)
        case "wandb":
            offline = not wandb_key_exists() if settings.offline is None else settings.offline
            if offline and rank_info().global_rank == 0:
                print(f"W&B logs offline into {run_dir / 'logs' / 'wandb'}; `wandb sync` uploads them")
            os.environ.setdefault("WANDB_SILENT", "true")
            name = f"{config.stage.name}-{config.data.name}-{run_dir.name}"
            logger = WandbLogger(project=settings.project, name=name, save_dir=run_dir / "logs", offline=offline)
            logger.log_hyperparams(asdict(config))
            return logger
        case _:
            return None
