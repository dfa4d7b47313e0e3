"""Distilling in miniature: one pass from scenes to a file that the project reads, and the two laws its paths rest on."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch

from cinelora.adapters.adapter_file import read_adapter
from cinelora.adapters.adapter_header import judge_adapter
from cinelora.adapters.further_adapters import distilled_shift
from cinelora.config.schema import ModelConfig, SamplerConfig
from cinelora.config.shipped import values
from cinelora.io.hub import EMBEDDED_ADAPTER, resolve
from cinelora.nn.flow_matching import FlowMatching
from cinelora.sampling.denoise import sample
from tools.scale_model import distil
from tools.scale_model.__main__ import main
from tools.scale_model.distil_request import DistilRequest

SMALL = ["frames=5", "steps=2", "fine=2", "rank=2", "samples=2", "heldout=1", "batch=2", "shift=4"]


def test_two_steps_leave_an_adapter_that_says_what_it_is(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    out = tmp_path / "distilled.safetensors"
    assert main(["distil", *SMALL, "training_steps=2", f"out={out}"]) == 0
    report = json.loads(capsys.readouterr().out)
    assert len(report["losses"]) == 2
    assert report["psnr_db"].keys() == {"adapter, unguided", "base, guided", "base, unguided"}
    header = judge_adapter(out, ModelConfig(**values("model/tiny")))
    assert (header.transformer, distilled_shift(header)) == ("i2v", 4.0)
    adapter = read_adapter(out)
    assert adapter.config["distilled"]["steps"] == 2
    assert any(adapter.state[key].any() for key in adapter.state if "lora_B" in key)  # it has learnt something


def test_a_path_is_what_the_sampler_draws():
    """The teacher's path and the adapter's steps are the sampler's own: the same points, to the last bit."""
    request = DistilRequest(steps=2, fine=3, shift=5.0)
    noise, sigmas = torch.randn(1, 16, 1, 2, 2), distil.sigmas_of(request, torch.device("cpu"))

    def denoise(x: torch.Tensor, timestep: torch.Tensor) -> torch.Tensor:
        return x * timestep.view(-1, 1, 1, 1, 1) / 1000

    drawn = {
        n: sample(denoise, noise, FlowMatching.solver(SamplerConfig(name="euler", steps=n), request.shift))
        for n in (2, 6)
    }
    assert torch.allclose(distil.follow(denoise, noise, sigmas, request.nodes)[:, -1], drawn[6], rtol=1e-6, atol=0)
    few = distil.follow(denoise, noise, sigmas[request.nodes], [2])[:, -1]
    assert torch.allclose(few, drawn[2], rtol=1e-6, atol=0)


def test_the_shipped_one_is_of_the_shipped_transformer():
    header = judge_adapter(resolve(EMBEDDED_ADAPTER), ModelConfig(**values("model/tiny")))
    assert header.ours
    assert (header.marked, header.transformer, distilled_shift(header)) == (True, "i2v", 3.0)
