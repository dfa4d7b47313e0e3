"""The CPU image, built from docker/Dockerfile without a container engine, and the demo run inside it as its own user.

No image registry is asked: the base is made once with debootstrap from the machine's own Debian mirror, and kept.
What pip and apt need on this machine (certificates, mirrors, folders of wheels, proxies) is read from their own
configuration and mounted while building, so that none of it is in the Dockerfile or stays in the image.
"""

from __future__ import annotations

import ast
import json
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from urllib.parse import urlsplit

import av
import pytest

REPO = Path(__file__).parents[2]
CACHE = Path(os.environ.get("XDG_CACHE_HOME", Path.home() / ".cache")) / "cinelora-test"
SUITE = "bookworm"
BASE = "docker.io/library/debian:bookworm-slim"
TOOLS = ("buildah", "crun", "debootstrap", "apt-get")
NEEDED_GB = 12

pytestmark = [
    pytest.mark.system,
    pytest.mark.skipif(os.geteuid() != 0, reason="building an image without an engine needs root"),
    pytest.mark.skipif(
        any(shutil.which(tool) is None for tool in TOOLS),
        reason=f"needs {', '.join(tool for tool in TOOLS if shutil.which(tool) is None)} (Debian packages)",
    ),
]


def output_of(*command: str | Path) -> str:
    return subprocess.run(command, check=True, capture_output=True, text=True).stdout


def must(*command: str | Path, timeout_s: int) -> None:
    """Run a step of the test itself; its whole output is the reason when it fails."""
    done = subprocess.run(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, timeout=timeout_s)
    assert done.returncode == 0, f"{' '.join(map(str, command))}\n{done.stdout[-6000:]}"


@dataclass
class Mounts:
    """Host paths that the build may read, each under a name of its own in the image."""

    targets: dict[Path, str] = field(default_factory=dict)

    def add(self, path: Path) -> str:
        return self.targets.setdefault(path, f"/mnt/host/{len(self.targets)}")

    def add_file(self, path: Path) -> str:
        """Its folder is mounted: a file in it may be a link to its neighbour."""
        return f"{self.add(path.parent)}/{path.name}"

    def translate(self, value: str) -> str:
        """One word of a configuration, with the host path or file URL in it replaced by where the image sees it."""
        if value.startswith("file://"):
            # The pages of an index link to files beside it, hence its parent.
            index = Path(urlsplit(value).path)
            return f"file://{self.add(index.parent)}/{index.name}"
        path = Path(value)
        if not path.is_absolute() or not path.exists():
            return value
        return self.add(path) if path.is_dir() else self.add_file(path)

    def options(self) -> list[str]:
        return [f"--volume={path}:{target}:ro" for path, target in self.targets.items()]


def pip_configuration(mounts: Mounts) -> str:
    """This machine's pip settings, the environment's over the files', as one file for the image."""
    settings: dict[str, str] = {}
    lines = output_of(sys.executable, "-m", "pip", "config", "list").splitlines()
    # A line is section.key='value', and the environment counts as a section that wins.
    for line in sorted(lines, key=lambda line: line.startswith(":env:")):
        name, value = line.split("=", 1)
        settings[name.rsplit(".", 1)[1]] = " ".join(map(mounts.translate, ast.literal_eval(value).split()))
    certificates = os.environ.get("SSL_CERT_FILE")
    if certificates and Path(certificates).exists():
        settings.setdefault("cert", mounts.translate(certificates))
    return "\n".join(["[global]", *(f"{key} = {value}" for key, value in settings.items()), ""])


def apt_configuration(mounts: Mounts) -> str:
    """This machine's way to its Debian mirror: proxies, certificates and how strictly dates are checked."""
    kept = []
    for line in output_of("apt-config", "dump").splitlines():
        name, _, value = line.partition(" ")
        if name.startswith(("Acquire::http", "Acquire::https", "Acquire::Check")) and value != '"";':
            kept.append(f'{name} "{mounts.translate(value.strip(";").strip(chr(34)))}";')
    return "\n".join([*kept, ""])


def base_archive() -> Path:
    """The base's file tree, made once and kept: some 90 MB."""
    archive = CACHE / f"{SUITE}.tar.gz"
    if archive.exists():
        return archive
    CACHE.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=CACHE) as scratch:
        root, packed = Path(scratch) / "root", Path(scratch) / "base.tar.gz"
        mirrors = output_of("apt-get", "indextargets", "--format", "$(SITE)").split()
        command = ["debootstrap", "--variant=minbase", SUITE, str(root), *mirrors[:1]]
        made = subprocess.run(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
        if made.returncode != 0:
            pytest.skip(f"debootstrap could not make the base: {made.stdout.strip().splitlines()[-1]}")
        must("tar", "-C", root, "-czf", packed, ".", timeout_s=300)
        packed.replace(archive)
    return archive


@dataclass(frozen=True)
class Buildah:
    """buildah on a storage of its own, so that nothing of the machine's images is seen or left changed."""

    storage: Path

    def command(self, *arguments: str | Path) -> list[str | Path]:
        driver = os.environ.get("STORAGE_DRIVER")
        chosen = [f"--storage-driver={driver}"] if driver else []
        return ["buildah", f"--root={self.storage / 'root'}", f"--runroot={self.storage / 'run'}", *chosen, *arguments]

    def answer(self, *arguments: str | Path) -> str:
        return output_of(*self.command(*arguments)).strip()

    def run(self, *arguments: str | Path, timeout_s: int) -> None:
        must(*self.command(*arguments), timeout_s=timeout_s)


@pytest.fixture(scope="module")
def buildah() -> Iterator[Buildah]:
    CACHE.mkdir(parents=True, exist_ok=True)
    free_gb = shutil.disk_usage(CACHE).free / 1e9
    if free_gb < NEEDED_GB:
        pytest.skip(f"an image with torch needs {NEEDED_GB} GB of disk, and {CACHE} has {free_gb:.0f}")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("BUILDAH_ISOLATION", "chroot")
        storage = Path(tempfile.mkdtemp(prefix="storage-", dir=CACHE))
        tool = Buildah(storage)
        yield tool
        # Containers first: they hold mounts inside the storage.
        subprocess.run(tool.command("rm", "--all"), check=True, capture_output=True)
        subprocess.run(tool.command("rmi", "--all", "--force"), check=True, capture_output=True)
        shutil.rmtree(storage)


@pytest.fixture(scope="module")
def image(buildah: Buildah, tmp_path_factory: pytest.TempPathFactory) -> str:
    scratch = buildah.answer("from", "scratch")
    buildah.run("add", "--quiet", scratch, base_archive(), "/", timeout_s=300)
    buildah.run("commit", "--quiet", "--rm", scratch, BASE, timeout_s=300)

    mounts, settings = Mounts(), tmp_path_factory.mktemp("settings")
    (settings / "pip.conf").write_text(pip_configuration(mounts))
    (settings / "apt.conf").write_text(apt_configuration(mounts))
    volumes = [
        *mounts.options(),
        f"--volume={settings / 'pip.conf'}:/etc/pip.conf:ro",
        f"--volume={settings / 'apt.conf'}:/etc/apt/apt.conf.d/99host:ro",
    ]
    # TORCH as this machine was told, so that the image gets the build that is had here.
    torch = [f"--build-arg=TORCH={os.environ['TORCH']}"] if "TORCH" in os.environ else []
    dockerfile = ("--file", REPO / "docker" / "Dockerfile", "--tag", "cinelora", REPO)
    buildah.run("bud", "--pull=never", "--network=host", *volumes, *torch, *dockerfile, timeout_s=1200)
    return "localhost/cinelora"


@pytest.fixture(scope="module")
def container(buildah: Buildah, image: str) -> str:
    return buildah.answer("from", "--pull=never", image)


def test_image_has_a_command_a_plain_user_and_no_build_settings(buildah: Buildah, image: str, container: str) -> None:
    config = json.loads(buildah.answer("inspect", "--type=image", image))["OCIv1"]["config"]
    assert (config["User"], config["WorkingDir"], config["Entrypoint"]) == ("film", "/cinelora", ["tini", "--"])
    root = Path(buildah.answer("mount", container))
    for settings in ("etc/pip.conf", "etc/apt/apt.conf.d/99host"):
        assert not (root / settings).exists() or (root / settings).stat().st_size == 0
    assert not [path for path in (root / "mnt" / "host").rglob("*") if path.is_file()]


def test_demo_runs_in_the_image(buildah: Buildah, container: str) -> None:
    """The whole demo, shortened in steps alone: both stages, then the clip with and without the adapters."""
    short = ("DEMO_STYLE_STEPS=2", "DEMO_MOTION_STEPS=2", "DEMO_SAMPLER_STEPS=2")
    buildah.run("run", container, "--", "tini", "-s", "--", "make", "demo", *short, timeout_s=900)

    demo = Path(buildah.answer("mount", container)) / "cinelora" / "outputs" / "demo"
    with av.open(demo / "scene" / "clip.mp4") as clip:
        assert clip.streams.video[0].codec_context.name == "h264"
        assert sum(1 for _ in clip.decode(video=0)) > 1
    assert (demo / "scene" / "contact.png").stat().st_uid != 0
    assert json.loads((demo / "scene" / "summary.json").read_text())
