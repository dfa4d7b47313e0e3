"""The shape of the house, read from its source: imports go one way, and heavy packages stay in their rooms."""

from __future__ import annotations

import ast
import subprocess
import sys
import tomllib
from collections.abc import Iterator
from importlib.metadata import packages_distributions
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

REPO = Path(__file__).parents[1]
SCRIPTS = [path for path in (REPO / "train.py", REPO / "infer.py") if path.exists()]
MODULES = sorted((REPO / "cinelora").rglob("*.py"))

# The house from the ground up. A module may import from its own room and from rooms on lower floors; rooms on one
# floor do not know each other. The longest name that fits a module is its room.
STOREYS = (
    {"cinelora"},
    {"cinelora.errors"},
    {"cinelora.config"},
    {"cinelora.files", "cinelora.hub", "cinelora.hardware", "cinelora.report", "cinelora.slurm"},
    {"cinelora.config.store", "cinelora.footage", "cinelora.models", "cinelora.launch"},
    {"cinelora.runs", "cinelora.latents", "cinelora.verdict"},
    {"cinelora.sampling"},
    {"cinelora.metrics"},
    {"cinelora.plan"},
    {"cinelora.config.check"},
    {"cinelora.training", "cinelora.inference"},
    {"cinelora.evaluation", "cinelora.studies"},
    {"cinelora.pretrain"},
    {"cinelora.config.compose", "cinelora.sweeps"},
    {"cinelora.config.command"},
    {"train", "infer", "cinelora.card", "cinelora.evaluate", "cinelora.prepare", "cinelora.study"},
)
FLOORS = {room: floor for floor, rooms in enumerate(STOREYS) for room in rooms}
ONLY_IMPORTER = {
    "hydra": "cinelora.config.compose",
    "omegaconf": "cinelora.config.compose",
    "peft": "cinelora.models.lora",
}
# These answer `--help`, mistakes and file scans, so importing them must not cost torch's seconds.
WITHOUT_TORCH = (
    "cinelora.card",
    "cinelora.config",
    "cinelora.errors",
    "cinelora.evaluate",
    "cinelora.files",
    "cinelora.footage",
    "cinelora.hub",
    "cinelora.launch",
    "cinelora.models.checkpoints",
    "cinelora.models.footprint",
    "cinelora.plan",
    "cinelora.prepare",
    "cinelora.report",
    "cinelora.sampling.choice",
    "cinelora.sampling.cost",
    "cinelora.sampling.partition",
    "cinelora.slurm",
    "cinelora.sweeps",
    "cinelora.study",
    "cinelora.studies.settings",
    "cinelora.studies.rows",
    "cinelora.studies.chart",
    "cinelora.training.model_card",
)
WITH_TORCH = ("cinelora.footage.render", "cinelora.footage.rendered")


def module_name(path: Path) -> str:
    """``cinelora/models/lora.py`` -> ``cinelora.models.lora``; a package carries its own name."""
    parts = path.relative_to(REPO).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


def is_in(module: str, names: tuple[str, ...]) -> bool:
    return any(module == name or module.startswith(f"{name}.") for name in names)


def room_of(module: str) -> str:
    parts = module.split(".")
    names = (".".join(parts[:length]) for length in range(len(parts), 0, -1))
    return next(name for name in names if name in FLOORS)


def resolve(module: str, is_package: bool, node: ast.ImportFrom) -> list[str]:
    """The full names that one ``from`` statement may mean: the module, and each thing taken from it."""
    base = module.split(".")
    base = base[: len(base) - node.level + is_package] if node.level else []
    origin = ".".join([*base, *(node.module or "").split(".")]).strip(".")
    return [f"{origin}.{alias.name}" for alias in node.names]


def imports(path: Path, *, at_import: bool = False) -> Iterator[str]:
    """Every name that a file imports; ``at_import`` leaves out what waits inside functions and type-checking blocks."""
    pending: list[ast.AST] = [ast.parse(path.read_text())]
    while pending:
        node = pending.pop()
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            yield from resolve(module_name(path), path.name == "__init__.py", node)
        is_late = isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef) or (
            isinstance(node, ast.If) and "TYPE_CHECKING" in ast.unparse(node.test)
        )
        if not (at_import and is_late):
            pending.extend(ast.iter_child_nodes(node))


@pytest.mark.parametrize("path", [*MODULES, *SCRIPTS], ids=module_name)
def test_imports_go_one_way(path: Path) -> None:
    own = room_of(module_name(path))
    for name in imports(path):
        if name.split(".")[0] not in {"cinelora", "train", "infer"}:
            continue
        other = room_of(name)
        assert other == own or FLOORS[other] < FLOORS[own], (
            f"{module_name(path)} ({own}) must not import {name} ({other})"
        )


def test_every_module_has_a_room_and_no_room_is_a_lumber_room() -> None:
    for path in MODULES:
        module = module_name(path)
        assert module == "cinelora" or room_of(module) != "cinelora", f"{module} has no floor: give it one in STOREYS"
        assert path.stem not in {"utils", "util", "helpers", "common", "misc", "base"}, f"{module}: name what it does"


@pytest.mark.parametrize("package", ONLY_IMPORTER)
def test_a_heavy_package_has_one_door(package: str) -> None:
    importers = {
        module_name(path) for path in [*MODULES, *SCRIPTS] if any(is_in(name, (package,)) for name in imports(path))
    }
    assert importers <= {ONLY_IMPORTER[package]}


def light_modules() -> list[str]:
    names = map(module_name, MODULES)
    return [name for name in names if is_in(name, WITHOUT_TORCH) and not is_in(name, WITH_TORCH)]


@pytest.mark.parametrize("path", [path for path in MODULES if module_name(path) in light_modules()], ids=module_name)
def test_light_modules_do_not_name_torch(path: Path) -> None:
    heavy = ("torch", "diffusers", "transformers", "lightning", "peft", "torchmetrics")
    assert [name for name in imports(path, at_import=True) if is_in(name, heavy)] == []


def test_light_modules_do_not_bring_torch_along() -> None:
    """What the source cannot show: neither we nor a package we import reaches torch by a detour."""
    program = (
        "import importlib, sys\n"
        "for name in sys.argv[1:]:\n"
        "    importlib.import_module(name)\n"
        "    if 'torch' in sys.modules: sys.exit(f'importing {name} imports torch')\n"
    )
    command = [sys.executable, "-c", program, *light_modules()]
    done = subprocess.run(command, cwd=REPO, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr


def test_every_imported_package_is_declared() -> None:
    project = tomllib.loads((REPO / "pyproject.toml").read_text())["project"]
    extras = project["optional-dependencies"]
    requirements = [*project["dependencies"], *(line for extra in extras if extra != "dev" for line in extras[extra])]
    declared = {canonicalize_name(Requirement(line).name) for line in requirements} | {"cinelora"}
    installed = packages_distributions()
    for path in [*MODULES, *SCRIPTS]:
        for top in {name.split(".")[0] for name in imports(path)} - sys.stdlib_module_names - {"train", "infer"}:
            owners = {canonicalize_name(owner) for owner in installed.get(top, [top])}
            assert owners & declared, f"{module_name(path)} imports {top}, which pyproject.toml does not declare"


def test_configuration_never_names_code() -> None:
    files = [path for path in (REPO / "conf").rglob("*") if path.suffix in {".yaml", ".yml"}]
    assert files
    assert [path for path in files if "_target_" in path.read_text()] == []


@pytest.mark.parametrize("path", [*MODULES, *SCRIPTS], ids=module_name)
def test_every_public_module_says_what_it_is(path: Path) -> None:
    assert (path.stem.startswith("_") and path.stem != "__init__") or ast.get_docstring(ast.parse(path.read_text()))
