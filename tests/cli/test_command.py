"""The two commands as they are typed: answers in time without torch, run directories, sweeps."""

from __future__ import annotations

import csv
import json
import re
import resource
import shlex
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
import yaml
from composed import compose_evaluate, compose_infer

from cinelora.cli.help import NOBODY_READS, help_text
from cinelora.cli.main import main
from cinelora.cli.parse import parse
from cinelora.cli.programs import PROGRAMS
from cinelora.config.clip_facts import clip_hash
from cinelora.config.schema import drawn_by
from cinelora.config.shipped import PROJECT
from cinelora.config.store import anchored
from cinelora.errors import ConfigError, TrainingError
from cinelora.io.locks import TEMPORARY

SENTENCE_LIMIT_S = 3.0
WITHOUT_TORCH = """
import runpy, sys
sys.argv = sys.argv[1:]
run = runpy.run_path if sys.argv[0].endswith(".py") else runpy.run_module
try:
    run(sys.argv[0], run_name="__main__")
finally:
    assert "torch" not in sys.modules, "torch was imported"
    assert "lightning" not in sys.modules
"""


def program(script: str) -> str:
    return f"cinelora.{script}" if script == "evaluate" else str(PROJECT / f"{script}.py")


def typed(script: str, *argv: str, cwd: Path) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-c", WITHOUT_TORCH, program(script), *argv]
    return subprocess.run(command, cwd=cwd, capture_output=True, text=True, timeout=600)


MISTAKES = [
    ("train", [], "python train.py stage=style data=noir"),
    ("infer", [], "python infer.py ckpt="),
    ("train", ["data=noir"], "stage is missing: choose stage=motion|pretrain|style"),
    ("train", ["stage=style", "data=noir", "lora.rnak=4"], "did you mean lora.rank"),
    ("train", ["stage=style", "data=noir", "lora.rank=eight"], "wants a whole number"),
    ("train", ["stage=style", "data=folder", "data.root=gone"], "does not exist"),
    ("train", ["-m", "stage=style", "data=folder", "data.root=.", "lora.rank=4,0"], "member 1 (lora.rank=0)"),
    ("infer", ["prompt=x", "gpus=3", "sampler.ulysses=3"], "sampler.ulysses=3 cannot split 4 heads"),
    ("infer", ["prompt=x", "ckpt=gone"], "there is no"),
    ("evaluate", [], "python -m cinelora.evaluate ckpt="),
    ("evaluate", ["seeds=2"], "there is no prompt: say data="),
    ("evaluate", ["dta=noir"], "cinelora.evaluate: dta is not a setting, did you mean data?"),
    ("evaluate", ["data=noir", "ckpt=gone"], "there is no"),
    ("evaluate", ["data=noir", "against=[fvd]"], "wants a list [...] of psnr|ssim"),
    ("evaluate", ["data.root=clips"], "data.root=clips without data=: add data=folder"),
    ("evaluate", ["report=true"], "add out=<an evaluation's run directory>"),
    ("evaluate", ["report=true", "out=clips"], "holds no config.yaml: it is no run of cinelora.evaluate"),
    (
        "evaluate",
        ["answers=a.json", "out=clips", "seeds=2"],
        "draw nothing, so seeds cannot change; these can: metrics, against, report, answers, out, cache",
    ),
]


def children_s() -> float:
    """Processor seconds of this process's children so far: what else the machine does is not in them."""
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


@pytest.mark.parametrize(("script", "argv", "sentence"), MISTAKES)
def test_a_mistake_answers_in_time_without_torch(script: str, argv: list[str], sentence: str, tmp_path: Path) -> None:
    started = children_s()
    done = typed(script, *argv, cwd=tmp_path)
    assert children_s() - started < SENTENCE_LIMIT_S
    assert done.returncode == 2
    assert sentence in done.stderr
    assert "Traceback" not in done.stderr
    assert [path.name for path in tmp_path.iterdir()] == ["clips"]


@pytest.mark.parametrize("script", ["train", "infer", "evaluate"])
@pytest.mark.parametrize("flag", ["--help", "-h"])
def test_help_answers_in_time_without_torch(script: str, flag: str, tmp_path: Path) -> None:
    started = children_s()
    done = typed(script, "whatever", flag, cwd=tmp_path)
    assert children_s() - started < SENTENCE_LIMIT_S
    assert (done.returncode, done.stderr) == (0, "")
    assert (
        "model=animatediff_sd15|modelscope|tiny|tiny_animatediff|tiny_animatediff_random|tiny_modelscope_random|tiny_wan22_5b|"
        "tiny_wan22_a14b|videocrafter2|wan21_14b_480p|wan21_14b_720p|wan21_1_3b|wan22_5b|wan22_a14b|zeroscope"
        in done.stdout
    )
    key = "lora.rank" if script == "train" else "num_frames"
    assert key in done.stdout


def helped(script: str, *argv: str) -> str:
    """What a command line with --help answers with."""
    return help_text(parse(PROGRAMS[script], list(argv)))


@pytest.mark.parametrize("script", PROGRAMS)
def test_help_shows_the_twenty_settings_that_people_change_and_all_shows_every_one(script: str) -> None:
    program = PROGRAMS[script]
    shown = [
        line.split()[0].rstrip("*") for line in helped(script, "--help").partition("change most")[2].splitlines()[1:21]
    ]
    assert shown == list(program.often)
    assert len({*shown} & {*program.fields}) == 20
    every = {
        line.split()[0].rstrip("*") for line in helped(script, "--help", "all").splitlines() if line.startswith("  ")
    }
    hidden = {
        key for key, field in program.fields.items() if field.by_group or (field.not_in_training and script == "train")
    }
    assert {*program.fields} - every == hidden


def test_help_shows_the_values_that_the_command_line_gives() -> None:
    asked = helped(
        "train", "stage=style", "data=noir", "model=wan21_14b_480p", "lora.rank=4", "data.trigger=a, b", "--help"
    )
    assert re.search(r"^  lora\.rank +4 +rank of the adapter", asked, flags=re.M)
    assert re.search(r"^  model\.dtype +bf16 ", asked, flags=re.M)
    assert re.search(r"^  data\.trigger\* +a, b ", asked, flags=re.M)
    assert "with the values that this command line gives" in asked
    assert "model=" in asked
    assert "(here wan21_14b_480p)" in asked
    swept = helped("train", "-m", "stage=style", "data=noir", "lora.rank=4,8", "--help", "lora")
    assert re.search(r"^  lora\.rank +4 ", swept, flags=re.M)


def test_help_says_why_the_values_are_defaults(capsys: pytest.CaptureFixture[str]) -> None:
    half = helped("train", "stage=style", "--help")
    assert "The values below are defaults, until this is mended: data is missing: choose data=" in half
    assert "because of a mistake: lora.rnak is not a setting" in helped("train", "lora.rnak=4", "--help")
    assert "hub:owner/name is not fetched for a help text" in helped("infer", "ckpt=hub:owner/name", "--help")


@pytest.mark.parametrize(
    ("words", "keys"),
    [
        (["lora"], ["lora.rank", "lora.alpha", "lora.dropout", "lora.targets"]),
        (["rank"], ["lora.rank"]),
        (["data.limits.still", "seed"], ["data.limits.still", "seed"]),
        (["recipe"], []),
    ],
)
def test_help_of_a_section_or_setting_is_that_alone(words: list[str], keys: list[str]) -> None:
    lines = helped("train", "--help", *words).splitlines()
    assert [line.split()[0].rstrip("*") for line in lines if "=" not in line.split()[0]] == keys


def test_help_about_nothing_is_a_sentence() -> None:
    with pytest.raises(
        ConfigError, match="^--help lroa: there is no such setting, did you mean lora.*; --help all lists"
    ):
        helped("train", "--help", "lroa")


@pytest.mark.parametrize("word", ["lora.rnak=4", "--help", "lora.rank", "lora.rank.x=4"])
def test_a_mistyped_key_and_help_do_not_wait_for_hydra(word: str, tmp_path: Path) -> None:
    code = f"import sys; from cinelora.cli.main import main; main('train', [{word!r}], print); assert 'hydra' not in sys.modules"
    done = subprocess.run([sys.executable, "-c", code], cwd=PROJECT, capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr


def test_the_schemas_are_made_known_to_hydra_once() -> None:
    from cinelora.cli.compose import _store_schemas

    for _ in range(3):
        compose_infer(["prompt=x"])
    assert _store_schemas.cache_info().misses == 1


def test_what_nothing_reads_is_said_and_the_run_goes_on(run: Recorder, capsys: pytest.CaptureFixture[str]) -> None:
    assert main("infer", ["prompt=x", "negative_prompt=blur", "sampler.guidance=1"], run) == 0
    assert (
        "WARNING: negative_prompt=blur is not read: sampler.guidance=1 means no guidance\n" in capsys.readouterr().out
    )
    assert main("train", ["-m", *CLIPS, "logger=csv", "lora.rank=4,8"], run) == 0
    assert "logger.group" not in capsys.readouterr().out  # nobody typed it


@pytest.mark.parametrize(
    ("script", "argv"),
    [
        ("train", ["--help"]),
        ("infer", ["--help"]),
        ("train", ["stage=style", "data=noir", "--show"]),
        ("train", ["stage=style", "data=noir", "plan=true"]),
        ("infer", ["prompt=x", "plan=true"]),
    ],
)
def test_a_reader_that_leaves_is_no_error(script: str, argv: list[str]) -> None:
    command = [sys.executable, program(script), *argv]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as writing:
        assert writing.stdout is not None
        writing.stdout.close()  # as head does once it has its lines
        assert writing.stderr is not None
        assert writing.stderr.read() == ""
    assert writing.returncode == NOBODY_READS


def test_show_prints_the_settings_and_makes_nothing(tmp_path: Path) -> None:
    done = typed("train", "stage=style", "data=noir", "data.caption=a, b = c", "--show", cwd=tmp_path)
    assert yaml.safe_load(done.stdout)["data"]["caption"] == "a, b = c"
    assert [path.name for path in tmp_path.iterdir()] == ["clips"]


# In this process, with a run that only remembers ---------------------------------------------------------------------


class Recorder:
    """Stands where training stands: keeps what it was given, and leaves what it is told to."""

    def __init__(self) -> None:
        self.seen: list[tuple[Any, Path]] = []

    def __call__(self, config: Any, run_dir: Path) -> int:
        self.seen.append((config, run_dir))
        (run_dir / "checkpoints/step-00000001").mkdir(parents=True, exist_ok=True)
        return 0

    @property
    def dirs(self) -> list[str]:
        return [str(run_dir) for _, run_dir in self.seen]


@pytest.fixture
def run() -> Recorder:
    return Recorder()


@pytest.fixture(autouse=True)
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "clips").mkdir()
    return tmp_path


CLIPS = ["stage=style", "data=folder", "data.root=clips"]


def test_a_run_lands_in_its_own_directory_with_last_beside_it(here: Path, run: Recorder) -> None:
    assert main("train", CLIPS, run) == 0
    assert main("train", CLIPS, run) == 0  # the same second, perhaps
    first, second = (Path(path) for path in run.dirs)
    assert first != second
    assert first.parent == second.parent == Path("outputs/style/folder")
    last = here / "outputs/style/folder/last"
    assert last.is_symlink()
    assert last.resolve() == second.resolve()
    assert yaml.safe_load((second / "config.yaml").read_text())["data"]["root"] == str(here / "clips")


def test_out_is_the_run_directory_whatever_it_is_called(here: Path, run: Recorder) -> None:
    name = "my run, (a = 'b') ${x} \\ [c]"
    assert main("train", [*CLIPS, f"out={name}"], run) == 0
    assert run.dirs == [name]
    assert (here / name / "config.yaml").is_file()
    assert not (here / "outputs").exists()


def test_a_run_is_not_overwritten(here: Path, run: Recorder, capsys: pytest.CaptureFixture[str]) -> None:
    (here / "out").mkdir()
    assert main("train", [*CLIPS, "out=out"], run) == 0
    assert main("train", [*CLIPS, "out=out"], run) == 2
    assert "holds a run: continue it with resume=out" in capsys.readouterr().err
    (here / "notes").mkdir()
    (here / "notes/mine.txt").write_text("")
    assert main("train", [*CLIPS, "out=notes"], run) == 2
    assert main("train", [*CLIPS, "out=notes/mine.txt"], run) == 2
    assert main("train", [*CLIPS, "out=notes/mine.txt/below"], run) == 2
    assert "cannot be made" in capsys.readouterr().err


def test_the_nodes_of_a_run_share_a_directory(here: Path, run: Recorder, capsys: pytest.CaptureFixture[str]) -> None:
    """Of two nodes one may be writing its settings as the other one looks at the directory."""
    (here / "out").mkdir()
    (here / "out" / f"{TEMPORARY}0123abcd-config.yaml").write_text("seed:")
    assert main("train", [*CLIPS, "nodes=2", "out=out"], run) == 0
    assert main("train", [*CLIPS, "nodes=2"], run) == 2
    assert "nodes=2: each node would name a directory after its own clock; add out=" in capsys.readouterr().err
    assert main("train", ["nodes=2", "resume=out", "out=copy"], run) == 2
    assert "to out=copy yourself, then start every node with resume=copy" in capsys.readouterr().err
    assert len(run.seen) == 1


def test_a_directory_takes_one_run_at_a_time(capsys: pytest.CaptureFixture[str]) -> None:
    codes = []

    def meets_another(config: Any, run_dir: Path) -> int:
        codes.append(main("train", [*CLIPS, f"out={run_dir}"], meets_another))
        return 0

    assert main("train", [*CLIPS, "out=a"], meets_another) == 0
    assert codes == [1]
    assert "a is in use by another run (process" in capsys.readouterr().err


def test_resume_goes_on_in_the_run_or_in_a_copy(here: Path, run: Recorder) -> None:
    main("train", [*CLIPS, "out=a"], run)
    assert main("train", ["resume=a", "stage.steps=7"], run) == 0
    assert main("train", ["resume=a", "out=b"], run) == 0
    assert main("train", ["resume=b", "out=a"], run) == 2
    assert [Path(path).name for path in run.dirs] == ["a", "a", "b"]
    assert [config.stage.steps for config, _ in run.seen] == [1000, 7, 7]
    assert run.seen[2][0].resume == str(here / "a")
    assert (here / "b/checkpoints").is_dir()


def test_resume_auto_begins_and_goes_on_with_the_same_words(
    here: Path, run: Recorder, capsys: pytest.CaptureFixture[str]
) -> None:
    argv = [*CLIPS, "lora.rank=4", "data.caption=a = b", "out=a", "resume=auto"]
    assert main("train", [*argv, "stage.steps=5"], run) == 0
    assert run.seen[-1][0].resume is None
    (here / "a/checkpoints/step-00000003").mkdir(parents=True, exist_ok=True)
    assert main("train", [*argv, "stage.steps=7", "gpus=2", "stage.batch_size=2"], run) == 0
    config, run_dir = run.seen[-1]
    assert (config.resume, config.stage.steps, config.gpus, config.lora.rank) == (str(here / "a"), 7, 2, 4)
    assert run_dir == here / "a"
    (here / "a/summary.json").write_text(json.dumps({"interrupted": False, "steps": 7, "step": 7}))
    assert main("train", [*argv, "stage.steps=7"], run) == 0
    assert "a has all its 7 steps" in capsys.readouterr().out
    assert len(run.seen) == 2
    assert main("train", [*argv[:3], "lora.rank=8", *argv[4:]], run) == 2
    assert "out=a holds a run with lora.rank=4, and lora.rank=8 is asked for" in capsys.readouterr().err
    assert main("train", [*argv[:-2], "resume=auto"], run) == 2
    assert "add out=<directory>" in capsys.readouterr().err


def test_resume_works_from_another_directory(here: Path, run: Recorder, monkeypatch: pytest.MonkeyPatch) -> None:
    main("train", [*CLIPS, "out=a"], run)
    (here / "elsewhere").mkdir()
    monkeypatch.chdir(here / "elsewhere")
    assert main("train", ["resume=../a"], run) == 0
    assert run.seen[-1][0].data.root == str(here / "clips")


def test_the_same_prompts_go_on_where_they_stopped(here: Path, run: Recorder) -> None:
    (here / "my prompts.txt").write_text("one\ntwo\n")
    argv = ["prompts=my prompts.txt"]
    for more in ([], ["gpus=2"], ["seed=1"]):
        assert main("infer", [*argv, *more], run) == 0
    first, again, other = run.dirs
    assert first == again != other
    assert first.startswith("outputs/infer/my_prompts-")
    assert (here / "outputs/infer/last").resolve() == (here / other).resolve()


def test_a_clip_is_not_overwritten_by_another(run: Recorder, capsys: pytest.CaptureFixture[str]) -> None:
    assert main("infer", ["prompt=a, b", "out=clip"], run) == 0
    assert main("infer", ["prompt=a, b", "out=clip"], run) == 0
    assert main("infer", ["prompt=a, b", "out=clip", "seed=1"], run) == 2
    assert "holds clips of other settings" in capsys.readouterr().err


def test_where_a_clip_goes_does_not_change_it() -> None:
    clip = clip_hash(compose_infer(["prompt=x"]))
    assert clip == clip_hash(compose_infer(["prompt=x", "out=y", "gpus=2", "cache=z"]))
    assert clip != clip_hash(compose_infer(["prompt=x", "seed=1"]))
    cached = clip_hash(compose_infer(["prompt=x", "sampler.cache=first_block"]))
    assert cached not in (
        clip,
        clip_hash(compose_infer(["prompt=x", "sampler.cache=first_block", "sampler.cache_threshold=0.1"])),
    )


def test_anchored_paths_end_in_the_text(here: Path) -> None:
    config = anchored(compose_infer(["prompt=x", "image=a//b, ../c.png", "cache=/abs"]))
    assert (config.image, config.cache) == (f"{here}/a//b, ../c.png", "/abs")  # type: ignore[union-attr]


def test_a_run_named_by_its_link_is_remembered_by_its_own_name(here: Path, run: Recorder) -> None:
    main("train", CLIPS, run)
    config = anchored(compose_infer(["prompt=x", "ckpt=outputs/style/folder/last"]))
    assert config.ckpt == str(here / run.dirs[0])  # type: ignore[union-attr]


def test_a_model_in_a_directory_here_is_found_from_elsewhere(here: Path) -> None:
    (here / "weights/t2v").mkdir(parents=True)
    model = anchored(compose_infer(["prompt=x", "model.t2v=weights/t2v", "model.i2v=owner/name"])).model
    assert (model.t2v, model.i2v) == (f"{here}/weights/t2v", "owner/name")


def test_an_error_of_the_run_is_one_line(capsys: pytest.CaptureFixture[str]) -> None:
    def fails(config: Any, run_dir: Path) -> int:
        raise TrainingError("the loss is not finite at step 3")

    assert main("train", CLIPS, fails) == 1
    assert capsys.readouterr().err == "train.py: the loss is not finite at step 3\n"


def test_a_path_that_cannot_be_looked_at_is_a_sentence(run: Recorder, capsys: pytest.CaptureFixture[str]) -> None:
    assert main("infer", ["prompt=x", f"image={'a' * 300}.png"], run) == 2
    assert "cannot be looked at: File name too long" in capsys.readouterr().err


def test_ctrl_c_leaves_with_130() -> None:
    def interrupted(config: Any, run_dir: Path) -> int:
        raise KeyboardInterrupt

    assert main("train", CLIPS, interrupted) == 130


def test_an_evaluation_is_found_again_by_its_settings(here: Path, run: Recorder) -> None:
    argv = ["data=noir", "seeds=2"]
    for more in ([], ["gpus=2", "against=[ssim]", "metrics=temporal"], ["seed=1"]):
        assert main("evaluate", [*argv, *more], run) == 0
    first, again, other = run.dirs
    assert first == again != other
    assert first.startswith("outputs/evaluate/base-")
    assert (here / "outputs/evaluate/last").resolve() == (here / other).resolve()


def test_an_evaluation_is_looked_at_anew_with_its_own_settings(run: Recorder) -> None:
    assert main("evaluate", ["data=noir", "seeds=2", "out=e"], run) == 0
    assert main("evaluate", ["out=e", "report=true", "metrics=temporal", "against=[ssim]"], run) == 0
    config, run_dir = run.seen[-1]
    assert (config.seeds, config.report, config.against, str(run_dir)) == (2, True, ["ssim"], "e")
    assert config.metrics.names == ["flicker", "tssim", "motion"]
    assert config.data.root == str(PROJECT / "data/noir")


def test_what_an_evaluation_draws_is_what_its_settings_say() -> None:
    drawn = drawn_by(compose_evaluate(["data=noir", "sampler.steps=2", "mode=t2v", "num_frames=5", "memory.swap=1"]))
    assert (drawn.sampler.steps, drawn.mode, drawn.num_frames, drawn.memory.swap) == (2, "t2v", 5, 1.0)


# Sweeps ------------------------------------------------------------------------------------------------------------


def test_a_sweep_runs_each_member_in_its_directory(here: Path, run: Recorder) -> None:
    texts = ["data.caption=a man, smoking (alone); lamps = two moons", "data.trigger=${x}, 'y'", "out=sweep, it's (1)"]
    assert main("train", ["-m", *CLIPS, *texts, "lora.rank=4,8,16"], run) == 0
    assert run.dirs == [f"sweep, it's (1)/{n}" for n in range(3)]
    assert [config.lora.rank for config, _ in run.seen] == [4, 8, 16]
    assert {config.data.caption for config, _ in run.seen} == {"a man, smoking (alone); lamps = two moons"}
    assert {config.data.trigger for config, _ in run.seen} == {"${x}, 'y'"}
    assert [config.out for config, _ in run.seen] == run.dirs
    for n, rank in enumerate((4, 8, 16)):
        settings = yaml.safe_load((here / f"sweep, it's (1)/{n}/config.yaml").read_text())
        assert settings["lora"]["rank"] == rank


def test_members_of_a_sweep_are_one_group_of_wandb(run: Recorder) -> None:
    main("train", ["-m", *CLIPS, "lora.rank=4,8"], run)
    main("train", ["-m", *CLIPS, "lora.rank=4,8", "logger.group=mine"], run)
    sweep = str(Path(run.dirs[0]).parent.relative_to("outputs"))
    assert [config.logger.group for config, _ in run.seen] == [sweep, sweep, "mine", "mine"]


def test_a_sweep_goes_over_groups_too(run: Recorder) -> None:
    argv = ["--multirun", "data.root=clips", "stage=style", "data=folder,noir", "lora.rank=range(1,3)"]
    assert main("train", argv, run) == 0
    combinations = [(config.data.name, config.lora.rank) for config, _ in run.seen]
    assert combinations == [("folder", 1), ("folder", 2), ("noir", 1), ("noir", 2)]
    assert all(path.startswith("outputs/style/folder+noir/") for path in run.dirs)
    assert Path("outputs/style/noir/last").resolve() == Path(run.dirs[3]).resolve()


def test_show_of_a_sweep_prints_each_member_and_runs_none(run: Recorder, capsys: pytest.CaptureFixture[str]) -> None:
    assert main("train", ["-m", *CLIPS, "lora.rank=4,8", "--show"], run) == 0
    assert [member["lora"]["rank"] for member in yaml.safe_load_all(capsys.readouterr().out)] == [4, 8]
    assert run.seen == []


def test_inference_sweeps_too(run: Recorder) -> None:
    assert main("infer", ["-m", "prompt=a, b", "sampler.steps=2,4", "out=s"], run) == 0
    assert [(config.prompt, config.sampler.steps) for config, _ in run.seen] == [("a, b", 2), ("a, b", 4)]
    assert run.dirs == ["s/0", "s/1"]


def test_a_member_that_fails_is_named_and_the_others_go_on(capsys: pytest.CaptureFixture[str]) -> None:
    done = []

    def fails_at_8(config: Any, run_dir: Path) -> int:
        if config.lora.rank == 8:
            raise TrainingError("the loss is not finite at step 3")
        done.append(config.lora.rank)
        return 0

    assert main("train", ["-m", *CLIPS, "lora.rank=4,8,16", "out=s"], fails_at_8) == 1
    assert done == [4, 16]
    error = capsys.readouterr().err
    assert "s/1: the loss is not finite at step 3" in error
    assert "1 of 3 runs failed: 1 (lora.rank=8)" in error


def learns(config: Any, run_dir: Path) -> int:
    """A run that ends with a summary, a crash, or a stop, by its rank; it goes on where it was stopped."""
    rank, again = config.lora.rank, config.resume is not None
    (run_dir / "checkpoints/step-00000001").mkdir(parents=True, exist_ok=True)
    if rank == 6 and not again:
        raise ValueError("nobody foresaw this")
    summary = {
        "step": 2,
        "loss": 1 / rank,
        "adapter_effect": 0.1,
        "seconds": 2.0,
        "peak_memory_mib": {"host": 9, "gpu": 7},
    }
    heldout = {} if config.seed else {"heldout_loss": rank / 100}
    ends = {"interrupted": False, "steps": config.stage.steps}
    (run_dir / "summary.json").write_text(json.dumps({**summary, **heldout, **ends}))
    return 0


def rows_of(sweep: str) -> list[dict[str, str]]:
    with open(f"{sweep}/sweep.csv", encoding="utf-8") as file:
        return list(csv.DictReader(file))


def test_a_sweep_ends_in_a_sorted_table_and_goes_on(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    argv = ["-m", *CLIPS, "data.caption=it's, a man"]
    assert main("train", [*argv, "lora.rank=8,6,4", "out=a sweep"], learns) == 1
    assert [(row["overrides"], row["status"]) for row in rows_of("a sweep")] == [
        ("lora.rank=4", "done"),
        ("lora.rank=8", "done"),
        ("lora.rank=6", "failed: ValueError: nobody foresaw this"),
    ]
    best = rows_of("a sweep")[0]
    assert best == {
        **{"member": "2", "overrides": "lora.rank=4", "status": "done", "loss": "0.25", "heldout_loss": "0.04"},
        **{"adapter_effect": "0.1", "seconds": "2.0", "peak_memory_mib": "7", "run_directory": "a sweep/2"},
    }
    said = capsys.readouterr()
    assert "2       lora.rank=4  done    0.25   0.04          0.1             2        7" in said.out
    assert "1 of 3 runs failed: 1 (lora.rank=6)" in said.err
    again = shlex.split(said.err.partition("1 again, alone: ")[2])
    assert again[:3] == ["python", "train.py", "-m"]
    assert main("train", again[2:], learns) == 0
    assert [row["status"] for row in rows_of("a sweep")] == ["done"] * 3
    ran: list[int] = []

    def remember(config: Any, run_dir: Path) -> int:
        ran.append(config.lora.rank)
        return learns(config, run_dir)

    assert main("train", [*argv, "lora.rank=4,6,8,10", "out=a sweep", "resume=auto"], remember) == 0
    assert ran == [10]
    assert [row["member"] for row in rows_of("a sweep")] == ["2", "1", "0", "3"]


def test_without_heldout_losses_a_table_is_sorted_by_loss() -> None:
    main("train", ["-m", *CLIPS, "lora.rank=4,8", "seed=1", "out=s"], learns)
    assert [(row["overrides"], row["heldout_loss"]) for row in rows_of("s")] == [
        ("lora.rank=8", ""),
        ("lora.rank=4", ""),
    ]


ASLEEP = """
import os, sys, time
from cinelora.cli.main import main
def run(config, run_dir):
    (run_dir / "pid").write_text(str(os.getpid()))
    try:
        time.sleep(600)
    finally:
        (run_dir / "saved").touch()
    return 0
sys.exit(main("train", sys.argv[1:], run))
"""


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGKILL])
def test_members_in_processes_of_their_own_end_with_their_sweep(number: int, here: Path) -> None:
    pytest.importorskip("submitit", reason="the launchers come with cinelora[slurm]")
    argv = ["-m", *CLIPS, "hydra/launcher=local", "lora.rank=4,8", "out=s"]
    with subprocess.Popen([sys.executable, "-c", ASLEEP, *argv], stdout=subprocess.PIPE) as parent:
        assert wait_until(lambda: any(here.glob("s/*/pid")))
        time.sleep(0.5)
        pids = [int(file.read_text()) for file in here.glob("s/*/pid")]
        parent.send_signal(number)
        assert parent.wait(600) == (130 if number == signal.SIGINT else -number)
    assert wait_until(lambda: not any(Path(f"/proc/{pid}").exists() for pid in pids))
    assert len(list(here.glob("s/*/saved"))) == len(pids) > 0


def wait_until(condition: Any, timeout_s: float = 600) -> bool:
    end = time.monotonic() + timeout_s
    while not condition() and time.monotonic() < end:
        time.sleep(0.1)
    return bool(condition())


def test_a_member_that_would_be_refused_stops_the_sweep_before_it_starts(
    here: Path, run: Recorder, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main("train", ["-m", *CLIPS, "lora.rank=4,eight", "out=s"], run) == 2
    assert "member 1 (lora.rank=eight): lora.rank=eight: wants a whole number" in capsys.readouterr().err
    assert (run.seen, (here / "s").exists()) == ([], False)


def test_ctrl_c_ends_the_whole_sweep(run: Recorder) -> None:
    def interrupted(config: Any, run_dir: Path) -> int:
        run(config, run_dir)
        return 130

    assert main("train", ["-m", *CLIPS, "lora.rank=4,8", "out=s"], interrupted) == 130
    assert run.dirs == ["s/0"]


@pytest.mark.parametrize(
    ("argv", "sentence"),
    [
        (["resume=x"], "resume= continues one run"),
        (["stage=style", "data=glob(*)"], "wants its values one by one"),
        ([*CLIPS, "hydra/launcher=basic,local"], "the same for the whole sweep"),
        ([*CLIPS, "out=clips/full"], "is not empty"),
        (["data=folder"], "stage is missing"),
    ],
)
def test_a_sweep_that_cannot_be_made(
    argv: list[str], sentence: str, run: Recorder, here: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (here / "clips/full/0").mkdir(parents=True)
    assert main("train", ["-m", *argv], run) == 2
    assert sentence in capsys.readouterr().err
    assert run.seen == []


def test_a_launcher_is_for_sweeps(run: Recorder, capsys: pytest.CaptureFixture[str]) -> None:
    assert main("train", [*CLIPS, "hydra/launcher=slurm"], run) == 2
    error = capsys.readouterr().err
    assert "add -m" in error or "pip install cinelora[slurm]" in error or "no srun" in error


def remember(config: Any, run_dir: Path) -> int:
    (run_dir / "seen.txt").write_text(config.data.caption)
    return 3 if config.lora.rank == 8 else 0


def test_a_launcher_runs_members_in_processes_of_their_own(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    pytest.importorskip("hydra_plugins.hydra_submitit_launcher", reason="the launchers come with cinelora[slurm]")
    cloudpickle = pytest.importorskip("cloudpickle")
    cloudpickle.register_pickle_by_value(sys.modules[__name__])  # a job cannot import a test
    argv = [*CLIPS, "hydra/launcher=local", "hydra.launcher.timeout_min=5", "lora.rank=4,8", "out=s, (1)"]
    assert main("train", ["-m", *argv, "data.caption=a = '${x}', b"], remember) == 3
    assert [(here / f"s, (1)/{n}/seen.txt").read_text() for n in range(2)] == ["a = '${x}', b"] * 2
    assert "1 of 2 runs failed: 1 (lora.rank=8)" in capsys.readouterr().err
    (jobs,) = (here / "s, (1)/.submitit").iterdir()
    assert len(list(jobs.glob("*/*_result.pkl"))) == 2
    assert jobs.stat().st_mode & 0o777 == 0o700  # what is unpickled from it is ours
    assert main("train", ["-m", *argv[:-1], "hydra.launcher.foo=1", "out=t"], remember) == 2
    assert "hydra.launcher.foo" in capsys.readouterr().err
    assert not (here / "t").exists()
