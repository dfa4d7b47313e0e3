"""What a run leaves as its product: an adapter file, or the transformer in diffusers' layout where every weight was trained.

Enters: trained tensors by name, and what the run knows of itself. Leaves: ``<stage>.safetensors``, that of an expert's lesson
``<stage>_high_noise.safetensors`` and its like, or ``transformer/``, whole.
"""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import Any

from torch import Tensor

from cinelora.adapters.adapter_file import AdapterFile, export_adapter
from cinelora.adapters.formats import exported_for, written_for
from cinelora.adapters.run_directory import RunDirectory
from cinelora.clone_only import scale_model
from cinelora.config.schema import TrainConfig
from cinelora.config.store import portable
from cinelora.errors import AdapterError
from cinelora.families import family_of
from cinelora.families.family import Part
from cinelora.families.machinery import machinery_of
from cinelora.io.terminal import say
from cinelora.latents.cache import Index


def export(config: TrainConfig, run: RunDirectory, index: Index, state: dict[str, Tensor], best: bool = False) -> None:
    """Write what was trained, last or at its best: an adapter file, or the transformer in diffusers' layout."""
    product = run.product(config.stage.name, best)
    if config.stage.trains_every_weight:
        scale_model("pretrain", "stage=pretrain").export(product, config.stage.transformer, state)
        return
    # The settings in the header are made portable: whoever gets the file can read how it was trained, and not where.
    bundle = machinery_of(config.model).from_config(config.model, config.stage.transformer, Path(config.cache))
    bundle = bundle.of_expert(run.expert)
    if not config.stage.image_condition:  # what reads an image never ran: it would say nothing in the file
        layers = family_of(config.model).layers
        state = {key: value for key, value in state.items() if not layers.is_optional(key.rsplit(".", 2)[0])}
    base: dict[str, Any] = {"base_model": config.model.name, "base_revision": bundle.fingerprint(Part.TRANSFORMER)}
    base |= {"transformer": config.stage.transformer, "expert": run.expert}
    learnt: dict[str, Any] = {"trigger": config.data.trigger, "data_hash": index.data_hash}
    # The size of most samples goes along: a clip by this file is to have the shape that it learnt.
    learnt["config"] = portable(asdict(config)) | {"size": run.learnt_size(config.model)}
    adapter = AdapterFile(state, config.lora, config.stage.name, **base, **learnt)
    layout = exported_for(adapter.modules)
    export_adapter(product, adapter, layout)
    if layout == "diffusers" and family_of(config.model).code and not best:
        _export_for_comfy(run.for_comfy(config.stage.name), adapter)


def _export_for_comfy(path: Path, adapter: AdapterFile) -> None:
    """Write the adapter by the names that ComfyUI reads, or say which layer has none there: the run has its adapter already."""
    form = written_for("comfy", adapter.modules)
    try:
        for module in adapter.modules:
            form.key(module, "A")
    except AdapterError as error:
        say(
            f"no file for ComfyUI, which reads other adapters of this model: {error}; lora.targets=attention has names for all"
        )
        return
    path.parent.mkdir(exist_ok=True)
    export_adapter(path, adapter, "comfy")
