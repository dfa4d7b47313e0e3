"""LoRA on a transformer: several adapters at once, each with its scale, one trained. The only user of peft.

Enters: a network of diffusers' classes and what an adapter is to be like. Leaves: the same transformer, adapted
in place, and the adapter's factors. It does not know how they are trained; ``adapter_file`` knows how they are kept.

Law: an adapted projection gives ``W x + b + sum_i weight_i * alpha_i / rank_i * B_i A_i x`` (Hu et al. 2021, section
4.1). A and B are kept in float32 and multiplied in the dtype of x; all adapters are one product of rank sum_i rank_i, and
it is added to W x where it is accumulated. B starts as zero, so a new adapter changes nothing.
"""

from __future__ import annotations

import copy
import math
import warnings
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

import torch
from peft import LoraConfig, inject_adapter_in_model
from peft.tuners import lora as peft_lora
from peft.tuners.lora import LoraLayer
from torch import Tensor, nn
from torch.nn import Parameter
from torch.nn.functional import linear

from cinelora.adapters.adapter_file import AdapterFile
from cinelora.adapters.formats import layers_of
from cinelora.adapters.weight_deltas import deltas_of, device_of, let_act, owner_of
from cinelora.config.schema import LoraSpec
from cinelora.errors import AdapterError
from cinelora.families.layer_names import projections
from cinelora.io.terminal import warn
from cinelora.memory.block_swap import bring_block_of
from cinelora.nn.flow_matching import keyed_generator
from cinelora.nn.fp8 import Fp8Linear, frozen_weight, replace_weight
from cinelora.nn.replayed import forget_predictions

ORIGINAL = "unmerged"
"""Attribute of a merged layer: its base layer as it was before, on the host; in a tuple, so that it is no child of it."""


class AdaptedLinear(peft_lora.Linear):  # type: ignore[misc]
    """peft's adapted layer with another product: peft widens each input to float32, which costs more than the adapter."""

    def forward(self, x: Tensor) -> Tensor:
        """(..., in) to (..., out), in the dtype of ``x``."""
        base: Tensor = self.base_layer(x)
        acting = [name for name in self.active_adapters if name in self.lora_A]
        if self.merged or not acting:
            return base
        # Several adapters are one: their A, one below the other, take x down to sum_i rank_i values, and their scaled B, side by
        # side, take these up. addmm adds the product to W x in the accumulator of the matrix product, so that the sum is rounded
        # once and no tensor of the output's size is written for the update alone.
        down = [linear(self.lora_dropout[name](x), self.lora_A[name].weight.to(x.dtype)) for name in acting]
        up = torch.cat([self.lora_B[name].weight * self.scaling[name] for name in acting], dim=1).to(x.dtype)
        hidden = torch.cat(down, dim=-1).flatten(0, -2)
        return torch.addmm(base.flatten(0, -2), hidden, up.t()).view_as(base)


# -- adding ------------------------------------------------------------------------------------------------------------


def add_adapter(transformer: nn.Module, name: str, spec: LoraSpec, seed: int, network: str | None = None) -> list[str]:
    """Hang a new adapter on what ``spec.targets`` names, and make it the only thing that trains.

    Of a ``network`` that shares its transformer with another, such as motion modules in a UNet, on what it teaches alone.

    A is uniform in +-1/sqrt(in), drawn from (seed, name, projection) alone, so ranks, resumed runs and other adapters
    make no difference; B is zero. Both are float32 on the device of the transformer. The adapter acts with scale 1, beside those
    that acted before. Returns the adapted projections. Raises ``AdapterError`` where the transformer has none of them.
    """
    present = [module for module, _ in transformer.named_modules()]
    modules = projections(layers_of(present), present, spec.targets, network)
    if not modules:
        raise AdapterError(f"lora.targets={spec.targets} matches nothing in {type(transformer).__name__}")
    _inject(transformer, name, spec, modules)
    # A is drawn on the host and copied: a GPU's generator gives other numbers, and a run must not depend on where it starts.
    # kaiming_uniform_ with a = sqrt(5) is peft's own beginning, +-1/sqrt(in).
    for module, layer in _layers(transformer, name):
        weight = torch.empty_like(layer.lora_A[name].weight, device="cpu")
        torch.nn.init.kaiming_uniform_(weight, a=math.sqrt(5), generator=keyed_generator(seed, "lora", name, module))
        layer.lora_A[name].weight.data.copy_(weight)
    trainable(transformer, name)
    return modules


def load_adapter(
    transformer: nn.Module, name: str, adapter: AdapterFile, model_name: str, changed_now: bool = True
) -> list[str]:
    """Hang ``adapter`` on exactly the projections it has factors for, frozen, with scale 1; returns these.

    Its deltas change the weights now, or, for whoever chooses scales next anyway, not before that. Only Wan2.1's image-to-video
    transformer has image projections: an adapter without factors for them leaves them alone, and on a transformer without them
    those factors are left out, with a warning. What is frozen has no dropout. Raises ``AdapterError`` as ``check_fits``.
    """
    check_fits(adapter, transformer, model_name)
    present = {module for module, _ in transformer.named_modules()}
    modules = [module for module in adapter.modules if module in present]
    deltas = {parameter: of for parameter, of in adapter.deltas.items() if owner_of(transformer, parameter)}
    if dropped := len(adapter.modules) - len(modules) + len(adapter.deltas) - len(deltas):
        used = len(modules) + len(deltas)
        warn(
            f"the {name} adapter changes {dropped} image projections that this transformer of {model_name} does not have: "
            f"they are left out, and {used} other changes are used"
        )
    transformer.__dict__["adapter_sources"] = {**transformer.__dict__.get("adapter_sources", {}), name: adapter.source}
    if modules:
        _inject(transformer, name, replace(adapter.spec, dropout=0.0), modules)
        load_adapter_state(
            transformer, name, {k: v for k, v in adapter.state.items() if k.rsplit(".", 2)[0] in present}
        )
    if deltas:
        deltas_of(transformer).of[name] = deltas
        if changed_now:
            let_act(transformer, {**deltas_of(transformer).acting, name: 1.0})
    transformer.requires_grad_(False)
    return modules


def _inject(transformer: nn.Module, name: str, spec: LoraSpec, modules: list[str]) -> None:
    """Let peft wrap ``modules``; it makes empty float32 factors of zeros, and what acted before acts on."""
    _require_unmerged(transformer)
    if name in getattr(transformer, "peft_config", {}):
        raise ValueError(f"the transformer already has an adapter named {name}")
    active = acting_adapters(transformer)
    config = LoraConfig(r=spec.rank, lora_alpha=spec.alpha, lora_dropout=spec.dropout, target_modules=modules)
    config._register_custom_module(dict.fromkeys((nn.Linear, Fp8Linear), AdaptedLinear))
    # peft is asked for factors on the meta device, which draws nothing and costs nothing; then each gets its zeros where the
    # transformer computes. peft would put them beside W, which may wait on the host, and in W's dtype, which may be fp8.
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="Already found a `peft_config` attribute|Unsupported layer type")
        inject_adapter_in_model(config, transformer, name, low_cpu_mem_usage=True)
    device = device_of(transformer)
    for _, layer in _layers(transformer, name):
        layer.train(transformer.training)  # peft's dropout starts in training mode
        for factor in (layer.lora_A[name], layer.lora_B[name]):
            factor.weight = Parameter(torch.zeros(factor.weight.shape, dtype=torch.float32, device=device))
    _activate(transformer, [*active, name])
    transformer.requires_grad_(False)


def trainable(transformer: nn.Module, name: str) -> list[Parameter]:
    """Freeze everything but the adapter ``name``, and return its factors: A, B of each projection, in model order."""
    transformer.requires_grad_(False)
    factors = list(_factors(transformer, name).values())
    for factor in factors:
        factor.requires_grad_(True)
    return factors


# -- factors -----------------------------------------------------------------------------------------------------------


def adapter_state(transformer: nn.Module, name: str) -> dict[str, Tensor]:
    """The factors of an adapter, alpha not folded in, as ``blocks.0.attn2.to_q.lora_A.weight``.

    They share memory with the adapter: clone what is to outlive the next step.
    """
    return {key: factor.detach() for key, factor in _factors(transformer, name).items()}


def load_adapter_state(transformer: nn.Module, name: str, state: dict[str, Tensor]) -> None:
    """Copy ``state`` into an adapter; raises ``AdapterError`` unless keys and shapes are exactly its own."""
    _require_unmerged(transformer)
    factors = _factors(transformer, name)
    if factors.keys() != state.keys():
        apart = {"missing": factors.keys() - state.keys(), "unknown": state.keys() - factors.keys()}
        said = [f"{len(keys)} {word}: {', '.join(sorted(keys)[:3])}" for word, keys in apart.items() if keys]
        raise AdapterError(f"these factors do not belong to the {name} adapter ({'; '.join(said)})")
    # All shapes are compared before the first factor is written, so that a refusal leaves the adapter as it was.
    for key, factor in factors.items():
        if factor.shape != state[key].shape:
            theirs, ours = tuple(state[key].shape), tuple(factor.shape)
            raise AdapterError(
                f"{key} has shape {theirs}, the {name} adapter has {ours}: is it of the same model and rank?"
            )
    for key, factor in factors.items():
        factor.data.copy_(state[key])


def check_fits(adapter: AdapterFile, transformer: nn.Module, model_name: str) -> None:
    """Raise ``AdapterError``, naming both sides, where ``adapter`` was made for another depth or width."""
    settings: Any = transformer.config
    layers, depth = dict(transformer.named_modules()), settings.get("num_layers", 0)
    origin = f"of {adapter.base_model} " if adapter.base_model else ""
    network = f"({adapter.transformer}) " if adapter.transformer else ""
    made_for = f"{f'{adapter.source}: ' if adapter.source else ''}an adapter {origin}{network}".rstrip()
    way_out = "choose the model it was trained on"
    # Depth first. Files of other tools may leave blocks out on purpose, ours never do: fewer blocks are then another model.
    if adapter.num_blocks > depth or (adapter.base_model and adapter.num_blocks < depth):
        raise AdapterError(
            f"{made_for} for {adapter.num_blocks} blocks does not fit model={model_name} with {depth}: {way_out}"
        )
    # Then the width of each projection, B's rows and A's columns against W. Image projections that the transformer lacks are
    # left out by `load_adapter`.
    for module in adapter.modules:
        if module not in layers and adapter.layers.is_optional(module):
            continue
        if module not in layers:
            raise AdapterError(f"{made_for} changes {module}, which model={model_name} does not have: {way_out}")
        base = layers[module].get_base_layer() if isinstance(layers[module], LoraLayer) else layers[module]
        theirs = (len(adapter.state[f"{module}.lora_B.weight"]), adapter.state[f"{module}.lora_A.weight"].shape[1])
        ours = (base.out_features, base.in_features)
        if theirs != ours:
            sizes = f"{theirs[0]}x{theirs[1]} does not fit model={model_name} with {ours[0]}x{ours[1]}"
            raise AdapterError(f"{made_for} whose {module} is {sizes}: {way_out}")
    for parameter, deltas in adapter.deltas.items():
        held = owner_of(transformer, parameter)
        if held is None and adapter.layers.is_optional(parameter.rpartition(".")[0]):
            continue
        if held is None:
            raise AdapterError(f"{made_for} changes {parameter}, which model={model_name} does not have: {way_out}")
        wanted = tuple(getattr(*held).shape)
        for delta in deltas:
            if math.prod(delta.shape) != math.prod(wanted) or (len(wanted) == 2 and delta.shape != wanted):
                own, needed = ("x".join(map(str, shape)) for shape in (delta.shape, wanted))
                raise AdapterError(
                    f"{made_for} whose {parameter} is {own} does not fit model={model_name} with {needed}: {way_out}"
                )
    if adapter.base_model not in ("", model_name):
        warn(f"the adapter was trained on {adapter.base_model} and is used on {model_name}: check that this is meant")


def update_squares(transformer: nn.Module, name: str) -> dict[str, float]:
    """``|alpha/rank B A|^2`` (Frobenius) of each projection: ``sum(B'B * AA')``, by rank x rank products only."""
    # |M|^2 is the trace of M'M, and tr(A'B'BA) = tr(B'B AA'): both factors are as small as the rank, where B A itself would be
    # as large as W. In float64, and never below zero: of an update that is nearly nothing, rounding could leave a negative sum.
    squares = {}
    for module, layer in _layers(transformer, name):
        down, up = (factor[name].weight.detach().double() for factor in (layer.lora_A, layer.lora_B))
        scale = layer.lora_alpha[name] / layer.r[name]
        squares[module] = scale**2 * float(((up.T @ up) * (down @ down.T)).sum().clamp(min=0))
    return squares


def weight_squares(transformer: nn.Module, name: str) -> dict[str, float]:
    """``|W|^2`` (Frobenius) of each projection of an adapter, W as it was before anything was merged into it."""
    squares = {}
    for module, layer in _layers(transformer, name):
        bring_block_of(transformer, module)
        (base,) = getattr(layer, ORIGINAL, (layer.get_base_layer(),))
        squares[module] = float(torch.linalg.vector_norm(frozen_weight(base))) ** 2
    return squares


def adapter_effect(transformer: nn.Module, name: str) -> float:
    """How much an adapter changes: ``|alpha/rank B A| / |W|`` (Frobenius), over all its projections at once.

    0 means that it learnt nothing, nan that it is broken. At once, as one projection may be zero: the image values of a
    newly grown I2V transformer.
    """
    changed, there = (sum(of(transformer, name).values()) for of in (update_squares, weight_squares))
    return math.sqrt(changed / there)


# -- scales ------------------------------------------------------------------------------------------------------------


def set_scales(transformer: nn.Module, scales: dict[str, float], keep: bool = True) -> None:
    """Let the named adapters act, each with its scale times ``alpha / rank``, and no other; ``{}`` is the base model.

    Scale 0 switches an adapter off, it then costs nothing. What trains keeps training. Weights that ``deltas`` change stay on
    the host with ``keep``; without it the scales are for good.
    """
    _require_unmerged(transformer)
    let_act(transformer, scales, keep)
    for name, scale in scales.items():
        for _, layer in _layers(transformer, name):
            layer.set_scale(name, scale)
    _activate(transformer, [name for name, scale in scales.items() if scale])


def acting_adapters(transformer: nn.Module) -> list[str]:
    """The adapters that act; peft keeps the list with each layer, ours are all alike."""
    layers = _layers(transformer)
    return list(layers[0][1].active_adapters) if layers else []


def acting_in_words(transformer: nn.Module) -> str:
    """The adapters that act, merged or not, and where they were read; for sentences."""
    sources = transformer.__dict__.get("adapter_sources", {})
    names = dict.fromkeys([*acting_adapters(transformer), *deltas_of(transformer).acting])
    return " and ".join(f"{name} ({sources[name]})" if sources.get(name) else name for name in names)


@contextmanager
def silenced(transformer: nn.Module, names: Iterable[str] | None = None) -> Iterator[None]:
    """Inside the block the adapters ``names``, or all, do not act, at no cost; the others do, and after it all as before."""
    acting = acting_adapters(transformer)
    quiet = set(acting if names is None else names)
    _activate(transformer, [name for name in acting if name not in quiet])
    try:
        yield
    finally:
        _activate(transformer, acting)


def merge(transformer: nn.Module, scales: dict[str, float], keep: bool = True) -> None:
    """``set_scales``, then fold what acts into W: ``W + sum scale * alpha/rank * B A``, in float32, rounded once.

    Sampling then costs what the base costs. With ``keep``, each changed W stays on the host for ``unmerge``: for Wan 14B
    in bf16 and cross-attention 12.6 GB, because subtracting the update would not give W back.
    """
    set_scales(transformer, scales, keep)
    # What is merged rounds to W's own dtype: a small update may vanish beside a large weight, and subtracting it again would
    # not give W back. So W is kept, and adapters cannot be added, loaded or rescaled until `unmerge`.
    for _, layer in _layers(transformer):
        acting = [name for name in layer.active_adapters if name in layer.lora_A]
        if acting:
            base = layer.get_base_layer()
            if keep:
                setattr(layer, ORIGINAL, (copy.deepcopy(base).cpu(),))
            update = sum(layer.get_delta_weight(name).detach() for name in acting)
            replace_weight(base, frozen_weight(base) + update)
            layer.merged_adapters = acting
    forget_predictions(transformer)


def unmerge(transformer: nn.Module) -> None:
    """Put every W back, bit for bit; the adapters act again, with the weights they were merged with.

    Raises ``RuntimeError`` where they were merged without keeping W.
    """
    for _, layer in _layers(transformer):
        if layer.merged_adapters:
            if not hasattr(layer, ORIGINAL):
                raise RuntimeError("the adapters were merged into the weights permanently: load the transformer again")
            (original,) = getattr(layer, ORIGINAL)
            layer.get_base_layer().load_state_dict(original.state_dict())
            delattr(layer, ORIGINAL)
            layer.merged_adapters = []
    forget_predictions(transformer)


def _require_unmerged(transformer: nn.Module) -> None:
    if any(layer.merged_adapters for _, layer in _layers(transformer)):
        raise RuntimeError("adapters are merged into the transformer: unmerge it first")


# -- peft's layers -----------------------------------------------------------------------------------------------------


def _layers(transformer: nn.Module, name: str | None = None) -> list[tuple[str, LoraLayer]]:
    """The adapted projections, those with the adapter ``name`` or all; raises ``ValueError`` for an unknown name."""
    layers = [(module, layer) for module, layer in transformer.named_modules() if isinstance(layer, LoraLayer)]
    if name is None:
        return layers
    found = [(module, layer) for module, layer in layers if name in layer.lora_A]
    if found or name in deltas_of(transformer).of:  # an adapter may consist of deltas alone
        return found
    raise ValueError(f"the transformer has no adapter named {name}")


def _factors(transformer: nn.Module, name: str) -> dict[str, Parameter]:
    """The parameters of an adapter, by their key in its state."""
    factors = {}
    for module, layer in _layers(transformer, name):
        factors[f"{module}.lora_A.weight"] = layer.lora_A[name].weight
        factors[f"{module}.lora_B.weight"] = layer.lora_B[name].weight
    return factors


def _activate(transformer: nn.Module, names: Iterable[str]) -> None:
    """Let ``names`` act, summed in the order of the alphabet so that a sum does not depend on who was named first."""
    # peft ties the two together: it would thaw what acts and freeze what does not. Here they are apart, as an adapter may act
    # frozen (style under motion) and may train while it is silenced for a measurement; so what trains is put back.
    forget_predictions(transformer)
    names = sorted(names)
    for _, layer in _layers(transformer):
        training = {factor: factor.requires_grad for factor in layer.parameters()}
        layer.set_adapter(names, inference_mode=True)
        for factor, trains in training.items():
            factor.requires_grad_(trains)
