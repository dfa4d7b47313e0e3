"""Memory of ``train.py`` over 2,000 steps: its peak must not grow.

Samples the resident memory of the training rank while it runs and compares the peak of the second quarter with that of
the last.

    python benchmarks/host_memory.py [steps]
"""

import subprocess
import sys
import tempfile
import time
from pathlib import Path

import psutil
from common import ROOT, report


def main(steps: int) -> None:
    with tempfile.TemporaryDirectory() as scratch:
        out = Path(scratch) / "run"
        settings = ["stage=style", "data=noir", f"out={out}", f"cache={scratch}/cache", "logger=csv"]
        command = [sys.executable, str(ROOT / "train.py"), *settings, f"stage.steps={steps}"]
        process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        samples: list[float] = []
        while process.poll() is None:
            if (out / "logs" / "csv").exists():  # the training rank has set itself up
                ranks = psutil.Process(process.pid).children(recursive=True)
                samples.append(max((rank.memory_info().rss for rank in ranks if rank.is_running()), default=0) / 2**20)
            time.sleep(0.2)
        quarter = len(samples) // 4
        early, late = max(samples[quarter : 2 * quarter]), max(samples[3 * quarter :])
        print(
            f"{steps} steps: peak {early:.0f} MiB in the second quarter, {late:.0f} MiB in the last ({late - early:+.0f})"
        )
        report(
            "host_memory",
            {"steps": steps, "second_quarter_mib": early, "last_quarter_mib": late, "exit": process.returncode},
        )


if __name__ == "__main__":
    main(int(sys.argv[1]) if len(sys.argv) > 1 else 2000)
