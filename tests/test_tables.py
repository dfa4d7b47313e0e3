"""The tables of full-size runs say what the results in the repository say."""

from __future__ import annotations

import importlib.util
import json
import shutil
import sys
from pathlib import Path

import pytest

REPO = Path(__file__).parents[1]
SPEC = importlib.util.spec_from_file_location("tables", REPO / "benchmarks" / "tables.py")
assert SPEC is not None
assert SPEC.loader is not None
tables = sys.modules["tables"] = importlib.util.module_from_spec(SPEC)  # dataclasses look their module up there
SPEC.loader.exec_module(tables)


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """A repository of pages and results alone, whose tables are out of date."""
    for block in tables.BLOCKS:
        page = tmp_path / block.page
        page.parent.mkdir(exist_ok=True)
        page.write_text(tables.rewritten((REPO / block.page).read_text(), block, "old"))
    shutil.copytree(tables.RESULTS, tmp_path / "results")
    return tmp_path


def pages(root: Path) -> dict[str, str]:
    return {block.page: (root / block.page).read_text() for block in tables.BLOCKS}


def test_the_tables_are_what_the_results_in_the_repository_make(root: Path):
    measured = [block for block in tables.BLOCKS if not tables.read(tables.RESULTS, block)[1]]
    assert {"full_size", "cases"} <= {block.name for block in measured}
    said = tables.write_pages(root, root / "results")
    assert [line for line in said if "stays" not in line] == [f"{b.page}: {b.name} written" for b in measured]
    for block in measured:
        text = tables.written(block, tables.read(tables.RESULTS, block)[0])
        assert text in (REPO / block.page).read_text(), "run: python benchmarks/tables.py"
        assert text in pages(root)[block.page]


def test_without_its_results_a_table_stays_and_that_is_said(root: Path):
    before = pages(root)
    (root / "results" / "denoise.json").unlink()
    said, *_ = tables.write_pages(root, root / "results")
    assert said == f"docs/measured.md: full_size stays as it is, for want of denoise.json in {root / 'results'}"
    after = pages(root)
    assert after["docs/measured.md"] == before["docs/measured.md"]
    assert after["docs/memory.md"] == pages(REPO)["docs/memory.md"]


def test_what_was_not_measured_or_failed_is_no_number(root: Path):
    path = root / "results" / "memory.json"
    cases = json.loads(path.read_text())
    cases["window-fp8-24"] = {"predicted_gib": 19.5, "failed": "CUDA out of memory."}
    del cases["window-fp8-16"]
    path.write_text(json.dumps(cases))
    tables.write_pages(root, root / "results")
    found = pages(root)
    assert "| 33 frames 480p, fp8, in 24 GiB | - | 19.5 | out of memory | - | - | - | - |" in found["docs/memory.md"]
    (row,) = (line for line in found["docs/measured.md"].splitlines() if "33 frames 480p, in 24 GiB" in line)
    assert row.endswith("| out of memory |")
    (row,) = (line for line in found["docs/measured.md"].splitlines() if "33 frames 480p, in 16 GiB" in line)
    assert row.endswith("| - |")


def test_results_of_several_machines_or_versions_are_told_apart():
    facts = {"gpus": 1, "device": "NVIDIA H200", **dict.fromkeys(tables.VERSIONS, "1")}
    one = "1 x NVIDIA H200, python 1, torch 1, diffusers 1, peft 1, lightning 1"
    assert tables.measured_on({"a": facts, "b": facts}) == f"{one}. A dash: not measured."
    other = one.replace("torch 1", "torch 2")
    told = tables.measured_on({"a": facts, "b": {**facts, "torch": "2"}, "c": facts})
    assert told == f"a, c: {one}; b: {other}."


def test_a_page_without_markers_is_refused():
    with pytest.raises(ValueError, match="wants <!-- cases --> and <!-- /cases -->, once each"):
        tables.rewritten("no table", next(one for one in tables.BLOCKS if one.name == "cases"), "text")


CLIP = {"model": "tiny", "clip": "tiny, 5 frames of 16x16, guidance 1, 1 clips"}


def study_row(name: str, took: float, **more: object) -> dict[str, object]:
    machine = {"gpus": 0, "cpu_cores": 2, "device": "x86_64"} | dict.fromkeys(tables.VERSIONS, "1")
    timed = {"seconds": {"denoise": took, "decode": 1.0}, "denoise_s": [took], "step_s": took / 4}
    row = {
        "name": name,
        "machine": machine,
        "facts": {**CLIP, "compiled": False},
        "whole_s": 0.5,
        "skipped_s": None,
        "computed": 1.0,
        "peak_gib": 2.0,
    }
    return {**row, **timed, "numbers": {"tssim": 0.9}, "trouble": None, **more}


def test_studies_are_told_against_their_baseline(root: Path):
    failed = study_row("rank 32", 0.0, seconds={}, step_s=None, trouble="out of GPU memory at 79.0 GiB")
    compiled = {"facts": {**CLIP, "compiled": True}}
    other = {"gpus": 1, "cpu_cores": 2, "device": "H100"} | dict.fromkeys(tables.VERSIONS, "1")
    late = {**CLIP, "compiled": False, "sitting": "late"}
    rows = [
        *(study_row("baseline", 4.0), study_row("taylorseer 4", 2.0, computed=0.5, skipped_s=0.01), failed),
        *(study_row("baseline", 3.0, **compiled), study_row("live", 3.3, **compiled)),
        *(study_row("baseline", 8.0, machine=other), study_row("fp8", 6.0, machine=other)),
        study_row("rank 8", 5.0, facts=late, numbers={"psnr": 100.0}, setting={"cache": "none", "merged": True}),
        study_row("rank 2", 4.0, facts=late, numbers={"psnr": 20.0}),
        study_row("alone", 4.0, facts={**CLIP, "sitting": "another"}),
    ]
    for name in ("study_scale_model", "study_14b"):
        (root / "results" / f"{name}.json").write_text(json.dumps({"rows": rows, "sentences": []}))
    tables.write_pages(root, root / "results")
    page = (root / "docs" / "study.md").read_text()
    assert "| taylorseer 4 | 2.00 (2.00 to 2.00) | 0.50 | 1 | 50 % | 0.9 |" in page
    assert "| x86_64 | 5 frames of 16x16 | taylorseer 4 | 0.500 | 0.500 | 0.5 | 0.01 | 50 % | 2 |" in page
    assert "| x86_64 | 5 frames of 16x16 | live, compiled | 0.825 | 1.100 |" in page, "against the compiled baseline"
    assert "| rank 2 | 4.00 (4.00 to 4.00) | 0.80 |" in page, "of what draws the baseline's clip in the same sitting"
    assert "| alone | 4.00 (4.00 to 4.00) | - |" in page, "nothing of its sitting can be compared with"
    assert "| H100 | 5 frames of 16x16 | fp8 | 1.500 | 0.750 |" in page, "against the baseline of its own device"
    assert page.count("| rank 32 | out of GPU memory at 79.0 GiB |") == 2
    assert "2 cores, x86_64, python 1" in page
