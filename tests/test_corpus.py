"""What an earlier version wrote is read by this one: runs, checkpoints, cache, adapters, footage, clips, numbers.

``tests/corpus/README.md`` says by which version and which commands its files were written. They are never written again: who
changes a format teaches this version to read the old one too, or to refuse it in one sentence that says what to type.
"""

from __future__ import annotations

import re
import shutil
from collections import Counter
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from cinelora.adapters.adapter_file import AdapterFile, read_adapter, read_adapter_facts
from cinelora.adapters.run_directory import RunDirectory, adapter_paths
from cinelora.cli.compose import compose_train
from cinelora.config.clip_request import ClipRequest
from cinelora.config.schema import EvaluateConfig, InferConfig, StudyConfig, TrainConfig
from cinelora.config.store import anchored, load, load_config, save_config
from cinelora.config.trust import note_as_own
from cinelora.errors import ConfigError
from cinelora.evaluation.clip_list import load_plan
from cinelora.evaluation.measure import load_numbers
from cinelora.evaluation.run_evaluation import evaluate
from cinelora.footage.build_dataset import OVERRIDES, prepare, read_overrides, whole_dataset
from cinelora.footage.manifest import read_manifest
from cinelora.footage.sample_source import wanted_by
from cinelora.io.own_folders import is_tagged
from cinelora.io.plain_data import read_json
from cinelora.io.tensor_files import load_tensors
from cinelora.latents.cache import Index
from cinelora.sampling.make_clips import write_take
from cinelora.sampling.scene import rank_makes
from cinelora.studies.results import load_table
from cinelora.studies.run_study import study
from cinelora.training.checkpoint_files import load_checkpoint, read_checkpoint
from cinelora.training.encode import encode_rank
from cinelora.training.fit import train_rank
from cinelora.training.model_card import card, read_record

SHIPPED = Path(__file__).parent / "corpus"
WRITTEN_IN = "/tmp/corpus"
"""The folder in which the commands were typed; it stands in the files."""
TEXTS = {".yaml", ".json", ".jsonl", ".md", ".txt", ".csv"}
CLOSE = {"rtol": 1e-4, "atol": 1e-6}
"""Between two CPUs; on the one that wrote the corpus there is no difference at all."""


@pytest.fixture(scope="module")
def corpus(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A copy that takes its own place for the one it was written in."""
    folder = tmp_path_factory.mktemp("corpus")
    shutil.copytree(SHIPPED, folder, dirs_exist_ok=True)
    for path in folder.rglob("*"):
        if path.suffix in TEXTS:
            path.write_text(path.read_text().replace(WRITTEN_IN, str(folder)))
    return folder


@pytest.fixture
def own_corpus(corpus: Path, tmp_path: Path) -> Path:
    """The same for tests that change what is in it: settings still name the shared footage and cache."""
    shutil.copytree(corpus, tmp_path, dirs_exist_ok=True)
    return tmp_path


def cached(corpus: Path) -> set[str]:
    return {path.name for path in (corpus / "cache").rglob("*.safetensors")}


def test_the_corpus_is_small_and_names_no_place_but_its_own():
    files = [path for path in SHIPPED.rglob("*") if path.is_file()]
    assert sum(path.stat().st_size for path in files) < 1_000_000
    text = "".join(path.read_text() for path in files if path.suffix in TEXTS)
    assert not [place for place in ("/root", "/work", "/home", "/usr", "/mnt") if f"{place}/" in text]


# -- runs --------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("name", "steps"), [("style", 4), ("motion", 2)])
def test_a_run_is_read(corpus: Path, name: str, steps: int):
    run = RunDirectory(corpus / name)
    config = load_config(run.path)
    assert (config.stage.name, config.stage.steps, config.lora.rank, config.data.trigger) == (name, 4, 1, "nwr")
    samples, index = read_manifest(run.manifest).samples, Index.load(run.dataset)
    assert [sample.id for sample in samples] == [entry.id for entry in index.entries]
    saved = load_checkpoint(run.checkpoints)
    assert saved.step == steps
    assert saved.group("adapter")
    assert saved.group("moments")
    assert bool(saved.group("ema")) == (name == "motion")
    assert saved.facts["rests_on"]["data"] == index.data_hash


def test_a_finished_run_writes_the_same_card(corpus: Path):
    record = read_record(RunDirectory(corpus / "style"))
    # what version 0.1 did not say yet: how musubi-tuner reads the file
    now = re.sub(r"\nmusubi-tuner: only after its converter.*\n", "", card(record, "."))
    words = [re.sub(r"\s+", "", text) for text in (now, record.run.card.read_text())]
    assert words[0] == words[1]  # lines may break elsewhere


def test_every_encoding_is_found_in_the_cache_and_none_is_made(corpus: Path, tmp_path: Path):
    before = cached(corpus)
    run = RunDirectory(tmp_path / "again")
    for name in ("style", "motion"):
        encode_rank(load_config(corpus / name), run)
        assert Index.load(run.dataset) == Index.load(corpus / name / "dataset.json")
    assert cached(corpus) == before


def test_a_run_that_was_killed_after_two_steps_ends_where_it_would_have(corpus: Path, own_corpus: Path):
    run = RunDirectory(own_corpus / "motion")
    ended = read_adapter(run.adapter("motion"))
    run.adapter("motion").unlink()
    config: TrainConfig = replace(load_config(run.path), resume=str(run.path))
    before = cached(corpus)
    encode_rank(config, run)
    train_rank(config, run)
    assert cached(corpus) == before
    again = read_adapter(run.adapter("motion"))
    assert again.modules == ended.modules
    for name, tensor in ended.state.items():
        torch.testing.assert_close(again.state[name], tensor, **CLOSE)
    assert load_checkpoint(run.checkpoints).step == 4


def test_a_run_of_that_version_is_resumed_after_one_word(own_corpus: Path, corpus: Path):
    """Nobody noted then who started it, and its footage and cache lie where no command would look by itself."""
    run = own_corpus / "motion"
    with pytest.raises(ConfigError, match=r"^resume=\S+ does not seem to be yours, .*cache=\S+; .* or add trust=true"):
        compose_train([f"resume={run}"])
    config = compose_train([f"resume={run}", "trust=true"])
    assert (config.data.root, config.cache) == (str(corpus / "footage"), str(corpus / "cache"))
    note_as_own(anchored(config))  # as the run does
    save_config(anchored(config), run / "config.yaml")
    assert compose_train([f"resume={run}"]).cache == str(corpus / "cache")


# -- adapters ----------------------------------------------------------------------------------------------------------


def test_an_adapter_is_the_same_in_every_layout(corpus: Path):
    ours = read_adapter(corpus / "style/style.safetensors")
    first = [module for module in ours.modules if module.startswith("blocks.0.")]
    files = {str(read_adapter_facts(file)["tool"]): file for file in (corpus / "adapters").iterdir()}
    assert sorted(files) == ["ComfyUI", "DiffSynth", "cinelora", "diffusers", "musubi-tuner"]
    for adapter in map(read_adapter, files.values()):
        assert sorted(adapter.modules) == sorted(first)
        for module in first:
            one, other = (update(found, module) for found in (adapter, ours))
            torch.testing.assert_close(one, other)


def update(adapter: AdapterFile, module: str) -> torch.Tensor:
    """What an adapter adds to the weights of a projection."""
    return adapter.spec.scale * adapter.state[f"{module}.lora_B.weight"] @ adapter.state[f"{module}.lora_A.weight"]


# -- footage -----------------------------------------------------------------------------------------------------------


def test_prepared_footage_is_taken_up_with_the_verdicts_by_hand(corpus: Path):
    config, folder = load_config(corpus / "motion"), corpus / "prepared"
    config.data.lettering = "plain"  # the only way there was
    verdicts = read_overrides(folder / OVERRIDES, asked=True)
    assert sorted(Counter(verdicts.values()).items()) == [("keep", 1), ("reject", 1)]
    surveys = {path for path in (folder / "surveys").rglob("*") if path.is_file()}
    wanted = wanted_by(config.model, 9, config.seed)
    prepared = prepare(config.data, wanted, 0)
    assert {shot.id: shot.by_hand for shot in prepared.shots if shot.by_hand} == verdicts
    # a test before this one may have asked the network for lettering
    assert not [note for note in prepared.notes if "surveyed again" not in note]
    stills = prepare(config.data, wanted_by(config.model, 1, config.seed), 0)
    manifest = whole_dataset(prepared, stills, config.data, wanted)
    assert manifest == read_manifest(folder / "manifest.jsonl")
    # they are of version 1, and made anew in their places
    assert {path for path in (folder / "surveys").rglob("*") if path.is_file()} == surveys


# -- clips, evaluations, studies ---------------------------------------------------------------------------------------


def test_clips_that_were_begun_are_made_from_their_drafts(own_corpus: Path, corpus: Path):
    # a draft is known by a hash of the settings, and so of the places that stood in them
    here, as_written = (load(InferConfig, folder / "clips/config.yaml") for folder in (corpus, SHIPPED))
    clips = own_corpus / "as-written"
    shutil.copytree(SHIPPED / "clips", clips)
    adapters = adapter_paths(Path(str(here.ckpt)))
    sources = ClipRequest.with_files(here, adapters).sources
    request = ClipRequest(replace(as_written, cache=here.cache), adapters, sources)
    todo = [take for take in ClipRequest(here).takes(clips) if not take.is_done(request)]
    assert [take.folder.name for take in todo] == ["0001"]
    draft = todo[0].folder / "adapted.latents"
    assert draft.exists()
    rank_makes(request, todo, {"adapted": here.scale}, write_take)
    assert not draft.exists()
    made, whole = (read_json(clips / take / "summary.json") for take in ("0001", "0000"))
    assert "decode" in made["seconds"]
    assert "denoise" not in made["seconds"]
    assert {key: made[key] for key in ("sources", "adapters")} == {key: whole[key] for key in ("sources", "adapters")}


def test_an_evaluation_is_measured_and_shown_again(own_corpus: Path, corpus: Path):
    folder = own_corpus / "evaluation"
    config = load(EvaluateConfig, folder / "config.yaml")
    planned, before = load_plan(folder), load_numbers(folder)
    assert not planned.missing(folder)
    assert evaluate(replace(config, report=True), folder) == 0
    after = load_numbers(folder)
    assert [(row.measure, row.variant) for row in after.rows] == [(row.measure, row.variant) for row in before.rows]
    means = [[row.mean.value for row in numbers.rows] for numbers in (after, before)]
    np.testing.assert_allclose(*means, rtol=1e-5)
    assert (folder / "report.html").is_file()


def test_a_study_is_shown_again(corpus: Path, tmp_path: Path):
    config = load(StudyConfig, corpus / "study/config.yaml")
    table = load_table(corpus / "study")
    assert [row.setting["steps"] for row in table.rows] == [2, 1]
    assert study(replace(config, merge=[str(corpus / "study")]), tmp_path) == 0
    assert load_table(tmp_path).rows == table.rows
    assert (tmp_path / "study.html").is_file()


# -- every file --------------------------------------------------------------------------------------------------------

READ = {
    "README.md": Path.read_text,
    "prompts.txt": Path.read_text,
    "footage/*/*": Path.read_bytes,
    "prepared/*.json": read_json,
    "prepared/surveys/*/*": Path.read_bytes,
    "prepared/*": Path.read_text,
    "cache/CACHEDIR.TAG": lambda path: is_tagged(path.parent),  # written by a run over the copy
    "cache/latents/*/*.safetensors": load_tensors,
    "adapters/*.safetensors": read_adapter,
    "*/*.safetensors": read_adapter,
    "*/checkpoints/last": Path.read_text,
    "*/checkpoints/*/*": lambda path: read_checkpoint(path.parent),
    "*/logs/csv/*/metrics.csv": lambda path: np.genfromtxt(path, delimiter=",", names=True),
    "*/manifest.jsonl": read_manifest,
    "*/dataset.json": Index.load,
    "*/README.md": Path.read_text,
    "clips/*/adapted.latents": load_tensors,
    "*/*.json": read_json,
    "*/config.yaml": Path.read_text,
    "*/*.csv": Path.read_text,
    "clips/*/*": Path.read_bytes,
    "evaluation/*/*": Path.read_bytes,
    "evaluation/clips/*/*": Path.read_bytes,
}
"""How each file is read; the first pattern that fits counts."""


def test_every_file_is_read(corpus: Path):
    for path in sorted(path for path in corpus.rglob("*") if path.is_file()):
        name = path.relative_to(corpus)
        reader = next(
            (
                reader
                for pattern, reader in READ.items()
                if name.match(pattern) and len(name.parts) == pattern.count("/") + 1
            ),
            None,
        )
        assert reader is not None, f"nobody reads {name}"
        reader(path)
