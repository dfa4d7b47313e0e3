"""Training every weight: the same stage, resumed bit for bit, and what it leaves is a transformer."""

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from diffusers import WanTransformer3DModel
from small_runs import run_here

from cinelora.adapters.run_directory import RunDirectory
from cinelora.cli.small_command import request_of
from cinelora.config.schema import TrainConfig
from cinelora.errors import AdapterError, ConfigError
from cinelora.families.wan.embedded import load_encoders
from cinelora.training.fit import train_rank
from cinelora.training.module import is_still_step
from tools.scale_model.__main__ import PROGRAMS, AdoptRequest, main
from tools.scale_model.whole_transformer import WholeTransformer


def weights(run: RunDirectory) -> dict[str, torch.Tensor]:
    return WanTransformer3DModel.from_pretrained(run.transformer).state_dict()


def test_a_resumed_run_ends_bit_for_bit_like_a_whole_one(pretrain_config: TrainConfig, tmp_path: Path):
    whole = run_here(pretrain_config, tmp_path / "whole")
    stopped = run_here(replace(pretrain_config, stage=replace(pretrain_config.stage, steps=4)), tmp_path / "stopped")
    train_rank(replace(pretrain_config, resume=str(stopped.path)), stopped)
    ours, theirs = weights(whole), weights(stopped)
    assert all(torch.equal(ours[name], theirs[name]) for name in ours)


def test_every_weight_moves_and_the_rest_of_the_run_is_like_any_other(
    pretrain_config: TrainConfig, cache: Path, tmp_path: Path
):
    run = run_here(pretrain_config, tmp_path)
    from cinelora.families.wan.embedded import embedded

    before = WanTransformer3DModel.from_pretrained(embedded("t2v", cache) / "transformer").state_dict()
    after = weights(run)
    assert after.keys() == before.keys()
    assert sum(torch.equal(before[name], after[name]) for name in before) < len(before) // 10  # bf16 hides small moves
    assert not run.adapter("style").exists()
    assert run.summary.exists()


def test_some_steps_see_the_first_frames_alone():
    drawn = [is_still_step(0, step, 0.3) for step in range(1000)]
    assert 0.25 < sum(drawn) / 1000 < 0.35
    assert drawn == [is_still_step(0, step, 0.3) for step in range(1000)]
    assert not any(is_still_step(0, step, 0.0) for step in range(100))


def test_weights_of_another_transformer_are_refused(i2v, t2v):
    whole = WholeTransformer(t2v.load_transformer())
    assert whole.effect().overall == 0
    with pytest.raises(AdapterError, match="of another transformer: .*add_k_proj"):
        whole.load(dict(i2v.load_transformer().named_parameters()))


def test_weights_that_were_loaded_in_bf16_are_trained_in_float32(t2v):
    whole = WholeTransformer(t2v.load_transformer().bfloat16())
    assert {parameter.dtype for parameter in whole.parameters} == {torch.float32}
    weight = whole.parameters[0]
    with torch.no_grad():
        weight.mul_(1 + 1e-5)  # lost in bfloat16, whose neighbours are 4e-3 apart
    assert 0 < whole.effect().overall < 1e-5


def test_the_command_says_what_it_wants(capsys: pytest.CaptureFixture[str], tmp_path: Path):
    assert request_of(PROGRAMS["adopt"], ["pair=a", "run=b=c"]) == AdoptRequest("a", "b=c")
    assert request_of(PROGRAMS["encoders"], ["clips=70"]).clips == 70
    (tmp_path / "run" / "transformer").mkdir(parents=True)
    for words, part in [
        ([], "encoders|adopt"),
        (["encode"], "encoders|adopt"),
        (["encoders", "clip=3"], "clip is not a setting, did you mean clips?"),
        (["encoders", "clips=few"], "whole number"),
        (["encoders", "parts=text,vae"], "parts=text,vae: wants all|vae|text"),
        (["encoders", "frames=32"], "frames=32: wants 4n+1, such as 33"),
        (["encoders", "height=100"], "height=100: wants a multiple of 16, such as 96"),
        (["encoders", "width=0"], "width=0: wants at least 1"),
        (["encoders", "clips=64"], "clips=64: wants 65 or more"),
        (["encoders", "parts=vae", "clips=0"], "clips=0: wants at least 1"),
        (["encoders", "vae_batch=0"], "vae_batch=0: wants at least 1"),
        (["encoders", "vae_rate=0"], "vae_rate=0: wants more than 0 and at most 1"),
        (["encoders", "vae_rate=fast"], "vae_rate=fast: wants a number"),
        (["encoders", f"start={tmp_path}"], "wants the pair whose encoders go on learning"),
        (["encoders", "workers=-1"], "workers=-1: wants 0 or more"),
        (["adopt", f"run={tmp_path}"], "holds no transformer/"),
        (["adopt", f"run={tmp_path / 'run'}", f"pair={tmp_path}"], "holds no hashes.json; give a pair"),
    ]:
        assert main(words) == ConfigError("").exit_code
        assert part in capsys.readouterr().err


def test_encoders_go_on_from_where_a_pair_left_them(tmp_path: Path):
    small = ["encoders", "parts=vae", "clips=2", "frames=5", "height=32", "width=48", "vae_batch=1", "vae_steps=1"]
    assert main([*small, f"out={tmp_path / 'one'}"]) == 0
    assert main([*small, f"out={tmp_path / 'two'}", f"start={tmp_path / 'one'}", "vae_rate=1e-9"]) == 0
    one, two = (load_encoders(tmp_path / name) for name in ("one", "two"))
    for name, value in one.vae.state_dict().items():
        assert torch.allclose(two.vae.state_dict()[name], value, atol=1e-6), name
    assert all(torch.equal(v, two.text.state_dict()[n]) for n, v in one.text.state_dict().items())
