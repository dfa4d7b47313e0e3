"""What every reader makes of files that were damaged or made up: a sentence or a value, within a second and 200 MB.

    python benchmarks/hostile_files.py mutations=500 seed=0

Takes the files of ``tests/corpus``, changes one of them, and has it read by the function that its command reads it with: keys are
left out, doubled and renamed, values become others of every type, numbers huge, files are cut, flipped, nested, and filled with
characters that no text has. Prints how often each reader did anything but read it or refuse it in one sentence.
"""

from __future__ import annotations

import contextlib
import copy
import io
import json
import math
import os
import random
import shutil
import signal
import struct
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import yaml
from common import ROOT, report

from cinelora.adapters.adapter_header import judge_adapter
from cinelora.adapters.run_directory import RunDirectory, adapter_paths, learnt_size, trained_on
from cinelora.cli.one_run import accepted
from cinelora.cli.parse import parse
from cinelora.cli.programs import PROGRAMS
from cinelora.cli.sweep_launchers import Table
from cinelora.config.clip_request import ClipRequest, Take, read_prompts
from cinelora.config.schema import EvaluateConfig, InferConfig
from cinelora.config.store import load, load_config
from cinelora.errors import CineloraError
from cinelora.evaluation.blind_test import ANSWERS_FORMAT, load_key, load_preferences, score
from cinelora.evaluation.clip_list import load_plan
from cinelora.evaluation.evaluation_report import write_report
from cinelora.evaluation.measure import load_numbers, table
from cinelora.evaluation.run_evaluation import evaluation_facts
from cinelora.families.family import Part
from cinelora.families.wan.checkpoint_layouts import inspect
from cinelora.footage.build_dataset import read_overrides
from cinelora.footage.captions import find_captions
from cinelora.footage.lut import read_cube
from cinelora.footage.shot_detection import load_survey
from cinelora.footage.survey_pool import read_ledger
from cinelora.io.gguf_file import read_gguf
from cinelora.io.plain_data import parse_yaml
from cinelora.io.tensor_files import load_tensors, read_header, with_metadata
from cinelora.latents.cache import Index
from cinelora.studies.results import load_table
from cinelora.studies.run_study import lines
from cinelora.training.checkpoint_files import load_checkpoint
from cinelora.training.loggers import WANDB_ID, wandb_id
from cinelora.training.model_card import card, read_record

CORPUS = ROOT / "tests" / "corpus"
MOST_S, MOST_MIB = 1.0, 200
LONGEST_SENTENCE = 1000
HANG_S = 20
VALUES: tuple[Any, ...] = (
    *(
        None,
        True,
        False,
        0,
        1,
        -1,
        2**40,
        2**63,
        -(2**70),
        10**300,
        0.5,
        -0.0,
        1e308,
        1e-320,
        math.nan,
        math.inf,
        -math.inf,
    ),
    *(
        "",
        " ",
        "0",
        "null",
        "\n",
        "\0",
        "\x1b[2J\x07",
        "\u202eabc",
        "\ud800",
        "\udcff",
        "../../x",
        "/etc/passwd",
        "a" * 5000,
    ),
    *(
        "{}",
        "%s",
        "\U0001f469\u200d\U0001f4bb",
        [],
        {},
        [None],
        [[]],
        {"": None},
        {"a": {"b": {"c": []}}},
        ["a"] * 50,
        [1] * 50,
    ),
)


@dataclass(frozen=True)
class Reader:
    """A file of a folder, the form it has, and what reads it there."""

    name: str
    file: str
    form: str
    read: Callable[[Path], object]


def make_files(folder: Path) -> None:
    """The corpus, without clips, which take long to read and are no plain data, and beside it what it does not hold."""
    shutil.copytree(CORPUS, folder, symlinks=True, dirs_exist_ok=True, ignore=shutil.ignore_patterns("*.mp4", "logs"))
    key = json.loads((folder / "evaluation/pairs-key.json").read_text())
    answers = [{"pair": key["pairs"][0]["id"], "question": "motion", "choice": "same"}]
    told = {"format": ANSWERS_FORMAT, "page": key["page"], "rater": "a", "answers": answers}
    (folder / "answers.json").write_text(json.dumps(told))
    preference = {
        "question": "motion",
        "rater": "a",
        "preferred": "style",
        "to": "base",
        "wins": 1,
        "votes": 2,
        "ties": 0,
    }
    (folder / "evaluation/preferences.json").write_text(json.dumps([preference]))
    (folder / "sweep/0").mkdir(parents=True)
    shutil.copy(folder / "style/summary.json", folder / "sweep/0")
    sweep = {"overrides": [["seed=1"], ["seed=2"]], "statuses": ["done", "failed: no"]}
    (folder / "sweep/sweep.json").write_text(json.dumps(sweep))
    rows = ['{"file_name": "a.mp4", "text": "a man waits"}', '{"file_name": "b.mp4", "caption": "a lamp"}']
    (folder / "footage/captions.jsonl").write_text("\n".join(rows))
    shot = {"shot": "a.mp4@0-9", "text": "rain", "written_by": "m", "text_hash": "0"}
    (folder / "prepared/captions.jsonl").write_text(json.dumps(shot) + "\n")
    (folder / "a.cube").write_text("LUT_1D_SIZE 3\nDOMAIN_MAX 1 1 1\n0 0 0\n.5 .5 .5\n1 1 1\n")
    source = next(path for path in (ROOT / "data").rglob("t2v/transformer/config.json"))
    shutil.copytree(source.parents[1] / "transformer", folder / "model/transformer", dirs_exist_ok=True)
    names = {"metadata": {}, "weight_map": {"a": "diffusion_pytorch_model.safetensors"}}
    (folder / "model/transformer/diffusion_pytorch_model.safetensors.index.json").write_text(json.dumps(names))
    (folder / "model/model_index.json").write_text(json.dumps({"transformer": ["diffusers", "WanTransformer3DModel"]}))
    make_adapters(folder)
    make_checkpoint(folder)
    (folder / "wan.gguf").write_bytes(gguf())
    (folder / WANDB_ID).write_text("0a1b2c3d")
    with (folder / "prompts.txt").open("a") as file:
        file.write("# a comment\n\\# no comment\n")


def make_checkpoint(folder: Path) -> None:
    """A checkpoint as it is saved today, with what callbacks remember; the corpus has an older one."""
    shutil.copytree(folder / "style/checkpoints", folder / "now/checkpoints")
    state = next((folder / "now/checkpoints").rglob("state.json"))
    seen = {"name": "heldout/loss", "lower": True, "best": 0.5, "step": 4, "since": 0}
    numbers = {"heldout/loss": 0.5, "heldout/change": math.nan}
    memory: dict[str, Any] = {
        "progress": {"losses": [[1.0, 2.0]], "accumulation": 1, "lr": 1e-4, "gradient_norm": 1.0}
        | {"latest_loss": 1.5, "told_at": 4},
        "journal": {"step": 4, "numbers": numbers},
        "early_stopping": {"best": seen, "stopping": seen, "stopped": False, "judged_at": 4},
        "validation_loss": {"latest": numbers, "measured_at": 4},
        "validation_clips": {"manner": {"steps": 4, "names": ["motion"]}, "base": numbers, "latest": numbers},
    }
    told = {"settled": True, "memory": memory}
    state.write_text(json.dumps(json.loads(state.read_text()) | told))


def make_adapters(folder: Path) -> None:
    """A file of ours with the mark that its tensors have, and one that peft has written, with its settings beside it."""
    ours = (folder / "style/style.safetensors").read_bytes()
    told = read_header(folder / "style/style.safetensors")["__metadata__"]
    (folder / "adapters/marked.safetensors").write_bytes(with_metadata(ours, told | {"mark": f"folded {'0' * 24}"}))
    (folder / "peft").mkdir()
    theirs = (folder / "adapters/diffusers.safetensors").read_bytes()
    said = json.loads(read_header(folder / "adapters/diffusers.safetensors")["__metadata__"]["lora_adapter_metadata"])
    (folder / "peft/adapter_model.safetensors").write_bytes(with_metadata(theirs, {"format": "pt"}))
    settings = {key.removeprefix("transformer."): value for key, value in said.items()}
    settings |= {"rank_pattern": {"attn9.to_q": 2}, "alpha_pattern": {"^blocks.*attn9$": 2.0, "b": 1}}
    (folder / "peft/adapter_config.json").write_text(json.dumps(settings | {"use_rslora": False, "use_dora": False}))


def gguf() -> bytes:
    """A GGUF file of one tensor, with a number, a list of numbers and a list of texts in its table."""

    def text(words: str) -> bytes:
        return struct.pack("<Q", len(words)) + words.encode()

    facts = [
        text("general.alignment") + struct.pack("<II", 4, 32),
        text("comfy.gguf.orig_shape.a") + struct.pack("<IIQ5i", 9, 5, 5, 4, 2, 1, 2, 2),
        text("tokenizer.ggml.tokens") + struct.pack("<IIQ", 9, 8, 2) + text("a") + text("b"),
    ]
    table = text("a") + struct.pack("<I2QIQ", 2, 16, 2, 0, 0)
    head = b"GGUF" + struct.pack("<IQQ", 3, 1, len(facts)) + b"".join(facts) + table
    return head + b"\0" * (-len(head) % 32) + b"\0" * 128


def survey_of(folder: Path) -> Path:
    """The survey in the corpus."""
    return next((folder / "prepared/surveys").rglob("*.npz"))


def latents_of(folder: Path) -> Path:
    """An encoding in the corpus."""
    return min((folder / "cache/latents").rglob("text-*.safetensors"))


def is_done(folder: Path) -> bool:
    """Whether the clip of the corpus would be made again."""
    request = ClipRequest(load(InferConfig, folder / "clips/config.yaml"))
    return Take("a man waits", 0, folder / "clips/0000").is_done(request)


def of_evaluation(folder: Path) -> object:
    """What ``report=true`` reads, but for clips."""
    run = folder / "evaluation"
    plan = load_plan(run)
    evaluation_facts(load(EvaluateConfig, run / "config.yaml"), plan, run)
    return table(load_numbers(run)), load_key(run), load_preferences(run), write_report(plan, run)


def of_answers(folder: Path) -> object:
    """What ``answers=`` reads."""
    return score(load_plan(folder / "evaluation"), folder / "evaluation", folder / "answers.json")


def of_captions(folder: Path) -> object:
    """The captions of footage and of the prepared folder."""
    return find_captions(folder / "footage", {"a.mp4@0-9": "a.mp4", "b.mp4@0-9": "b.mp4"}, folder / "prepared")


def of_model(folder: Path) -> object:
    """What is said of a checkpoint before it is loaded."""
    return inspect(Part.TRANSFORMER, folder / "model", "t2v")


def of_adapter(name: str, folder: Path) -> object:
    """What is known of an adapter before torch is loaded, and its values looked at once."""
    path = folder / f"adapters/{name}.safetensors"
    return judge_adapter(path).spec, learnt_size(path), trained_on(path)


def of_cube(folder: Path) -> object:
    """A LUT, which is read once a process."""
    read_cube.cache_clear()
    return read_cube(folder / "a.cube")


def of_run(folder: Path) -> object:
    """What the card of a run is made of."""
    run = RunDirectory(folder / "style")
    return load_config(run.path), card(read_record(run), ".")


def of_resume(folder: Path) -> object:
    """What a resume accepts of a run's settings, before anything is loaded."""
    words = [f"resume={folder / 'style'}", "trust=true", f"data.root={folder / 'footage'}", f"cache={folder / 'cache'}"]
    return accepted(parse(PROGRAMS["train"], [*words, f"data.prepared={folder / 'prepared'}"]))


def remembered(folder: Path) -> object:
    """A checkpoint of today, with the work of what recalls it left out."""
    return load_checkpoint(folder / "now/checkpoints").facts["memory"]


def of_sweep(folder: Path) -> object:
    """The table of a sweep."""
    return Table.of(folder / "sweep").lines()


def of_overrides(folder: Path) -> object:
    """The verdicts by hand of a prepared folder."""
    return read_overrides(folder / "prepared/overrides.json", True)


def of_latents(folder: Path) -> object:
    """The tensors of an encoding."""
    return load_tensors(latents_of(folder))


def of_file_of_comfy(folder: Path) -> object:
    """What role the adapter of another tool has."""
    return adapter_paths(folder / "adapters/comfy.safetensors")


def of_peft(folder: Path) -> object:
    """An adapter of peft, whose alpha is in a file beside it."""
    return judge_adapter(folder / "peft/adapter_model.safetensors")


def readers(folder: Path) -> list[Reader]:
    """Everything that is read from files."""
    state, today = (
        next((folder / run / "checkpoints").rglob("state.json")).relative_to(folder) for run in ("style", "now")
    )
    take = next(path for path in (folder / "evaluation/clips").rglob("summary.json")).relative_to(folder)
    model = "model/transformer"
    return [
        Reader("settings", "style/config.yaml", "yaml", of_run),
        Reader("run summary", "style/summary.json", "json", of_run),
        Reader("manifest", "style/manifest.jsonl", "jsonl", of_run),
        Reader("checkpoint", str(state), "json", lambda f: load_checkpoint(f / "style/checkpoints")),
        Reader("memory", str(today), "json", remembered),
        Reader("resumed settings", "style/config.yaml", "yaml", of_resume),
        Reader("data set", "style/dataset.json", "json", lambda f: Index.load(f / "style/dataset.json").data_hash),
        Reader("plan", "evaluation/plan.json", "json", of_evaluation),
        Reader("numbers", "evaluation/numbers.json", "json", of_evaluation),
        Reader("take", str(take), "json", of_evaluation),
        Reader("preferences", "evaluation/preferences.json", "json", of_evaluation),
        Reader("key", "evaluation/pairs-key.json", "json", of_evaluation),
        Reader("answers", "answers.json", "json", of_answers),
        Reader("clip", "clips/0000/summary.json", "json", is_done),
        Reader("study", "study/rows.json", "json", lambda f: lines(load_table(f / "study").rows)),
        Reader("sweep", "sweep/sweep.json", "json", of_sweep),
        Reader("sweep's summary", "sweep/0/summary.json", "json", of_sweep),
        Reader("overrides", "prepared/overrides.json", "json", of_overrides),
        Reader("ledger", "prepared/files.json", "json", lambda f: read_ledger(f / "prepared")),
        Reader("survey", str(survey_of(folder).relative_to(folder)), "npz", lambda f: load_survey(survey_of(f))),
        Reader("captions", "footage/captions.jsonl", "jsonl", of_captions),
        Reader("shots' captions", "prepared/captions.jsonl", "jsonl", of_captions),
        Reader("prompts", "prompts.txt", "text", lambda f: read_prompts(str(f / "prompts.txt"))),
        Reader("LUT", "a.cube", "text", of_cube),
        Reader("tensors", str(latents_of(folder).relative_to(folder)), "tensors", of_latents),
        Reader("adapter", "adapters/comfy.safetensors", "tensors", of_file_of_comfy),
        *(
            Reader(f"{name} adapter", f"adapters/{name}.safetensors", "tensors", partial(of_adapter, name))
            for name in ("comfy", "diffusers", "marked", "musubi")
        ),
        Reader("peft's settings", "peft/adapter_config.json", "json", of_peft),
        Reader("GGUF", "wan.gguf", "table", lambda f: read_gguf(f / "wan.gguf")),
        Reader("pointer", "style/checkpoints/last", "text", lambda f: load_checkpoint(f / "style/checkpoints")),
        Reader("W&B's id", WANDB_ID, "text", wandb_id),
        Reader("model config", f"{model}/config.json", "json", of_model),
        Reader("model index", f"{model}/diffusion_pytorch_model.safetensors.index.json", "json", of_model),
        Reader("pipeline", "model/model_index.json", "json", of_model),
    ]


# -- mutations ---------------------------------------------------------------------------------------------------------


def mutated(reader: Reader, whole: bytes, chance: random.Random) -> bytes:
    """A file that was changed in one way, or two."""
    for _ in range(chance.choice((1, 1, 1, 2))):
        in_its_form = chance.random() < 0.75
        changed = FORMS[reader.form](whole, chance) if in_its_form else any_bytes(whole, chance)
        whole = changed if changed is not None else any_bytes(whole, chance)
    return whole


def any_bytes(whole: bytes, chance: random.Random) -> bytes:
    """Cut, flipped, filled or replaced without regard to what it is."""
    at, to = sorted(chance.choices(range(len(whole) + 1), k=2))
    flipped = bytearray(whole)
    for _ in range(chance.choice((1, 1, 8)) if whole else 0):
        flipped[chance.randrange(len(whole))] ^= 1 << chance.randrange(8)
    odd = chance.choice(
        (b"\0", b"\xff", b"\xef\xbb\xbf", b"\x1b]0;x\x07", "\u202e".encode(), b"9" * 5000, b"[" * 10**5, b"\r")
    )
    return chance.choice(
        (
            *(
                whole[:at],
                whole[at:],
                whole[:at] + whole[to:],
                bytes(flipped),
                bytes(flipped),
                whole[:at] + odd + whole[at:],
            ),
            *(b"", b"\0" * 999, odd, whole * 2, b"[" + b"[]," * 10**6 + b"0]", b" " * 2**21 + whole),
            *(whole.decode("latin-1").encode("utf-16"), chance.randbytes(300)),
        )
    )


def places(value: Any, path: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    """Every place in plain data, its root first."""
    yield path
    for key, inner in value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ():
        yield from places(inner, (*path, key))


def other_data(value: Any, chance: random.Random) -> Any:
    """Plain data with one place changed: another value, none, a key more or under another name."""
    value = copy.deepcopy(value)
    # few lists are long, and their places are all alike: each depth has the same chance
    by_depth: dict[int, list[tuple[Any, ...]]] = {}
    for path in places(value):
        by_depth.setdefault(len(path), []).append(path)
    path = chance.choice(chance.choice(list(by_depth.values())))
    if not path:
        return chance.choice(VALUES)
    parent = value
    for key in path[:-1]:
        parent = parent[key]
    match chance.randrange(8):
        case 0:
            del parent[path[-1]]
        case 1 if isinstance(parent, dict):
            parent[chance.choice([one for one in VALUES if isinstance(one, str)])] = parent.pop(path[-1])
        case 2 if isinstance(parent, dict):
            parent[chance.choice(("path", "step", "x", "__class__", "_target_", "was"))] = chance.choice(VALUES)
        case 3:
            for _ in range(chance.choice((3, 60, 3000))):
                parent[path[-1]] = [parent[path[-1]]]
        case 4 if isinstance(parent, list):
            parent += [parent[path[-1]]] * chance.choice((1, 1000))
        case _:
            parent[path[-1]] = copy.deepcopy(chance.choice(VALUES))
    return value


def as_json(value: Any) -> bytes:
    """JSON, also of what has no end in Python's own writer."""
    limit = sys.getrecursionlimit()
    sys.setrecursionlimit(50_000)
    try:
        return json.dumps(value, indent=2).encode()
    finally:
        sys.setrecursionlimit(limit)


def other_json(whole: bytes, chance: random.Random) -> bytes | None:
    """JSON of which one place was changed, or a key is said twice."""
    try:
        value = json.loads(whole)
    except (ValueError, RecursionError):
        return None
    if chance.random() < 0.1 and b'": ' in whole:
        at = whole.rindex(b'"', 0, chance.choice([i for i in range(len(whole)) if whole.startswith(b'": ', i)]))
        key = whole[at : whole.index(b'": ', at)]
        return whole[:at] + key + b'": 1, ' + whole[at:]
    return as_json(other_data(value, chance))


def other_line(whole: bytes, chance: random.Random) -> bytes | None:
    """JSON lines of which one was changed."""
    rows = whole.splitlines()
    if not rows:
        return None
    at = chance.randrange(len(rows))
    try:
        rows[at] = json.dumps(json.loads(as_json(other_data(json.loads(rows[at]), chance)))).encode()
    except (ValueError, RecursionError):
        return None
    return b"\n".join(rows)


_DOUBLED = "".join(f"{after}: &{after} [*{one}, *{one}]\n" for one, after in pairwise("abcdefghijklmnopqrstuvwxyz"))
BOMBS = (
    f"a: &a [x, x]\n{_DOUBLED}",
    "a: !!python/object/apply:os.system [echo]\n",
    "a: &a {b: *a}\n",
    "<<: {a: 1}\n",
    "? [a]\n: b\n",
    "a: " + "1:" * 20_000 + "1\n",
    "a: 2020-99-99\n",
    "a: !!binary ////\n",
    "a: 1\n---\nb: 2\n",
    "[" * 5000,
    "a: " + "{a: " * 2000,
    "=: 1\n",
    "%YAML 9.9\n---\na: 1\n",
    "a: 0x" + "f" * 9000 + "\n",
)


def other_yaml(whole: bytes, chance: random.Random) -> bytes | None:
    """YAML of which one place was changed, or with what only YAML has."""
    if chance.random() < 0.2:
        bomb = chance.choice(BOMBS).encode()
        return chance.choice((bomb, whole + bomb, bomb + whole))
    try:
        value = other_data(parse_yaml(whole.decode(), dict[str, Any], ""), chance)
        return yaml.safe_dump(value, sort_keys=False, allow_unicode=chance.random() < 0.5).encode(
            errors="surrogatepass"
        )
    except (CineloraError, UnicodeDecodeError, RecursionError, ValueError):
        return None


TEXTS = ("", " ", "0", "-1", "nan", "inf", "1e308", "9" * 400, "9" * 5000, "folded", "{}", "[]", "\x1b[2J", "x" * 5000)


def other_note(whole: bytes, chance: random.Random) -> bytes | None:
    """A header in whose metadata one text is another, or, where that is JSON, says something else."""
    try:
        header = json.loads(whole)
        name = chance.choice(list(header["__metadata__"]))
    except (ValueError, KeyError, IndexError, TypeError, RecursionError):
        return other_json(whole, chance)
    notes = header["__metadata__"]
    other = other_json(str(notes[name]).encode(), chance) if str(notes[name]).startswith("{") else None
    notes[name] = other.decode(errors="replace") if other else chance.choice(TEXTS)
    return as_json(header)


def other_header(whole: bytes, chance: random.Random) -> bytes | None:
    """Tensors behind a changed header, of the length that it has or of another."""
    length = int.from_bytes(whole[:8], "little")
    header = (other_note if chance.random() < 0.5 else other_json)(whole[8 : 8 + length], chance)
    if header is None:
        return None
    told = chance.choice((len(header), len(header), len(header), length, 2**62, 0, 2**31))
    return told.to_bytes(8, "little") + header + whole[8 + length :]


def other_arrays(whole: bytes, chance: random.Random) -> bytes | None:
    """An npz of which one array is missing, of another type or shape, packed, or of which the note was changed."""
    try:
        with np.load(io.BytesIO(whole)) as file:
            arrays = {name: file[name] for name in file.files}
    except Exception:  # a file that was changed before
        return None
    name, save = chance.choice(list(arrays)), np.savez
    match chance.randrange(7):
        case 0:
            del arrays[name]
        case 1:
            arrays[name] = arrays[name].astype(chance.choice(("f8", "u1", "i8", "S3", "?", "c16")))
        case 2:
            arrays[name] = arrays[name][: len(arrays[name]) // 2]
        case 3:
            arrays[name] = np.zeros((chance.choice((0, 1, 10**6)), 2), arrays[name].dtype)
        case 4:
            arrays[chance.choice(("x", name))], save = np.zeros(10**8, np.uint8), np.savez_compressed
        case 5 if arrays[name].dtype.kind == "f":
            arrays[name][...] = chance.choice((math.nan, math.inf, -1e300 if arrays[name].dtype == "f8" else -1.0))
        case _:
            note = other_json(arrays["note"].tobytes(), chance) if "note" in arrays else None
            arrays["note"] = np.frombuffer(note or b"{", np.uint8)
    out = io.BytesIO()
    save(out, allow_pickle=False, **arrays)
    return out.getvalue()


def other_table(whole: bytes, chance: random.Random) -> bytes:
    """A GGUF file with another number somewhere in its table, or with lists in lists in front of it."""
    if chance.random() < 0.05:
        return whole[:24] + struct.pack("<Q", 1) + b"a" + struct.pack("<I", 9) + struct.pack("<IQ", 9, 1) * 20_000
    number = struct.pack("<Q", chance.choice((0, 1, 2, 8, 9, 2**20, 2**31 - 1, 2**32 - 1, 2**62, 2**64 - 1)))
    at, size = chance.randrange(4, 250), chance.choice((1, 4, 4, 8, 8))
    return whole[:at] + number[:size] + whole[at + size :]


def other_words(whole: bytes, chance: random.Random) -> bytes:
    """A text of which one word was replaced."""
    words = whole.split(b" ")
    odd = [
        b"nan",
        b"inf",
        b"-1",
        b"1e999",
        b"",
        b"\n",
        b"\0",
        b"x" * 10**5,
        "\u2028".encode(),
        b"LUT_3D_SIZE 300\n",
        b"9" * 5000,
    ]
    words[chance.randrange(len(words))] = chance.choice(odd)
    return b" ".join(words)


FORMS: dict[str, Callable[[bytes, random.Random], bytes | None]] = {
    **{"json": other_json, "jsonl": other_line, "yaml": other_yaml},
    **{"tensors": other_header, "npz": other_arrays, "text": other_words, "table": other_table},
}


# -- what comes of it --------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Outcome:
    """What a reader made of a file, what it took, and what is wrong with that ("" for nothing)."""

    kind: str
    seconds: float
    mib: float
    wrong: str = ""


class Hangs(BaseException):
    """A reader that does not end."""


def _hangs(*_: object) -> None:
    raise Hangs


def peak_mib(reset: bool = False) -> float:
    """The most memory that this process held since it was last reset."""
    if reset:
        Path("/proc/self/clear_refs").write_text("5")
    status = Path("/proc/self/status").read_text()
    return int(status.split("VmHWM:")[1].split()[0]) / 1024


def outcome(reader: Reader, folder: Path) -> Outcome:
    """Read the file once, and look at how that ended."""
    before, started = peak_mib(reset=True), time.perf_counter()
    signal.signal(signal.SIGALRM, _hangs)
    signal.alarm(HANG_S)
    kind, wrong = "read", ""
    try:
        with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(io.StringIO()):
            reader.read(folder)
    except CineloraError as error:
        kind = "refused"
        if not str(error) or len(str(error)) > LONGEST_SENTENCE:
            wrong = f"a sentence of {len(str(error))} characters"
    except (Exception, Hangs) as error:
        wrong = f"{type(error).__name__}: {error}"[:300]
    finally:
        signal.alarm(0)
    seconds, mib = time.perf_counter() - started, peak_mib() - before
    if seconds > MOST_S:
        wrong = wrong or f"{seconds:.1f} s"
    return Outcome(kind, seconds, mib, wrong or (f"{mib:.0f} MiB" if mib > MOST_MIB else ""))


def torment(reader: Reader, folder: Path, mutations: int, seed: int) -> list[tuple[Outcome, bytes]]:
    """What came of each mutation, with the file where something was wrong."""
    path = folder / reader.file
    whole, found = path.read_bytes(), []
    if (first := outcome(reader, folder)).kind != "read" or outcome(reader, folder).wrong:
        raise RuntimeError(f"{reader.name}: the file as it was is not read: {first}")
    for number in range(mutations):
        content = mutated(reader, whole, random.Random(f"{seed} {reader.name} {number}"))
        path.write_bytes(content)
        one = outcome(reader, folder)
        if one.wrong.endswith(" s"):  # perhaps the machine was busy
            one = min(one, outcome(reader, folder), key=lambda each: each.seconds)
        found.append((one, content if one.wrong else b""))
    path.write_bytes(whole)
    return found


def main(words: list[str]) -> None:
    """Torment every reader, or those named, and report."""
    options = dict(word.split("=", 1) for word in words)
    mutations, seed = int(options.get("mutations", 500)), int(options.get("seed", 0))
    results: dict[str, Any] = {}
    with tempfile.TemporaryDirectory(prefix="hostile-") as name:
        folder = Path(name)
        os.environ["XDG_STATE_HOME"] = str(folder / "state")  # where ids of W&B are noted
        make_files(folder)
        chosen = [reader for reader in readers(folder) if reader.name in options.get("readers", reader.name).split(",")]
        for reader in chosen:
            found = torment(reader, folder, mutations, seed)
            wrong = [(one.wrong, content) for one, content in found if one.wrong]
            results[reader.name] = {
                "mutations": len(found),
                "read": sum(one.kind == "read" and not one.wrong for one, _ in found),
                "refused": sum(one.kind == "refused" and not one.wrong for one, _ in found),
                "wrong": len(wrong),
                "most_seconds": round(max(one.seconds for one, _ in found), 3),
                "most_mib": round(max(one.mib for one, _ in found), 1),
            }
            print(reader.name, results[reader.name], flush=True)
            for sentence, content in list({sentence[:60]: (sentence, content) for sentence, content in wrong}.values())[
                :8
            ]:
                print(f"    {sentence!r}: {content[:200]!r}", flush=True)
    total = sum(row["mutations"] for row in results.values())
    print(
        f"{total} mutations, {sum(row['wrong'] for row in results.values())} ended in anything but a value or a sentence"
    )
    if "readers" not in options:
        report("hostile_files", {"seed": seed, "total": total, "readers": results})


if __name__ == "__main__":
    os.environ.setdefault("HF_HUB_OFFLINE", "1")
    main(sys.argv[1:])
