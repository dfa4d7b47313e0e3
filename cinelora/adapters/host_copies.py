"""What adapters take of the host's memory while clips are made, from headers alone.

Enters: a request for clips with its adapter files. Leaves: bytes, of the adapters themselves, and of the weights that stay on
the host as they were where several scales are wanted in turn: ``lora_layers.merge`` and ``weight_deltas.let_act`` keep these.
"""

from __future__ import annotations

import math
from collections.abc import Iterable

from cinelora.adapters.adapter_header import AdapterHeader, Change, adapter_header
from cinelora.config.clip_request import ClipRequest
from cinelora.families import family_of
from cinelora.planning.estimate import HostCopies

IN_FULL = {"time_embedder", "scale_shift_table", "norm1", "norm2", "norm3"}
"""Parts of names that diffusers keeps in float32 in every precision (``_keep_in_fp32_modules``)."""


def host_copies(request: ClipRequest, several: bool) -> HostCopies:
    """What the adapters of ``request`` take; ``several``: a transformer is wanted with several scales, one after the other.

    Raises as ``adapter_header``.
    """
    headers = {name: adapter_header(path) for name, path in request.adapters.items()}
    dtype, live, merged = request.config.model.dtype, dict[str, int](), dict[str, int]()
    for kind in request.transformers if several else ():
        acting = [headers[name] for name in request.scales_on(kind, request.config.scale, request.adapters)]
        network = family_of(request.config.model).network(kind)
        changes = [c for header in acting for c in header.changes if c.layers.lies_in(c.module, network)]
        live[kind] = sum({c.parameter: parameter_bytes(c, dtype) for c in changes if not c.is_factors}.values())
        layers = {c.module: parameter_bytes(c, dtype) + _bias_bytes(c, dtype) for c in changes if c.is_factors}
        merged[kind] = live[kind] + sum(layers.values())
    return HostCopies(sum(map(own_bytes, headers.values())), live, merged)


def own_bytes(header: AdapterHeader) -> int:
    """Bytes of an adapter as it is read: everything in float32, pairs of factors filled up to the largest rank."""
    pairs = sum(header.spec.rank * sum(change.shape) for change in header.factors)
    return 4 * (pairs + sum(change.values for change in header.changes if not change.is_factors))


def parameter_bytes(change: Change, dtype: str) -> int:
    """Bytes of the parameter that is changed, as a transformer in ``dtype`` (fp32, bf16, fp8) holds it."""
    values = math.prod(change.shape)
    if dtype == "fp8" and _is_in_fp8(change):
        return values + 4 * change.shape[0]  # and a scale for each row
    return values * _width(change.parameter.split("."), dtype)


def _bias_bytes(change: Change, dtype: str) -> int:
    """Of the bias that a merged layer is copied with; every projection of a block has one."""
    return change.shape[0] * _width((), dtype)


def _is_in_fp8(change: Change) -> bool:
    return change.parameter.startswith("blocks.") and change.parameter.endswith(".weight") and len(change.shape) == 2


def _width(words: Iterable[str], dtype: str) -> int:
    return 4 if dtype == "fp32" or IN_FULL & {*words} else 2
