"""The shape of the house, read from its source: imports go one way, and heavy packages stay in their rooms.

Each law is one test that lists every offender. A room is a folder of ``cinelora/``, or a module at its top.
"""

from __future__ import annotations

import ast
import json
import re
import subprocess
import sys
import tomllib
from collections import Counter, defaultdict
from collections.abc import Iterator
from graphlib import CycleError, TopologicalSorter
from importlib import import_module
from importlib.metadata import packages_distributions
from importlib.util import find_spec
from pathlib import Path

from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

REPO = Path(__file__).parents[1]
PACKAGE = sorted((REPO / "cinelora").rglob("*.py"))
TOOLS = sorted((REPO / "tools").rglob("*.py"))
SCRIPTS = [REPO / "train.py", REPO / "infer.py"]
FACADE = REPO / "cinelora" / "__init__.py"
"""Re-exports the public API for type checkers alone; nothing below imports more of it than the version."""

ONLY_IMPORTER = {
    "hydra": "cinelora.cli.compose",
    "omegaconf": "cinelora.cli.compose",
    "peft": "cinelora.adapters.lora_layers",
    "triton": "cinelora.nn.int8_kernels",
}
# These answer `--help`, mistakes and file scans, so importing them must not cost torch's seconds.
WITHOUT_TORCH = (
    "cinelora.adapters.adapter_header",
    "cinelora.adapters.run_directory",
    "cinelora.card",
    "cinelora.check",
    "cinelora.clone_only",
    "cinelora.cli",
    "cinelora.config",
    "cinelora.errors",
    "cinelora.evaluate",
    "cinelora.families.animatediff.unet_parts",
    "cinelora.families.unet_layers",
    "cinelora.families.wan_layers",
    "cinelora.families.layer_names",
    "cinelora.families.parts",
    "cinelora.families.text_limit",
    "cinelora.families.animatediff_sd15",
    "cinelora.families.conditioning",
    "cinelora.families.family",
    "cinelora.families.noise_law",
    "cinelora.families.unet3d.clip_parts",
    "cinelora.families.unet3d.videocrafter_names",
    "cinelora.families.unet3d_models",
    "cinelora.families.vae_facts",
    "cinelora.families.wan.checkpoint_layouts",
    "cinelora.families.wan.experts",
    "cinelora.families.wan.transformer_tensors",
    "cinelora.families.wan21",
    "cinelora.footage",
    "cinelora.io",
    "cinelora.parallel.launch",
    "cinelora.parallel.partition",
    "cinelora.planning",
    "cinelora.prepare",
    "cinelora.studies.pareto",
    "cinelora.studies.results",
    "cinelora.studies.variants",
    "cinelora.study",
    "cinelora.training.model_card",
)


def module_name(path: Path) -> str:
    """``cinelora/nn/fp8.py`` -> ``cinelora.nn.fp8``; a package carries its own name."""
    parts = path.relative_to(REPO).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


def is_in(module: str, names: tuple[str, ...]) -> bool:
    return any(module == name or module.startswith(f"{name}.") for name in names)


def imports(path: Path, *, at_import: bool = False) -> Iterator[str]:
    """Every name that a file imports; ``at_import`` leaves out what waits inside functions and type-checking blocks."""
    pending: list[ast.AST] = [ast.parse(path.read_text())]
    while pending:
        node = pending.pop()
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: imports are absolute"
            yield from (f"{node.module}.{alias.name}" for alias in node.names)
        is_late = isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef) or (
            isinstance(node, ast.If) and "TYPE_CHECKING" in ast.unparse(node.test)
        )
        if not (at_import and is_late):
            pending.extend(ast.iter_child_nodes(node))


def room_of(name: str) -> str:
    """The folder of ``cinelora/`` that a dotted name lies in, or the module at its top; "version" for the package itself.

    In ``families`` each module and folder is one by itself: facts lie below all that asks them, what runs a family above it.
    """
    parts = [*name.split("."), "version"]
    place = REPO.joinpath(*parts[:3])
    if parts[1] == "families" and (place.is_dir() or place.with_suffix(".py").exists()):
        return ".".join(parts[1:3])
    return parts[1] if parts[1] != "__version__" else "version"


def test_imports_go_one_way_between_rooms() -> None:
    """Late imports and those for types count too: a room can be read, and taken out, without those above it."""
    graph: dict[str, set[str]] = defaultdict(set)
    for path in PACKAGE:
        if path != FACADE:
            own = room_of(module_name(path))
            graph[own] |= {room_of(name) for name in imports(path) if name.split(".")[0] == "cinelora"} - {own}
    try:
        TopologicalSorter(graph).prepare()
    except CycleError as error:
        raise AssertionError(f"rooms import each other in a circle: {' <- '.join(error.args[1])}") from None


KNOWS_WAN = {
    "cinelora.adapters.formats": "wan_layers.BLOCK_NAMES wan_layers.OUTSIDE_NAMES wan_layers.WAN_LAYERS wan_layers.WAN_NAMES",
    "cinelora.metrics.networks": "wan.bundle.CLIP_MEAN wan.bundle.CLIP_STD wan.bundle.load_tokenizer wan.embedded",
    "cinelora.sampling.make_clips": "wan.embedded.is_trained",
}
"""What still asks for Wan by name."""


def test_a_family_is_asked_by_what_its_model_says() -> None:
    """Outside ``families/`` facts come from ``family_of(model)``, and what loads and feeds it from ``machinery_of(model)``."""
    families = "cinelora.families."
    found: dict[str, set[str]] = defaultdict(set)
    for path in PACKAGE:
        for name in imports(path):
            if name.startswith(f"{families}wan") and not is_in(module_name(path), ("cinelora.families",)):
                found[module_name(path)].add(name.removeprefix(families))
    assert {module: " ".join(sorted(names)) for module, names in found.items()} == KNOWS_WAN


def test_the_package_never_imports_tools_or_scripts() -> None:
    above = {
        f"{module_name(path)} imports {name}"
        for path in PACKAGE
        for name in imports(path)
        if name.split(".")[0] in {"tools", "train", "infer", "benchmarks", "tests"}
    }
    assert above == set()


def test_no_two_files_have_one_name_and_none_is_a_lumber_room() -> None:
    stems = Counter(path.stem for path in [*PACKAGE, *TOOLS, *SCRIPTS] if not path.stem.startswith("__"))
    assert [name for name, count in stems.items() if count > 1] == []
    tests = Counter(path.name for path in (REPO / "tests").rglob("test_*.py"))
    assert [name for name, count in tests.items() if count > 1] == []
    assert set(stems) & {"utils", "util", "helpers", "common", "misc", "base"} == set()


def test_no_public_class_name_has_two_meanings() -> None:
    places: dict[str, list[str]] = defaultdict(list)
    for path in PACKAGE:
        for node in ast.parse(path.read_text()).body:
            if isinstance(node, ast.ClassDef) and not node.name.startswith("_"):
                places[node.name].append(module_name(path))
    assert {name: where for name, where in places.items() if len(where) > 1} == {}


def test_pictures_have_one_reader() -> None:
    """A second way in would forget a profile, a phone's turn or 16 bits, as one did once."""
    ways = re.compile(r"\bImage\.open\(|\bimread\(|\bImageFile\b|\bread_image\(")
    readers = {module_name(path) for path in PACKAGE if ways.search(path.read_text())}
    assert readers == {"cinelora.footage.image_reader"}


def test_a_heavy_package_has_one_door() -> None:
    offenders = {
        f"{module_name(path)} imports {package}"
        for path in [*PACKAGE, *SCRIPTS]
        for package, door in ONLY_IMPORTER.items()
        if module_name(path) != door and any(is_in(name, (package,)) for name in imports(path))
    }
    assert offenders == set()


def light_modules() -> list[str]:
    names = map(module_name, PACKAGE)
    return [name for name in names if is_in(name, WITHOUT_TORCH)]


def test_light_modules_do_not_name_torch() -> None:
    heavy = ("torch", "diffusers", "transformers", "lightning", "peft", "torchmetrics")
    offenders = [
        f"{module_name(path)} imports {name}"
        for path in PACKAGE
        if module_name(path) in light_modules()
        for name in imports(path, at_import=True)
        if is_in(name, heavy)
    ]
    assert offenders == []


def test_light_modules_do_not_bring_torch_along() -> None:
    """What the source cannot show: neither we nor a package we import reaches torch by a detour."""
    program = (
        "import importlib, sys\n"
        "for name in sys.argv[1:]:\n"
        "    importlib.import_module(name)\n"
        "    if 'torch' in sys.modules: sys.exit(f'importing {name} imports torch')\n"
    )
    command = [sys.executable, "-c", program, *light_modules()]
    done = subprocess.run(command, cwd=REPO, capture_output=True, text=True, timeout=600)
    assert done.returncode == 0, done.stderr


def test_every_imported_package_is_declared() -> None:
    project = tomllib.loads((REPO / "pyproject.toml").read_text())["project"]
    extras = project["optional-dependencies"]
    requirements = [*project["dependencies"], *(line for extra in extras if extra != "dev" for line in extras[extra])]
    declared = {canonicalize_name(Requirement(line).name) for line in requirements} | {"cinelora"}
    installed = packages_distributions()
    # torch for CUDA brings triton in the version that it compiles by; another one would be wrong, and for CPUs there is none
    own = sys.stdlib_module_names | {"cinelora", "tools", "train", "infer", "triton"}
    undeclared = {
        f"{module_name(path)} imports {top}"
        for path in [*PACKAGE, *SCRIPTS]
        for top in {name.split(".")[0] for name in imports(path)} - own
        if not {canonicalize_name(owner) for owner in installed.get(top, [top])} & declared
    }
    assert undeclared == set()


def test_configuration_never_names_code() -> None:
    files = [path for path in (REPO / "conf").rglob("*") if path.suffix in {".yaml", ".yml"}]
    assert files
    assert [path for path in files if "_target_" in path.read_text()] == []


WRITES = {
    "copy2",
    "copyfile",
    "copyfileobj",
    "copytree",
    "symlink",
    "link",
    "mkfifo",
    "mknod",
    "savez",
    "mkstemp",
    "mkdtemp",
}
WRITES |= {"NamedTemporaryFile", "TemporaryFile", "savez_compressed", "savetxt", "tofile", "open_memmap"}
WRITES |= {
    "save_file",
    "save_model",
    "save_pretrained",
    "imwrite",
    "imsave",
    "mimwrite",
    "to_csv",
    "urlretrieve",
    "extractall",
}
OF_PATHS = {"write_text", "write_bytes", "touch", "symlink_to", "hardlink_to"}
"""Methods; by themselves, functions of these names are ``io.atomic``'s."""
OF_SHUTIL = {"copy", "move"}
"""Dictionaries and tensors have such methods too: only ``shutil``'s count."""
OF_MODULES = {"torch.save", "torch.jit.save", "np.save", "numpy.save", "json.dump", "pickle.dump", "joblib.dump"}
"""Many objects of ours have a ``save``: only libraries' count."""
OPENS = {"open", "fdopen", "FileIO"}
MAY_WRITE = {
    "cinelora.families.animatediff.tiny_unets: pipeline.save_pretrained(folder / 'base')": "a new folder, by diffusers",
    "cinelora.families.animatediff.tiny_unets: motion.save_pretrained(folder / 'motion')": "likewise",
    "cinelora.families.unet3d.tiny_unet3d: part.save_pretrained(folder / name)": "likewise",
    "cinelora.cli.help: os.open(os.devnull, os.O_WRONLY)": "what is written there is nowhere",
    "cinelora.footage.lut: file.write_text(cube.as_text())": "a new folder, for FFmpeg, which reads LUTs from files",
    "cinelora.footage.shot_detection: np.savez(draft, allow_pickle=False, note=text, **arrays)": "the draft of write_whole",
    "cinelora.cli.sweep_launchers: tempfile.mkdtemp(prefix='start-', dir=folder / JOB_LOGS)": "a new folder, for submitit",
    "cinelora.parallel.heartbeat: os.open(folder / f'{rank}.beat', os.O_WRONLY | os.O_CREAT | os.O_CLOEXEC, 384)": (
        "in the exchange folder that the parent made, one line that is written over"
    ),
    "cinelora.families.wan.random_members: _pipeline(name).save_pretrained(draft)": "a draft of its own, in the cache",
}
"""Calls outside ``io/`` that write by themselves, and why each may."""


def writes(call: ast.Call) -> bool:
    """Whether a call opens a file for writing, copies one or makes a link, as far as its source shows."""
    name = call.func.attr if isinstance(call.func, ast.Attribute) else getattr(call.func, "id", "")
    owner = ast.unparse(call.func.value) if isinstance(call.func, ast.Attribute) else ""
    if name in OPENS and (owner != "os" or name == "fdopen"):
        # the mode comes second, or first where the path is what is asked to open
        words = [*call.args[(0 if owner else 1) :][:2], *(word.value for word in call.keywords if word.arg == "mode")]
        modes = [word.value for word in words if isinstance(word, ast.Constant) and isinstance(word.value, str)]
        return any(set(mode) <= set("rwaxbt+U") and set(mode) & set("wax+") for mode in modes)
    if name in OPENS:
        return any(flag in ast.unparse(call) for flag in ("O_WRONLY", "O_RDWR", "O_CREAT", "O_APPEND"))
    return (
        f"{owner}.{name}" in OF_MODULES
        or name in WRITES
        or (name in OF_PATHS and owner != "")
        or (name in OF_SHUTIL and owner in ("", "shutil"))
    )


def test_only_io_writes_copies_and_links() -> None:
    """A run may come from somebody else: what writes below it opens files in one place, which follows no link."""
    found = {
        f"{module_name(path)}: {ast.unparse(node)}"
        for path in PACKAGE
        if not is_in(module_name(path), ("cinelora.io",))
        for node in ast.walk(ast.parse(path.read_text()))
        if isinstance(node, ast.Call) and writes(node)
    }
    assert found == set(MAY_WRITE)


def test_what_writes_is_seen() -> None:
    """Calls that the law above is there for, and some that only look like them."""
    writing = (
        *("path.open('a')", "open(path, 'w')", "path.open(mode='r+')", "open(path, mode='xb')", "io.open(path, 'wb')"),
        *(
            "os.open(path, os.O_RDWR | os.O_CREAT)",
            "path.write_text(text)",
            "shutil.copy(one, other)",
            "copytree(a, b)",
        ),
        *(
            "os.symlink(a, b)",
            "path.hardlink_to(other)",
            "path.touch()",
            "np.savez(file, a)",
            "av.open(str(path), 'w')",
            "torch.save(state, path)",
            "save_file(tensors, path)",
            "model.save_pretrained(path)",
            "json.dump(obj, file)",
        ),
    )
    reading = ("path.open('rb')", "open(path)", "open('w')", "Image.open(path)", "av.open(path, format='mp4')")
    reading += ("names.copy()", "write_text(path, text)", "plan.save(folder)", "json.dumps(obj)")
    calls = {text: ast.parse(text, mode="eval").body for text in (*writing, *reading)}
    assert tuple(text for text, call in calls.items() if isinstance(call, ast.Call) and writes(call)) == writing


def test_every_module_says_what_it_is() -> None:
    silent = [path for path in [*PACKAGE, *TOOLS, *SCRIPTS] if not ast.get_docstring(ast.parse(path.read_text()))]
    assert silent == []


def test_functions_are_paragraphs() -> None:
    """CONTRIBUTING.md, rule 4: half of all functions have at most 7 lines, none more than 60."""
    lengths = {
        f"{path.relative_to(REPO)}:{node.lineno} {node.name}": (node.end_lineno or 0) - node.lineno + 1
        for path in [*PACKAGE, *TOOLS, *SCRIPTS]
        for node in ast.walk(ast.parse(path.read_text()))
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)
    }
    assert [f"{name}: {length} lines" for name, length in lengths.items() if length > 60] == []
    assert sorted(lengths.values())[len(lengths) // 2] <= 7


def test_old_module_names_answer_with_the_new_ones() -> None:
    """docs/architecture.md and the package list the same moves, and every new place exists."""
    table: dict[str, str] = json.loads((REPO / "cinelora/moved.json").read_text())
    for old, new in table.items():
        places = re.findall(r"(?:cinelora|tools)\.[\w.]+", new)
        assert places, new
        for place in places:
            path = REPO.joinpath(*place.split("."))
            assert path.with_suffix(".py").is_file() or (path / "__init__.py").is_file(), f"{old}: {place}"
    program = "import cinelora.files"
    done = subprocess.run([sys.executable, "-c", program], cwd=REPO, capture_output=True, text=True, timeout=600)
    assert "ImportError: cinelora.files has moved: it is now cinelora.io.atomic" in done.stderr.splitlines()[-1]


def test_scripts_import_only_what_exists() -> None:
    """What is in benchmarks/ and tools/ is seldom run, so that a name that has moved would be missed there for months."""
    missing = [
        f"{path.relative_to(REPO)}:{node.lineno} {node.module}.{alias.name}"
        for path in [*sorted((REPO / "benchmarks").rglob("*.py")), *TOOLS]
        for node in ast.walk(ast.parse(path.read_text()))
        if isinstance(node, ast.ImportFrom) and (node.module or "").startswith("cinelora")
        for alias in node.names
        if not hasattr(import_module(node.module or ""), alias.name) and not find_spec(f"{node.module}.{alias.name}")
    ]
    assert missing == []
