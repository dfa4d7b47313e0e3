"""Speed of ``train.py`` against a bare PyTorch loop that does the same step: floor 0.95.

The peer is what one would write without a framework: diffusers' transformer, peft's LoRA, AdamW, the batches of encoded
samples already in memory. Both run as processes of their own, in turn, on the same encoded data.

    python benchmarks/train_loop.py [rounds] [steps]
"""

import json
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from common import ROOT, report, spread, train

SETTINGS = {"style": ["stage=style"], "motion": ["stage=motion", "dropout.image=0", "stage.accumulation=1"]}


def bare_loop(index_file: Path, cache: Path, stage: str, steps: int) -> float:
    """Samples per second of the plain loop."""
    import torch
    from diffusers import WanTransformer3DModel
    from peft import LoraConfig

    from cinelora.latents.cache import Index
    from cinelora.latents.dataset import LatentDataset
    from cinelora.models import tiny

    torch.manual_seed(0)
    kind, batch_size = ("t2v", 4) if stage == "style" else ("i2v", 1)
    transformer = WanTransformer3DModel.from_pretrained(tiny.materialise(cache) / kind / "transformer").requires_grad_(
        False
    )
    projections = "to_q|to_k|to_v|to_out.0" + ("" if kind == "t2v" else "|add_k_proj|add_v_proj")
    transformer.add_adapter(LoraConfig(r=8, lora_alpha=16, target_modules=rf".*attn2\.({projections})"))
    transformer.train()
    parameters = [p for p in transformer.parameters() if p.requires_grad]
    optimizer = torch.optim.AdamW(parameters, lr=1e-3)
    data = LatentDataset(cache, Index.load(index_file), "train")
    items = [data[i] for i in range(len(data))]
    warm_up = 5
    for step in range(steps + warm_up):
        if step == warm_up:
            started = time.perf_counter()
        picked = [items[i] for i in torch.randint(len(items), (batch_size,))]
        latents, text = (torch.stack([item[key] for item in picked]) for key in ("latents", "text"))
        sigma, noise = torch.sigmoid(torch.randn(batch_size)), torch.randn_like(latents)
        at = sigma.view(-1, 1, 1, 1, 1)
        inputs, tokens = (1 - at) * latents + at * noise, None
        if kind == "i2v":
            image, tokens = (torch.stack([item[key] for item in picked]) for key in ("image_latents", "image_tokens"))
            mask = torch.zeros_like(latents[:, :4])
            mask[:, :, 0] = 1
            inputs = torch.cat([inputs, mask, image], dim=1)
        predicted = transformer(inputs, sigma * 1000, text, tokens, return_dict=False)[0]
        loss = torch.nn.functional.mse_loss(predicted.float(), noise - latents)
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(parameters, 1.0)
        optimizer.step()
        loss.item()
    return steps * batch_size / (time.perf_counter() - started)


def main(rounds: int, steps: int) -> None:
    with tempfile.TemporaryDirectory() as scratch:
        folder, results = Path(scratch), {}
        cache = folder / "cache"
        for stage, settings in SETTINGS.items():
            common = [*settings, "data=noir", f"cache={cache}", f"stage.steps={steps}"]
            ours, bare = [], []
            for number in range(rounds):
                out = folder / f"{stage}-{number}"
                ours.append(train(out, *common)["samples_per_s"])
                command = [sys.executable, __file__, "--bare", str(out / "dataset.json"), str(cache), stage, str(steps)]
                run = subprocess.run(command, check=True, capture_output=True, text=True, cwd=ROOT)
                bare.append(json.loads(run.stdout.splitlines()[-1]))
                print(f"{stage} round {number + 1}: train.py {ours[-1]:.2f}, bare {bare[-1]:.2f} samples/s", flush=True)
            ratios = [a / b for a, b in zip(ours, bare, strict=True)]
            results[stage] = {"train_py": ours, "bare_loop": bare, "ratio": ratios, "steps": steps}
            print(f"{stage}: train.py {spread(ours)}, bare loop {spread(bare)} samples/s, ratio {spread(ratios)}")
        results["floor_met"] = all(statistics.median(results[stage]["ratio"]) >= 0.95 for stage in SETTINGS)
        report("train_loop", results)


if __name__ == "__main__":
    if sys.argv[1:2] == ["--bare"]:
        print(bare_loop(Path(sys.argv[2]), Path(sys.argv[3]), sys.argv[4], int(sys.argv[5])))
    else:
        main(*(int(argument) for argument in (sys.argv[1:] + ["3", "200"][len(sys.argv) - 1 :])))
