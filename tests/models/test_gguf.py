"""GGUF files: values as the authors' own package widens them, a whole transformer, and what is refused before it is loaded."""

from __future__ import annotations

import hashlib
import struct
from pathlib import Path

import numpy as np
import pytest
import torch
from wan_layouts import Miniature, miniature, save, save_files, wan_transformer

from cinelora.config.schema import ModelConfig
from cinelora.errors import FileError, ModelError
from cinelora.families.family import Part
from cinelora.families.wan.bundle import WanBundle
from cinelora.families.wan.checkpoint_layouts import survey
from cinelora.io.gguf_file import _BLOCKS, KINDS, GgufTensor, gguf_values, read_gguf
from cinelora.nn.fp8 import Fp8Linear

NUMBERS = {name: number for number, name in KINDS.items()}
WIDENED = {
    "Q8_0": "ef6c8851125f5730",
    "Q4_0": "9cc75d1ceaf0242d",
    "Q4_1": "2bdb9145abbf0664",
    "Q5_0": "6a9657035ca7362d",
    "Q5_1": "894f5197ef33c5cd",
    "Q2_K": "ce714500e51e95db",
    "Q3_K": "a9ba568b6164f433",
    "Q4_K": "3259571b503875ea",
    "Q5_K": "e1251533e0db97b7",
    "Q6_K": "8129153735d9cda5",
    "BF16": "0fc36d059f97bc23",
}
"""SHA-256 of the float32 values that ``gguf`` 0.19.0 makes of the bytes in ``test_values_are_those_of_the_gguf_package``."""


def text(words: str) -> bytes:
    return struct.pack("<Q", len(words)) + words.encode()


def written(path: Path, tensors: dict[str, tuple[str, tuple[int, ...], bytes]], shapes: dict[str, list[int]]) -> Path:
    """A GGUF file, as city96's converter writes those of Wan: shapes of five sides stand in the metadata."""
    facts = [text("general.architecture") + struct.pack("<I", 8) + text("wan")]
    facts += [
        text(f"comfy.gguf.orig_shape.{name}") + struct.pack(f"<IIQ{len(shape)}i", 9, 5, len(shape), *shape)
        for name, shape in shapes.items()
    ]
    table, content = b"", b""
    for name, (kind, shape, raw) in tensors.items():
        table += text(name) + struct.pack(f"<I{len(shape)}QIQ", len(shape), *shape[::-1], NUMBERS[kind], len(content))
        content += raw + b"\0" * (-len(raw) % 32)
    head = b"GGUF" + struct.pack("<IQQ", 3, len(tensors), len(facts)) + b"".join(facts) + table
    path.write_bytes(head + b"\0" * (-len(head) % 32) + content)
    return path


def q8_0(values: np.ndarray) -> bytes:
    """Blocks of 32 values: a half that scales, and bytes."""
    blocks = values.reshape(-1, 32)
    scale = (np.abs(blocks).max(axis=1, keepdims=True) / 127).astype(np.float16)
    whole = np.divide(blocks, scale, where=scale > 0, out=np.zeros_like(blocks)).round().astype(np.int8)
    return b"".join(one.tobytes() + row.tobytes() for one, row in zip(scale, whole, strict=True))


def as_gguf(path: Path, mini: Miniature) -> Path:
    tensors, shapes = {}, {}
    for name, tensor in wan_transformer(mini.transformer.state_dict()).items():
        values, shape = tensor.numpy(), tuple(tensor.shape)
        if values.ndim > 4:
            shapes[name], shape = list(shape), (values.size // 16, 16)
        if values.ndim == 2 and name.startswith("blocks."):
            tensors[name] = ("Q8_0", shape, q8_0(values))
        else:
            tensors[name] = ("F32", shape, values.tobytes())
    return written(path, tensors, shapes)


@pytest.fixture(scope="module")
def mini() -> Miniature:
    return miniature("t2v")


def bundle(dtype: str = "fp32", **settings: str) -> WanBundle:
    model = ModelConfig(name="mini", dtype=dtype, num_layers=2, num_heads=4, hidden_size=128, ffn_dim=64, **settings)
    return WanBundle.from_config(model, "t2v", Path("unused"), torch.device("cpu"))


@pytest.mark.parametrize("kind", WIDENED)
def test_values_are_those_of_the_gguf_package(kind: str, tmp_path: Path) -> None:
    length, layout, _ = _BLOCKS[kind]
    raw = np.random.default_rng(7).integers(0, 120, (8, 512 // length * np.dtype(layout).itemsize), dtype=np.uint8)
    (tmp_path / "raw").write_bytes(raw.tobytes())
    values = gguf_values(tmp_path / "raw", GgufTensor((8, 512), kind, 0, raw.size))
    assert hashlib.sha256(values.astype("<f4").tobytes()).hexdigest()[:16] == WIDENED[kind]


@pytest.mark.parametrize("dtype", ["fp32", "bf16", "fp8"])
def test_a_transformer_in_gguf_is_the_one_that_its_values_make(dtype: str, mini: Miniature, tmp_path: Path) -> None:
    settings = save_files(tmp_path, mini)
    path = as_gguf(tmp_path / "wan2.1-t2v-Q8_0.gguf", mini)
    tensors = {name: torch.from_numpy(gguf_values(path, tensor)) for name, tensor in read_gguf(path)[0].items()}
    same = save(tmp_path / "same.safetensors", tensors)
    name = "blocks.0.ffn.0.weight"
    assert not torch.equal(tensors[name], wan_transformer(mini.transformer.state_dict())[name])
    loaded, expected = (
        bundle(dtype, **{**settings, "t2v": str(file)}).load_transformer().state_dict() for file in (path, same)
    )
    assert loaded.keys() == expected.keys()
    for name, tensor in expected.items():
        assert tensor.dtype == loaded[name].dtype
        assert torch.equal(loaded[name].view(torch.uint8), tensor.view(torch.uint8)), name
    layers = bundle(dtype, **{**settings, "t2v": str(path)}).load_transformer().blocks.modules()
    assert any(isinstance(layer, Fp8Linear) for layer in layers) == (dtype == "fp8")
    lines = survey(bundle(dtype, **{**settings, "t2v": str(path)}).model, "t2v", [Part.TRANSFORMER])  # type: ignore[arg-type]
    assert lines == [f"transformer: GGUF (F32, Q8_0), widened to {dtype} as it is loaded"]


def test_a_file_that_is_cut_off_or_of_another_kind_is_refused_by_its_table(mini: Miniature, tmp_path: Path) -> None:
    path = as_gguf(tmp_path / "wan.gguf", mini)
    whole = path.read_bytes()
    for length in (0, 3, 12, 100, 2000, len(whole) - 40):
        path.write_bytes(whole[:length])
        with pytest.raises(FileError, match="cut off|no GGUF") as refused:
            read_gguf(path)
        assert "\n" not in str(refused.value)
    path.write_bytes(whole[:8] + struct.pack("<Q", 2**60) + whole[16:])
    with pytest.raises(FileError, match="damaged: its table says 1152921504606846976 entries"):
        read_gguf(path)
    written(path, {"blocks.0.ffn.0.weight": ("IQ4_XS", (256, 1), b"\0" * 136)}, {})
    with pytest.raises(FileError, match="as IQ4_XS, which is not read: give one of F64, F32, F16, BF16, Q8_0, Q4_0"):
        read_gguf(path)
    written(path, {"blocks.0.ffn.0.weight": ("Q8_0", (3, 33), b"\0" * 136)}, {})
    with pytest.raises(FileError, match="is not made of blocks of 32"):
        read_gguf(path)


def number(value: int) -> bytes:
    return struct.pack("<II", 4, value)


@pytest.mark.parametrize(
    ("facts", "words"),
    [
        ({"general.alignment": number(0)}, "says no alignment"),
        ({"general.alignment": number(2**31)}, "says no alignment"),
        ({"general.alignment": struct.pack("<I", 8) + text("32")}, "says no alignment"),
        ({"a": struct.pack("<I", 9) + struct.pack("<IQ", 9, 1) * 20_000}, "a list of values of kind 9"),
        ({"a": struct.pack("<I", 99)}, "a value of kind 99"),
        ({str(n): struct.pack("<IIQ", 9, 0, 2**20) + b"0" * 2**20 for n in range(17)}, "longer than 16777216 bytes"),
    ],
    ids=["0", "2 GiB", "a text", "lists in lists", "kind 99", "long"],
)
def test_a_made_up_table_is_refused(facts: dict[str, bytes], words: str, tmp_path: Path) -> None:
    head = b"GGUF" + struct.pack("<IQQ", 3, 0, len(facts)) + b"".join(text(name) + told for name, told in facts.items())
    (tmp_path / "a.gguf").write_bytes(head)
    with pytest.raises(FileError, match=words):
        read_gguf(tmp_path / "a.gguf")


def test_made_up_tensors_are_refused(tmp_path: Path) -> None:
    table = struct.pack("<I1QIQ", 1, 1, 0, 0)
    for entries, words in {
        text("a") + table + text("a") + table: "two of its tensors have the same name",
        text("a") + struct.pack("<I", 10**6): "its table says 1000000 entries",
    }.items():
        (tmp_path / "a.gguf").write_bytes(b"GGUF" + struct.pack("<IQQ", 3, 2, 0) + entries + b"\0" * 99)
        with pytest.raises(FileError, match=words):
            read_gguf(tmp_path / "a.gguf")


@pytest.mark.parametrize("shape", [[-2, -4], [2, 2], [2**30, 2**30], []])
def test_a_shape_beside_a_tensor_counts_where_it_is_one(shape: list[int], tmp_path: Path) -> None:
    path = written(tmp_path / "a.gguf", {"a": ("F32", (8,), b"\0" * 32)}, {"a": shape})
    assert read_gguf(path)[0]["a"].shape == (8,)


# -- forms that are not read -------------------------------------------------------------------------------------------


def quantised(weight: torch.Tensor, **beside: torch.Tensor) -> dict[str, torch.Tensor]:
    names = {"blocks.0.self_attn.q.weight": weight, "patch_embedding.weight": torch.zeros(128, 16, 1, 2, 2)}
    return names | {f"blocks.0.self_attn.q.{end}": tensor for end, tensor in beside.items()}


BYTES = torch.zeros(128, 64, dtype=torch.uint8)
E4M3 = torch.zeros(128, 128).to(torch.float8_e4m3fn)
FORMS = {
    "Nunchaku's 4-bit weights": quantised(torch.zeros(4), qweight=BYTES, wscales=torch.zeros(2, 128)),
    "4-bit or 8-bit weights of bitsandbytes": quantised(BYTES, **{"weight.absmax": torch.zeros(256)}),
    "nvfp4 weights": quantised(BYTES, weight_scale=torch.zeros(128, 8), weight_scale_2=torch.zeros(())),
    "mxfp8 weights": quantised(E4M3, weight_scale=torch.zeros(128, 4, dtype=torch.uint8)),
    "int8 weights": quantised(torch.zeros(128, 128, dtype=torch.int8), weight_scale=torch.zeros(128, 1)),
    "4-bit weights": quantised(BYTES, weight_scale=torch.zeros(128, 1)),
    "fp8 weights with scales in blocks": quantised(E4M3, weight_scale_inv=torch.ones(2, 2)),
}


@pytest.mark.parametrize("form", FORMS)
def test_a_form_that_is_not_read_is_named_before_it_is_loaded(form: str, tmp_path: Path) -> None:
    file = save(tmp_path / "model.safetensors", FORMS[form])
    found = bundle(t2v=str(file))
    assert found.model is not None
    for judge in (lambda: survey(found.model, "t2v", [Part.TRANSFORMER]), found.load_transformer):  # type: ignore[arg-type]
        with pytest.raises(ModelError, match=f"it holds {form}.*, which is not read: give it in bf16") as refused:
            judge()
        assert "\n" not in str(refused.value)


def test_a_folder_of_gguf_files_asks_for_one_of_them(mini: Miniature, tmp_path: Path) -> None:
    as_gguf(tmp_path / "wan-Q8_0.gguf", mini)
    with pytest.raises(ModelError, match=r"holds GGUF files \(wan-Q8_0\.gguf\): name one of them"):
        bundle(t2v=str(tmp_path)).load_transformer()
