"""Every layout that users have gives the same tensors; what is wrong with a checkpoint is said before it is loaded."""

from __future__ import annotations

import json
import os
import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from hub_server import serve
from rank_pool import forked
from safetensors.torch import load_file
from torch import Tensor
from wan_layouts import (
    Miniature,
    miniature,
    save,
    save_diffusers,
    save_files,
    save_shards,
    save_wan,
    to_fp8,
    wan_transformer,
    wan_vae,
)

from cinelora.cli.main import main
from cinelora.config.schema import ModelConfig
from cinelora.errors import ModelError
from cinelora.families.family import Part
from cinelora.families.wan.bundle import WanBundle
from cinelora.families.wan.checkpoint_layouts import survey
from cinelora.families.wan.load_weights import empty_module, num_parameters
from cinelora.families.wan.transformer_tensors import refuse_misfit
from cinelora.io.atomic import sha256_file

TENSORS = [Part.TRANSFORMER, Part.VAE, Part.TEXT_ENCODER, Part.IMAGE_ENCODER]


@pytest.fixture(scope="module", params=["t2v", "i2v"])
def mini(request: pytest.FixtureRequest) -> Miniature:
    return miniature(request.param)


@pytest.fixture(scope="module")
def i2v_mini() -> Miniature:
    return miniature("i2v")


@pytest.fixture(scope="module")
def t2v_mini() -> Miniature:
    return miniature("t2v")


def model(**settings: Any) -> ModelConfig:
    shape = {"num_layers": 2, "num_heads": 4, "hidden_size": 128, "ffn_dim": 64}
    return ModelConfig(name="mini", **{"dtype": "fp32", **shape, **settings})


def bundle(kind: str, **settings: Any) -> WanBundle:
    return WanBundle.from_config(model(**settings), kind, Path("unused"), torch.device("cpu"))


def output(part: Part, module: torch.nn.Module) -> Tensor:
    """What a part makes of an input that is always the same."""
    generator = torch.Generator().manual_seed(1)

    def draw(*shape: int) -> Tensor:
        return torch.randn(shape, generator=generator)

    with torch.no_grad():
        match part:
            case Part.TRANSFORMER:
                channels, image = module.config.in_channels, module.config.image_dim
                tokens = draw(1, 257, 32) if image else None
                return module(draw(1, channels, 2, 4, 4), torch.tensor([300.0]), draw(1, 512, 32), tokens).sample
            case Part.VAE:
                return module(draw(1, 3, 5, 16, 16)).sample
            case Part.TEXT_ENCODER:
                return module(torch.arange(3, 20)[None]).last_hidden_state
        return module(draw(1, 3, 224, 224), output_hidden_states=True).hidden_states[-2]


def assert_same(part: Part, loaded: torch.nn.Module, kept: torch.nn.Module) -> None:
    ours, theirs = loaded.state_dict(), kept.state_dict()
    assert ours.keys() == theirs.keys()
    assert all(torch.equal(ours[name], theirs[name]) for name in theirs)
    assert torch.equal(output(part, loaded), output(part, kept))
    assert not loaded.training
    assert not any(parameter.requires_grad for parameter in loaded.parameters())


LAYOUTS = ["diffusers", "sharded", "bf16 variant", "wan", "files", "prefixed files", "pair of folders"]


def written(layout: str, folder: Path, mini: Miniature) -> dict[str, str]:
    """Settings that name ``mini``, written in one of the layouts."""
    match layout:
        case "diffusers":
            return {mini.kind: str(save_diffusers(folder, mini))}
        case "sharded":
            return {mini.kind: str(save_diffusers(folder, mini, max_shard_size="100KB"))}
        case "bf16 variant":
            return {mini.kind: str(save_diffusers(folder, mini, variant="bf16"))}
        case "wan":
            return {mini.kind: str(save_wan(folder, mini))}
        case "files":
            return save_files(folder, mini)
        case "prefixed files":
            return save_files(folder, mini, "model.diffusion_model.")
    save_diffusers(folder, mini)
    parts = ("vae", "text_encoder", "tokenizer", "image_encoder")
    return {mini.kind: str(folder / "transformer")} | {part: str(folder / part) for part in parts}


@pytest.mark.parametrize("layout", LAYOUTS)
def test_every_layout_holds_the_same_model(layout: str, mini: Miniature, tmp_path: Path) -> None:
    settings = written(layout, tmp_path, mini)
    said = survey(model(**settings), mini.kind, Part)
    assert len(said) == {"bf16 variant": 4, "wan": 3}.get(
        layout, 0
    )  # precision of each part; what is read of each .pth
    ours = bundle(mini.kind, **settings)
    for part in TENSORS:
        assert_same(part, ours._load(part), mini.module(part))
    assert ours._load(Part.TOKENIZER)("two moons").input_ids


@pytest.mark.parametrize("scaled", [False, True])
@pytest.mark.parametrize("prefix", ["", "model.diffusion_model."])
def test_fp8_is_widened_with_its_scale(scaled: bool, prefix: str, i2v_mini: Miniature, tmp_path: Path) -> None:
    stored, worth = to_fp8(wan_transformer(i2v_mini.transformer.state_dict()), scaled=scaled, prefix=prefix)
    settings = save_files(tmp_path, i2v_mini) | {
        "i2v": str(save(tmp_path / "wan2.1_i2v_480p_14B_fp8.safetensors", stored))
    }
    lines = survey(model(**settings), "i2v", [Part.TRANSFORMER])
    assert lines == [
        f"transformer: fp8 e4m3 weights{' with scales' if scaled else ''} are widened to fp32 as they are loaded"
    ]
    loaded = wan_transformer(bundle("i2v", **settings).load_transformer().state_dict())
    assert loaded.keys() == worth.keys()
    assert all(torch.equal(loaded[name], worth[name]) for name in worth)


def test_text_encoders_in_scaled_fp8_are_widened(t2v_mini: Miniature, tmp_path: Path) -> None:
    state = {name: t for name, t in t2v_mini.text.state_dict().items() if name != "encoder.embed_tokens.weight"}
    weight = "encoder.block.1.layer.1.DenseReluDense.wo"
    narrow = (state[f"{weight}.weight"] * 100).to(torch.float8_e4m3fn)
    scales = {f"{weight}.weight": narrow, f"{weight}.scale_weight": torch.tensor(0.01), f"{weight}.scale_input": narrow}
    file = save(tmp_path / "umt5_xxl_fp8_e4m3fn_scaled.safetensors", {**state, **scales})
    settings = save_files(tmp_path, t2v_mini) | {"text_encoder": str(file)}
    loaded = bundle("t2v", **settings)._load(Part.TEXT_ENCODER).state_dict()
    assert torch.equal(loaded[f"{weight}.weight"], narrow.float() * torch.tensor(0.01))


def test_bf16_keeps_in_float32_what_diffusers_keeps(t2v_mini: Miniature, tmp_path: Path) -> None:
    folder = save_diffusers(tmp_path, t2v_mini)
    theirs = type(t2v_mini.transformer).from_pretrained(folder / "transformer", torch_dtype=torch.bfloat16).state_dict()
    for settings in (written("diffusers", folder, t2v_mini), save_files(tmp_path / "files", t2v_mini)):
        ours = bundle("t2v", dtype="bf16", **settings).load_transformer().state_dict()
        assert {name: tensor.dtype for name, tensor in ours.items()} == {n: t.dtype for n, t in theirs.items()}
        assert all(torch.equal(ours[name], theirs[name]) for name in theirs)


# -- what is wrong, part by part ---------------------------------------------------------------------------------------


def complaint(kind: str, **settings: Any) -> str:
    with pytest.raises(ModelError) as caught:
        survey(model(**settings), kind, Part)
    assert "\n" not in str(caught.value)
    return str(caught.value)


def test_missing_shards_and_parts_are_listed(t2v_mini: Miniature, tmp_path: Path) -> None:
    folder = save_diffusers(tmp_path, t2v_mini)
    state = t2v_mini.transformer.state_dict()
    (folder / "transformer" / "diffusion_pytorch_model.safetensors").unlink()
    save_shards(folder / "transformer", state, 7)
    for number in (2, 4):
        (folder / "transformer" / f"diffusion_pytorch_model-{number:05d}-of-00007.safetensors").unlink()
    (folder / "text_encoder" / "config.json").unlink()
    for name in (folder / "image_encoder").iterdir():
        name.unlink()
    (folder / "image_encoder").rmdir()
    assert complaint("t2v", t2v=str(folder)) == (
        "transformer: 2 of 7 shards missing (diffusion_pytorch_model-00002-of-00007.safetensors, "
        "diffusion_pytorch_model-00004-of-00007.safetensors); vae: ok; text_encoder: no config.json in text_encoder/; "
        "tokenizer: ok; image_encoder: no folder image_encoder/"
    )


def test_shards_without_an_index_are_complete_by_their_names(t2v_mini: Miniature, tmp_path: Path) -> None:
    folder = save_wan(tmp_path, t2v_mini)
    (folder / "diffusion_pytorch_model.safetensors.index.json").unlink()
    assert_same(Part.TRANSFORMER, bundle("t2v", t2v=str(folder)).load_transformer(), t2v_mini.transformer)
    (folder / "diffusion_pytorch_model-00003-of-00003.safetensors").unlink()
    assert "1 of 3 shards missing" in complaint("t2v", t2v=str(folder))


def test_a_wan_directory_names_its_missing_files(i2v_mini: Miniature, tmp_path: Path) -> None:
    folder = save_wan(tmp_path, i2v_mini)
    (folder / "Wan2.1_VAE.pth").write_bytes((folder / "Wan2.1_VAE.pth").read_bytes()[:1000])
    (folder / "models_t5_umt5-xxl-enc-bf16.pth").unlink()
    found = complaint("i2v", i2v=str(folder))
    assert "vae: Wan2.1_VAE.pth is damaged, cut short" in found
    assert "text_encoder: no models_t5_umt5-xxl-enc-bf16.pth" in found
    assert "transformer: ok" in found


def test_a_pth_that_would_run_code_is_refused(t2v_mini: Miniature, tmp_path: Path) -> None:
    folder = save_wan(tmp_path, t2v_mini)
    torch.save({"conv1.weight": Path("a path is no tensor")}, folder / "Wan2.1_VAE.pth")
    with pytest.raises(ModelError, match=r"Wan2.1_VAE.pth holds more than tensors"):
        bundle("t2v", t2v=str(folder))._load(Part.VAE)


def test_a_truncated_file_is_named(t2v_mini: Miniature, tmp_path: Path) -> None:
    settings = save_files(tmp_path, t2v_mini)
    file = Path(settings["t2v"])
    file.write_bytes(file.read_bytes()[:-100])
    assert f"transformer: {file} is missing, damaged or no safetensors file" in complaint("t2v", **settings)


def test_a_lone_transformer_wants_its_other_parts(t2v_mini: Miniature, tmp_path: Path) -> None:
    file = save_files(tmp_path, t2v_mini)["t2v"]
    found = complaint("t2v", t2v=file)
    assert "vae: not in wan2.1_t2v_480p_14B_bf16.safetensors, which is the transformer alone" in found
    assert "give model.vae=<file or folder>" in found
    assert "give model.tokenizer=<folder with tokenizer.json>" in found


def test_the_other_kind_and_the_other_size_are_refused(
    t2v_mini: Miniature, i2v_mini: Miniature, tmp_path: Path
) -> None:
    folders = {mini.kind: str(save_wan(tmp_path / mini.kind, mini)) for mini in (t2v_mini, i2v_mini)}
    assert "takes 16 channels, image-to-video takes 36; give it as model.t2v" in complaint("i2v", i2v=folders["t2v"])
    assert "takes 36 channels, text-to-video takes 16; give it as model.i2v" in complaint("t2v", t2v=folders["i2v"])
    found = complaint("t2v", t2v=folders["t2v"], num_layers=40, hidden_size=5120)
    assert "it has 2 blocks of width 128, model=mini has 40 of width 5120" in found


def wan_with(*names: str, channels: int = 16) -> dict[str, Tensor]:
    shapes = {"patch_embedding.weight": (128, channels, 1, 2, 2), "blocks.0.self_attn.q.weight": (128, 128)}
    return {name: torch.zeros(shape) for name, shape in shapes.items()} | {name: torch.zeros(4) for name in names}


FOREIGN = {
    "LoRA adapter and no base model": {"diffusion_model.blocks.0.self_attn.q.lora_A.weight": torch.zeros(4, 4)},
    "Wan VACE checkpoint": wan_with("vace_blocks.0.before_proj.weight"),
    "Wan-Animate checkpoint": wan_with("face_adapter.fuser_blocks.0.linear2.weight"),
    r"first-and-last-frame \(FLF2V\)": wan_with("img_emb.emb_pos"),
    "expert of Wan2.2 I2V": wan_with(channels=36),
    "takes 48 channels": wan_with(channels=48),
    "LTX-Video checkpoint": {"model.diffusion_model.patchify_proj.weight": torch.zeros(4)},
    "HunyuanVideo checkpoint": dict.fromkeys(
        ["double_blocks.0.img_mlp.0.weight", "txt_in.individual_token_refiner.blocks.0.norm1.weight"], torch.zeros(4)
    ),
    "this is a Wan VAE": {"decoder.middle.0.residual.0.gamma": torch.zeros(4), "conv2.weight": torch.zeros(16, 16)},
    "no transformer of Wan that is known here": {"weight": torch.zeros(4)},
}


@pytest.mark.parametrize("what", FOREIGN)
def test_other_files_are_named_as_what_they_are(what: str, tmp_path: Path) -> None:
    file = save(tmp_path / "model.safetensors", FOREIGN[what])
    with pytest.raises(ModelError, match=f"transformer: .*{what}"):
        survey(model(i2v=str(file)), "i2v", [Part.TRANSFORMER])


def test_a_wan22_directory_and_its_vae_are_named(t2v_mini: Miniature, tmp_path: Path) -> None:
    folder = save_diffusers(tmp_path / "two", t2v_mini)
    t2v_mini.transformer.save_pretrained(folder / "transformer_2")
    assert "a Wan2.2 checkpoint of two experts (it has transformer_2/)" in complaint("t2v", t2v=str(folder))
    state = wan_vae(t2v_mini.vae.state_dict())
    vae = save(tmp_path / "vae.safetensors", {**state, "conv2.weight": torch.zeros(48, 48, 1, 1, 1)})
    assert "vae: this is a VAE of 48 latent channels, that of Wan2.2 TI2V-5B: the model takes one of 16" in complaint(
        "t2v", t2v=str(folder), vae=str(vae)
    )


def test_a_tensor_too_few_or_too_many_is_named(t2v_mini: Miniature, tmp_path: Path) -> None:
    settings = save_files(tmp_path, t2v_mini)
    state = load_file(settings["t2v"])
    save(Path(settings["t2v"]), {name: t for name, t in state.items() if name != "blocks.1.ffn.2.bias"})
    with pytest.raises(ModelError, match=r"it lacks 1 of its \d+ tensors, such as blocks.1.ffn.2.bias"):
        bundle("t2v", **settings).load_transformer()
    save(Path(settings["t2v"]), {**state, "blocks.0.novel.weight": torch.zeros(3)})
    with pytest.raises(
        ModelError, match=r"it holds 1 tensor that this Wan does not have, such as blocks.0.novel.weight"
    ):
        bundle("t2v", **settings).load_transformer()


OPEN = {f"condition_embedder.{part}_embedder.linear_1.weight" for part in ("text", "time")}
OPEN |= {"text_embedding.0.weight", "time_embedding.0.weight"}
"""By what these take nothing else of a file goes, so that only a config.json can contradict them."""


@pytest.mark.parametrize("kind", ["t2v", "i2v"])
@pytest.mark.parametrize("spelt", [dict, wan_transformer], ids=["diffusers", "checkpoint"])
def test_a_header_is_held_against_every_tensor_of_the_module(kind: str, spelt: Any, request: Any) -> None:
    mini: Miniature = request.getfixturevalue(f"{kind}_mini")
    shapes = {name: tuple(tensor.shape) for name, tensor in spelt(mini.transformer.state_dict()).items()}
    config = dict(mini.transformer.config)
    for said in ({}, config):
        refuse_misfit(shapes | {"scaled_fp8": (2,)}, said)
        for name in shapes:
            if name != "patch_embedding.weight":  # without it a file is not known as a transformer
                with pytest.raises(ModelError, match=rf"it lacks 1 of its \d+ tensors, such as {name}$"):
                    refuse_misfit({other: shape for other, shape in shapes.items() if other != name}, said)
            if not said and name in OPEN:
                continue
            wrong = (*shapes[name][:-1], shapes[name][-1] + 2)
            with pytest.raises(ModelError, match="has the shape"):
                refuse_misfit(shapes | {name: wrong}, said)
    with pytest.raises(
        ModelError, match="it holds 1 tensor that this Wan does not have, such as blocks.0.novel.weight"
    ):
        refuse_misfit(shapes | {"blocks.0.novel.weight": (3,)}, {})
    with pytest.raises(ModelError, match=r"ffn.* has the shape \[64, 128\] where \[96, 128\] is wanted"):
        refuse_misfit(shapes, config | {"ffn_dim": 96})
    for layers in (3, 10**18):
        with pytest.raises(ModelError, match=r"it lacks .* tensors, such as blocks\.\d+\."):
            refuse_misfit(shapes, config | {"num_layers": layers})


def test_a_plan_names_the_tensor_that_a_file_lacks(
    t2v_mini: Miniature, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    settings = save_files(tmp_path, t2v_mini)
    state = load_file(settings["t2v"])
    save(Path(settings["t2v"]), {name: t for name, t in state.items() if name != "blocks.1.ffn.2.bias"})
    sizes = ["model.num_layers=2", "model.num_heads=4", "model.hidden_size=128"]
    argv = ["stage=style", "data=noir", "plan=true", *(f"model.{key}={path}" for key, path in settings.items()), *sizes]
    assert main("train", argv, lambda config, folder: 0) == 2
    said = capsys.readouterr().err
    assert "model.t2v=" in said
    assert "wan2.1_t2v_480p_14B_bf16.safetensors: transformer: it lacks 1 of its " in said
    assert "tensors, such as blocks.1.ffn.2.bias; vae: ok" in said
    assert said.count("\n") == 1


def test_the_command_line_refuses_in_one_sentence(
    t2v_mini: Miniature, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = save_files(tmp_path, t2v_mini)["t2v"]
    argv = ["stage=style", "data=noir", f"model.t2v={file}", f"out={tmp_path / 'run'}"]
    assert main("train", argv, lambda config, folder: 0) == 2
    said = capsys.readouterr().err
    assert said.startswith(f"train.py: model.t2v={file}: transformer: it has 2 blocks of width 128, model=tiny has 6")
    assert said.count("\n") == 1


def test_a_relative_path_holds_from_any_directory(
    t2v_mini: Miniature, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings = save_files(tmp_path, t2v_mini)
    monkeypatch.chdir(tmp_path)
    shape = ["model.num_layers=2", "model.num_heads=4", "model.hidden_size=128"]
    argv = ["stage=style", "data=noir", "out=run", *shape]
    argv += [f"model.{key}={Path(path).relative_to(tmp_path)}" for key, path in settings.items()]
    seen = []
    assert main("train", argv, lambda config, folder: seen.append(config.model) or 0) == 0
    assert {key: getattr(seen[0], key) for key in settings} == settings


def test_the_whole_file_is_taken_beside_stale_shards(t2v_mini: Miniature, tmp_path: Path) -> None:
    folder = save_diffusers(tmp_path, t2v_mini)
    save(folder / "transformer" / "diffusion_pytorch_model-00001-of-00004.safetensors", {"stale": torch.zeros(2)})
    assert_same(Part.TRANSFORMER, bundle("t2v", t2v=str(folder)).load_transformer(), t2v_mini.transformer)


def test_other_folders_and_damaged_settings_are_named(t2v_mini: Miniature, tmp_path: Path) -> None:
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "config.json").write_text('{"model_type": "bert"}')
    assert complaint("t2v", t2v=str(tmp_path / "other")).startswith(
        "transformer: no folder transformer/; vae: no folder"
    )
    (tmp_path / "wan.gguf").write_bytes(b"GGUF")
    assert "wan.gguf is cut off or damaged" in complaint("t2v", t2v=str(tmp_path / "wan.gguf"))
    folder = save_diffusers(tmp_path, t2v_mini)
    (folder / "vae" / "config.json").write_text('{"base_dim": ')
    assert "config.json is damaged or no JSON" in complaint("t2v", t2v=str(folder))
    for said, words in (('{"num_layers": "2"}', "num_layers cannot be '2'"), ('{"num_layers": 9}', "it lacks ")):
        (folder / "transformer" / "config.json").write_text(said)
        assert words in complaint("t2v", t2v=str(folder))


# -- the hub -----------------------------------------------------------------------------------------------------------


def fetch(settings: dict[str, Any], parts: tuple[str, ...], seen: Path) -> None:
    """Load one part after another; what lies in the snapshot then, or what is said, is a line of ``seen`` each."""
    with seen.open("w") as lines:
        for name in parts:
            ours = WanBundle.from_config(ModelConfig(**settings), "t2v", Path("unused"), torch.device("cpu"))
            try:
                ours._load(Part(name))
                folder = ours.found(Part(name)).folder
                root = next(path for path in (folder, *folder.parents) if path.parent.name == "snapshots")
                found: Any = sorted(str(path.relative_to(root)) for path in root.rglob("*") if path.is_file())
            except ModelError as error:
                found = str(error)
            lines.write(json.dumps(found) + "\n")


def fetched(folder: Path, home: Path, *parts: str) -> list[Any]:
    """What lies in the snapshot after each part, one after another, was loaded from a hub that holds ``folder``."""
    files = {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}
    kept = {key: value for key, value in os.environ.items() if not key.startswith("HF_") and "proxy" not in key.lower()}
    shape = {"num_layers": 2, "num_heads": 4, "hidden_size": 128}
    settings = {"name": "mini", "t2v": "owner/name", "dtype": "fp32", **shape}
    seen = home.with_suffix(".seen")
    with serve(files) as address:
        process = forked(
            fetch, settings, parts, seen, environment=kept | {"HF_HOME": str(home), "HF_ENDPOINT": address}
        )
        process.join()
    assert process.exitcode == 0
    return [json.loads(line) for line in seen.read_text().splitlines()]


def test_a_repository_of_wans_own_layout_is_fetched_part_by_part(t2v_mini: Miniature, tmp_path: Path) -> None:
    folder = save_wan(tmp_path / "repository", t2v_mini)
    tokenizer, vae, transformer = fetched(folder, tmp_path / "home", "tokenizer", "vae", "transformer")
    assert all(name.startswith("google/umt5-xxl/") for name in tokenizer)
    assert set(vae) - set(tokenizer) == {"Wan2.1_VAE.pth"}
    assert set(transformer) - set(vae) == {
        "config.json",
        "diffusion_pytorch_model.safetensors.index.json",
        *(f"diffusion_pytorch_model-{number:05d}-of-00003.safetensors" for number in (1, 2, 3)),
    }


def test_a_repository_of_another_kind_is_named_once_it_is_fetched(i2v_mini: Miniature, tmp_path: Path) -> None:
    folder = save_diffusers(tmp_path / "repository", i2v_mini)
    [said] = fetched(folder, tmp_path / "home", "transformer")
    assert said.startswith(
        "transformer of owner/name: this is the image-to-video transformer: its first layer takes 36"
    )


# -- memory ------------------------------------------------------------------------------------------------------------


def kib(name: str) -> int:
    return int(re.search(name + r":\s+(\d+)", Path("/proc/self/status").read_text())[1])  # type: ignore[index]


def measure_loading(settings: dict[str, Any], measured: Path) -> None:
    """What a process that has imported all takes at its peak to load the transformer, and what of it then stays its own."""
    ours = WanBundle.from_config(ModelConfig(**settings), "t2v", Path("unused"), torch.device("cpu"))
    before, own = kib("VmRSS"), kib("RssAnon")
    transformer = ours.load_transformer()
    measured.write_text(json.dumps([(kib("VmHWM") - before) * 1024, (kib("RssAnon") - own) * 1024]))
    del transformer


def padded(path: Path, begin: int) -> Path:
    """The same file, whose tensors begin at a multiple of 64 bytes plus ``begin``: spaces end its header, as they may."""
    content = path.read_bytes()
    length = 8 + int.from_bytes(content[:8], "little")
    spaces = b" " * ((begin - length) % 64)
    path.write_bytes((length - 8 + len(spaces)).to_bytes(8, "little") + content[8:length] + spaces + content[length:])
    return path


def test_loading_takes_the_size_of_the_file_and_little_more(tmp_path: Path) -> None:
    wide = miniature("t2v", num_attention_heads=12, attention_head_dim=128, ffn_dim=6144, num_layers=3)
    file = save_files(tmp_path, replace(wide, transformer=wide.transformer.bfloat16()))["t2v"]
    shape = {"num_layers": 3, "num_heads": 12, "hidden_size": 1536, "ffn_dim": 6144}
    settings = {"name": "wide", "t2v": file, "dtype": "bf16", **shape}
    for begin, own_share in ((8, 1.0), (0, 0.0)):  # tensors are read, or mapped
        size = padded(Path(file), begin).stat().st_size
        assert size > 200e6
        process = forked(measure_loading, settings, tmp_path / "measured")
        process.join()
        assert process.exitcode == 0
        peak, own = json.loads((tmp_path / "measured").read_text())
        assert peak < 1.1 * size + 64e6
        assert abs(own - own_share * size) < 0.1 * size + 64e6  # the rest is the system's, and every process's


def test_a_mapped_model_computes_the_same_bits_and_its_file_stays_as_it_is(t2v_mini: Miniature, tmp_path: Path) -> None:
    file = Path(save_files(tmp_path, t2v_mini)["t2v"])
    loaded = {}
    for begin in (8, 0):
        settings = save_files(tmp_path / str(begin), t2v_mini)
        padded(Path(settings["t2v"]), begin)
        loaded[begin] = bundle("t2v", **settings).load_transformer()
    read, mapped = loaded[8], loaded[0]
    assert_same(Part.TRANSFORMER, mapped, read)
    assert sum(p.data_ptr() % 64 == 0 for p in mapped.parameters()) == len(list(mapped.parameters()))
    before = sha256_file(tmp_path / "0" / file.name)
    for parameter in mapped.parameters():
        parameter.data.add_(1)
    assert sha256_file(tmp_path / "0" / file.name) == before


# -- random values -----------------------------------------------------------------------------------------------------


def random_bundle(kind: str, **settings: Any) -> WanBundle:
    return bundle(kind, t2v="owner/name", i2v="owner/name", weights="random", **settings)


@pytest.mark.parametrize(
    ("kind", "settings", "expected"),
    [
        ("t2v", {"num_layers": 40, "num_heads": 40, "hidden_size": 5120, "ffn_dim": 13824}, 14_288_491_584),
        ("i2v", {"num_layers": 40, "num_heads": 40, "hidden_size": 5120, "ffn_dim": 13824}, 16_394_878_784),
        ("t2v", {"num_layers": 30, "num_heads": 12, "hidden_size": 1536, "ffn_dim": 8960}, 1_418_996_800),
    ],
)
def test_random_models_have_the_published_shapes(kind: str, settings: dict[str, Any], expected: int) -> None:
    ours = random_bundle(kind, **settings)
    assert num_parameters(empty_module(Part.TRANSFORMER, ours._random_settings(Part.TRANSFORMER))) == expected


def test_random_encoders_have_the_published_shapes() -> None:
    ours = random_bundle("i2v")
    parts = {Part.VAE: 126_892_531, Part.TEXT_ENCODER: 5_680_910_336, Part.IMAGE_ENCODER: 630_766_080}
    assert {part: num_parameters(empty_module(part, ours._random_settings(part))) for part in parts} == parts


def test_random_values_are_finite_reproducible_and_fit_the_encoders_beside_them(
    t2v_mini: Miniature, tmp_path: Path
) -> None:
    folder = save_diffusers(tmp_path, t2v_mini)
    encoders = {"text_encoder": str(folder), "image_encoder": str(folder / "image_encoder")}
    ours = random_bundle("i2v", dtype="bf16", num_layers=40, **encoders)
    first, second = ours.load_transformer(), ours.load_transformer()
    assert first.config.text_dim == 32
    assert first.config.image_dim == 32
    assert all(torch.equal(tensor, second.state_dict()[name]) for name, tensor in first.state_dict().items())
    with torch.no_grad():
        made = first(
            torch.randn(1, 36, 2, 4, 4).bfloat16(),
            torch.tensor([900.0]),
            torch.randn(1, 512, 32).bfloat16(),
            torch.randn(1, 257, 32).bfloat16(),
        ).sample
    assert made.isfinite().all()
    assert 0.01 < made.float().std() < 100
    assert ours.fingerprint(Part.TRANSFORMER) == random_bundle("i2v", num_layers=40, **encoders).fingerprint(
        Part.TRANSFORMER
    )
    assert ours.fingerprint(Part.TRANSFORMER) != random_bundle("i2v", **encoders).fingerprint(Part.TRANSFORMER)
