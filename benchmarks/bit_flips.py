"""One bit turned in a file that is read back: said, without consequence, or taken in silence?

    python benchmarks/bit_flips.py <finished training run> [flips=2000] [seed=0]

The run and some of its encodings are copied. Bits are drawn file by file, as many of a small file as of a large one, in turn over
settings, lists, numbers, checkpoints, adapters and encodings. After each flip the file is read as a run reads it.

*said*: one sentence, an error or a warning; *same*: what was read is equal to what was written; *silent*: it is not, and nobody
said so; *broken*: something else than a sentence. Results are in benchmarks/results/bit_flips.json.
"""

from __future__ import annotations

import contextlib
import io
import random
import shutil
import sys
import tempfile
from collections import Counter, defaultdict
from collections.abc import Callable
from pathlib import Path
from typing import Any

from common import report

from cinelora.adapters.adapter_file import read_adapter
from cinelora.adapters.run_directory import RunDirectory
from cinelora.config.store import load_config
from cinelora.errors import CineloraError
from cinelora.footage.manifest import read_manifest
from cinelora.io.plain_data import read_json
from cinelora.io.tensor_files import content_digest, load_tensors
from cinelora.latents.cache import Index, encoding_path
from cinelora.training.checkpoint_files import read_checkpoint

Read = Callable[[Path], Any]


def checkpoint(file: Path) -> Any:
    """The checkpoint that a file is of, comparable."""
    found = read_checkpoint(file.parent)
    return found.step, content_digest(found.tensors), repr(found.facts)


def adapter(file: Path) -> Any:
    """What an adapter does and says, comparable."""
    found = read_adapter(file)
    return content_digest(found.state), found.spec, found.kind, found.trigger, found.base_model, found.data_hash


def encoding(file: Path) -> Any:
    """An encoding of the cache, comparable."""
    return content_digest(load_tensors(file)[0])


def readers(run: RunDirectory) -> dict[Path, tuple[str, Read]]:
    """Every file that is read back, its kind, and how it is read."""
    cache = Path(load_config(run.path).cache) / "latents"
    index = Index.load(run.dataset)
    found: dict[Path, tuple[str, Read]] = {
        run.config: ("settings", lambda path: load_config(path.parent)),
        run.manifest: ("manifest", read_manifest),
        run.dataset: ("list of encodings", Index.load),
        run.summary: ("summary", lambda path: read_json(path, dict[str, Any], measured=True)),
    }
    for path in run.adapters().values():
        found[path] = ("adapter", adapter)
    for folder in run.checkpoints.glob("step-*"):
        found |= {file: (f"checkpoint, {file.name}", checkpoint) for file in sorted(folder.iterdir())}
    for entry in index.entries[:6]:
        for name in (entry.text, entry.video):
            found[encoding_path(cache, name)] = ("encoding", encoding)
    return found


def turned(path: Path, read: Read, chance: random.Random) -> str:
    """What became of one flip; the file is as before afterwards."""
    expected, content = read(path), path.read_bytes()
    bit, printed = chance.randrange(8 * len(content)), io.StringIO()
    damaged = bytearray(content)
    damaged[bit // 8] ^= 1 << bit % 8
    path.write_bytes(damaged)
    try:
        with contextlib.redirect_stdout(printed), contextlib.redirect_stderr(printed):
            value = read(path)
    except CineloraError:
        return "said"
    except Exception as error:
        print(f"broken: {path}, bit {bit}: {type(error).__name__}: {error}", flush=True)
        return "broken"
    finally:
        path.write_bytes(content)
    if "WARNING" in printed.getvalue():
        return "said"
    same = {**value, **expected} == value if isinstance(value, dict) else value == expected
    if not same:
        print(f"silent: {path}, bit {bit}", flush=True)
    return "same" if same else "silent"


def main(words: list[str]) -> None:
    """Flip, read and report."""
    options = dict(word.split("=", 1) for word in words if "=" in word)
    [given] = [word for word in words if "=" not in word]
    chance, counted = random.Random(int(options.get("seed", 0))), defaultdict[str, Counter[str]](Counter)
    with tempfile.TemporaryDirectory() as folder:
        run = RunDirectory(Path(shutil.copytree(given, Path(folder, "run"))))
        files = readers(run)
        # encodings are shared with other runs: copies of them are turned, and nothing of the cache
        files = {beside(path, Path(folder)): kind for path, kind in files.items()}
        order = list(files.items())
        for number in range(int(options.get("flips", 2000))):
            path, (kind, read) = order[number % len(order)]
            counted[kind][turned(path, read, chance)] += 1
    total = sum(counted.values(), Counter[str]())
    for kind, row in counted.items():
        print(f"{kind}: {dict(row)}")
    print(f"all: {dict(total)}")
    report("bit_flips", {"flips": sum(total.values()), "all": total, **counted})


def beside(path: Path, folder: Path) -> Path:
    """The path itself inside ``folder``, else a copy there."""
    if path.is_relative_to(folder):
        return path
    copy = folder / "encodings" / path.name
    copy.parent.mkdir(exist_ok=True)
    return Path(shutil.copy(path, copy))


if __name__ == "__main__":
    main(sys.argv[1:])
