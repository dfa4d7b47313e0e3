"""What needs ``tools/`` says so where it is absent, before anything is made; the package never imports that folder itself."""

import ast
import inspect
import os
import subprocess
import sys
from pathlib import Path

import pytest

from cinelora import clone_only
from cinelora.cli.compose import compose_train
from cinelora.cli.preflight import check_train
from cinelora.errors import ConfigError
from cinelora.families.wan import embedded
from tools.scale_model import build_pair, pretrain, rendered

ROOT = Path(__file__).resolve().parents[2]
NEEDED = {
    "stage=pretrain": ["stage=pretrain", "data=noir"],
    "data=rendered": ["stage=style", "data=rendered"],
}


@pytest.mark.parametrize("wanted_by", NEEDED)
def test_without_a_clone_one_sentence_says_that_one_is_needed(
    wanted_by: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    config = compose_train(NEEDED[wanted_by])
    check_train(config)
    monkeypatch.setattr(clone_only, "CLONE", tmp_path)
    with pytest.raises(ConfigError, match=f"^{wanted_by} needs a clone of the project: [^\\n]+$"):
        check_train(config)


def test_without_weights_and_without_a_clone_there_is_no_embedded_model(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(embedded, "HOME", tmp_path / "nothing")
    monkeypatch.setattr(clone_only, "CLONE", tmp_path)
    with pytest.raises(ConfigError, match="^model=tiny without .*nothing needs a clone"):
        embedded.embedded("t2v", tmp_path)


def test_the_parts_are_what_the_package_calls():
    signatures = {
        pretrain.check: ["config"],
        pretrain.trained: ["transformer", "sharded"],
        pretrain.export: ["folder", "kind", "state"],
        rendered.rendered_manifest: ["look", "clips", "heldout", "num_frames", "fps", "in_part"],
        rendered.render_sample: ["sample", "height", "width", "fps", "device"],
        build_pair.materialise: ["folder"],
    }
    for function, names in signatures.items():
        assert list(inspect.signature(function).parameters) == names
        module = function.__module__.rpartition(".")[2]
        assert f"- ``{module}``" in str(clone_only.__doc__)
        assert f"``{function.__name__}(" in str(clone_only.__doc__)


def test_the_package_never_imports_tools():
    for path in sorted((ROOT / "cinelora").rglob("*.py")):
        for node in ast.walk(ast.parse(path.read_text())):
            names = [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
            names += [node.module or ""] if isinstance(node, ast.ImportFrom) else []
            assert not [name for name in names if name.split(".")[0] == "tools"], path


def test_a_clone_is_found_from_any_directory_and_before_other_tools(tmp_path: Path):
    (tmp_path / "tools").mkdir()
    (tmp_path / "tools" / "__init__.py").write_text("raise ImportError('tools of somebody else')")
    program = "from cinelora.clone_only import scale_model\nprint(scale_model('pretrain', 'this').__file__)"
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(map(str, (tmp_path, ROOT)))}
    done = subprocess.run([sys.executable, "-c", program], env=environment, capture_output=True, text=True, timeout=120)
    assert done.stdout.strip() == str(ROOT / "tools" / "scale_model" / "pretrain.py"), done.stderr
