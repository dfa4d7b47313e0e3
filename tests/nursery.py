"""What a process of tests/rank_pool.py finds imported: all that ranks and commands import sooner or later, once a session."""

# ruff: noqa: F401, E402
import av
import diffusers.models.autoencoders.autoencoder_kl_wan
import diffusers.models.transformers.transformer_wan
import diffusers.schedulers.scheduling_flow_match_euler_discrete
import diffusers.schedulers.scheduling_unipc_multistep
import ftfy
import hydra
import lightning.pytorch
import omegaconf.grammar_parser
import PIL.ImageDraw
import PIL.JpegImagePlugin
import pytest
import torch
import torch._dynamo
import torch._inductor.compile_fx
import torch.distributed.algorithms.ddp_comm_hooks

import cinelora.card
import cinelora.cli.compose
import cinelora.cli.main
import cinelora.families.wan.embedded
import cinelora.metrics.suite
import cinelora.sampling.make_clips
import cinelora.sampling.sampler
import cinelora.sampling.step_cache
import cinelora.studies.run_study
import cinelora.training.callbacks.preview
import cinelora.training.callbacks.validation_clips
import cinelora.training.encode
import cinelora.training.fit
from cinelora.training.zero import import_deepspeed

import_deepspeed(gpu=torch.cuda.is_available())

import deepspeed.runtime.zero.muon.muon_optimizer  # an engine asks for it, and it for torch's compiler: seconds a rank
