"""What is read is data: a loader that could run a file's code is called so that it does not, or stands here with a reason."""

from __future__ import annotations

import ast
import json
import re
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest
from jinja2.exceptions import SecurityError
from transformers import AutoTokenizer, CLIPConfig, CLIPModel

from cinelora.config.shipped import PROJECT
from cinelora.errors import CineloraError, MetricError, ModelError
from cinelora.families.family import Part
from cinelora.families.wan import embedded
from cinelora.families.wan.bundle import WanBundle
from cinelora.metrics.networks import Clips, Dino

SOURCES = [*(path for room in ("cinelora", "tools") for path in sorted((PROJECT / room).rglob("*.py")))]
SOURCES += [PROJECT / "train.py", PROJECT / "infer.py"]
NEVER = {
    *("eval", "exec", "compile", "__import__", "os.system", "os.popen", "import_module", "importlib.import_module"),
    *("pickle.load", "pickle.loads", "pickle.Unpickler", "pickle_load", "torch.jit.load", "torch.hub.load"),
    *("yaml.load", "yaml.unsafe_load", "yaml.full_load", "runpy.run_path", "runpy.run_module", "joblib.load"),
    *("Template", "jinja2.Template", "ENVIRONMENT.from_string"),  # a template that is a file's text
    *("torch.package.PackageImporter", "torch.export.load", "cloudpickle.load", "shelve.open", "marshal.loads"),
}
"""Calls that run what they read, unpickle it, or take it for a template."""
ALLOWED = {
    ("cinelora/clone_only.py", "import_module"): "a name in the source, of a folder beside the package",
    (
        "cinelora/parallel/launch.py",
        "pickle.loads",
    ): "from a folder that this user alone can enter, made for this launch",
    (
        "cinelora/cli/sweep_launchers.py",
        "pickle_load",
    ): "submitit's results, in the directory of this sweep, written by its jobs",
    ("cinelora/io/plain_data.py", "yaml.load"): "its loaders are PyYAML's safe ones, and stricter",
    ("cinelora/metrics/networks.py", "torch.jit.load"): "bytes whose SHA-256 is the one that the user has stated",
}
SAFE = {
    "torch.load": {"weights_only": True},
    "np.load": {"allow_pickle": False},
    "numpy.load": {"allow_pickle": False},
}
"""Calls that are safe with an argument."""
SAYS_WHAT_IT_IS = {"Image.open": {"formats"}, "av.open": {"format", "options"}}
"""Readers of pictures and films that guess what a file is, and one of their arguments, which says what it may be taken for.

A guess may be PostScript, which Pillow has Ghostscript run, or a playlist, of which FFmpeg opens what it names.
"""


def calls() -> Iterator[tuple[str, str, ast.Call]]:
    for path in SOURCES:
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Call):
                yield str(path.relative_to(PROJECT)), ast.unparse(node.func), node


def arguments(call: ast.Call) -> dict[str | None, object]:
    """The named arguments of a call; those that are no constant are None, and of ``**name`` nothing is known."""
    return {word.arg: word.value.value if isinstance(word.value, ast.Constant) else None for word in call.keywords}


def lacks(call: ast.Call, wanted: dict[str, bool]) -> list[str]:
    given = arguments(call)
    return [f"{name}={value}" for name, value in wanted.items() if given.get(name) is not value]


def wanted_by(function: str) -> dict[str, bool]:
    if not function.endswith(".from_pretrained"):
        return SAFE.get(function, {})
    owner = function.removesuffix(".from_pretrained")
    # What transformers chooses by a file of the folder may come from the folder; a class that is named here may not.
    named = owner[0].isupper() and not re.match("Auto[A-Z]", owner)
    code = {} if named else {"trust_remote_code": False}
    return code | ({} if owner.endswith(("Tokenizer", "Processor")) else {"use_safetensors": True})


def test_no_call_runs_what_it_reads() -> None:
    found = {(path, function) for path, function, _ in calls() if function in NEVER}
    assert found == set(ALLOWED)


def test_every_loader_is_called_with_the_safe_argument() -> None:
    loaders = [(path, function, call) for path, function, call in calls() if wanted_by(function)]
    assert len(loaders) >= 10
    unsafe = [(path, call.lineno, function, lacks(call, wanted_by(function))) for path, function, call in loaders]
    assert [one for one in unsafe if one[-1]] == []


def test_no_picture_and_no_film_is_whatever_its_first_bytes_say() -> None:
    readers = [(path, call) for path, function, call in calls() if function in SAYS_WHAT_IT_IS]
    assert len(readers) >= 6
    guessed = [
        (path, call.lineno)
        for path, call in readers
        if not SAYS_WHAT_IT_IS[ast.unparse(call.func)] & {*arguments(call)}
    ]
    assert guessed == []


def test_no_shell_reads_a_command() -> None:
    shells = [(path, call.lineno) for path, _, call in calls() if arguments(call).get("shell", False) is not False]
    assert shells == []


def test_the_law_sees_what_it_forbids() -> None:
    for text, wanted in {
        "AutoTokenizer.from_pretrained(folder)": ["trust_remote_code=False"],
        "kind.from_pretrained(folder, trust_remote_code=True)": ["trust_remote_code=False", "use_safetensors=True"],
        "UMT5EncoderModel.from_pretrained(folder)": ["use_safetensors=True"],
        "torch.load(path, weights_only=flag)": ["weights_only=True"],
        "np.load(path)": ["allow_pickle=False"],
    }.items():
        call = ast.parse(text, mode="eval").body
        assert isinstance(call, ast.Call)
        assert lacks(call, wanted_by(ast.unparse(call.func))) == wanted


def with_code(folder: Path, file: str, **settings: object) -> Path:
    """Add to a file of settings that a class of the folder's own is wanted; its code leaves a mark."""
    known = json.loads((folder / file).read_text()) if (folder / file).is_file() else {}
    (folder / file).write_text(json.dumps(known | settings))
    (folder / "theirs.py").write_text(f"open({str(folder / 'mark')!r}, 'w').close()\nclass Theirs: pass\n")
    return folder


def never_asked(_prompt: str = "") -> str:
    raise AssertionError("a question was put to the terminal")


def test_code_in_a_folder_is_neither_run_nor_asked_about(
    tmp_path: Path, cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("builtins.input", never_asked)
    theirs = {"auto_map": {"AutoTokenizer": ["theirs.Theirs", None]}, "tokenizer_class": "Theirs"}
    pair = tmp_path / "pair"
    shutil.copytree(embedded.HOME / "t2v" / "tokenizer", pair / "tokenizer")
    with_code(pair / "tokenizer", "tokenizer_config.json", **theirs)
    clip = tmp_path / "clip"
    small = {"hidden_size": 8, "intermediate_size": 8, "num_hidden_layers": 1, "num_attention_heads": 2}
    CLIPModel(
        CLIPConfig(text_config=small, vision_config=small | {"image_size": 32}, projection_dim=8)
    ).save_pretrained(clip)
    with_code(clip, "tokenizer_config.json", **theirs)
    dino = tmp_path / "dino"
    shutil.copytree(clip, dino)
    with_code(
        dino, "config.json", model_type="theirs", auto_map={"AutoConfig": "theirs.T", "AutoModel": "theirs.Theirs"}
    )
    bundle = WanBundle(str(pair), cache=cache)
    attempts: list[tuple[type[CineloraError], object]] = [
        (ModelError, lambda: bundle.loaded(Part.TOKENIZER).__enter__()),
        (MetricError, lambda: Clips(str(clip), bundle.device)),
        (MetricError, lambda: Dino(str(dino), bundle.device)),
    ]
    for kind, attempt in attempts:
        with pytest.raises(kind) as refused:
            attempt()  # type: ignore[operator]
        assert "\n" not in str(refused.value)
        assert "code" in str(refused.value), refused.value
    assert list(tmp_path.rglob("mark")) == []


@pytest.mark.parametrize(
    "template",
    [
        "{{ ''.__class__.__mro__[1].__subclasses__() | length }}",
        "{{ messages.append.__self__.__class__ }}",
        "{{ cycler.__init__.__globals__.os.system('touch ran') }}",
        "{{ messages.append(1) }}",
    ],
)
def test_a_chat_template_that_came_with_a_captioner_is_rendered_in_a_sandbox(
    template: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """transformers', as it is installed: a template may be anybody's, and the captioner renders the one it finds."""
    monkeypatch.chdir(tmp_path)
    shutil.copytree(embedded.HOME / "t2v" / "tokenizer", tmp_path / "theirs")
    (tmp_path / "theirs" / "chat_template.jinja").write_text(template)
    tokenizer = AutoTokenizer.from_pretrained(tmp_path / "theirs", trust_remote_code=False)
    assert tokenizer.chat_template == template
    with pytest.raises(SecurityError):
        tokenizer.apply_chat_template([{"role": "user", "content": "describe"}], tokenize=False)
    assert not (tmp_path / "ran").exists()
