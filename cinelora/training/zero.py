"""DeepSpeed's ZeRO under Lightning: gradients and AdamW's moments in shards, on GPUs and on CPU ranks alike.

Enters: what is trained, and the settings of the strategy. Leaves: a Lightning strategy, and moments as whole tensors, so that a
checkpoint of one strategy goes on under another. Frozen weights are never DeepSpeed's: under ``zero3`` ranks share them by
``models.shares`` (ADR 16).
"""

from __future__ import annotations

import logging
import os
import sys
import types
from typing import Any

import torch
from lightning.pytorch.plugins.precision import DeepSpeedPrecision
from lightning.pytorch.strategies import DDPStrategy, DeepSpeedStrategy
from torch import Tensor

from cinelora.adapters.trainable import Effect, Trained, WholeTransformer, square
from cinelora.parallel.launch import PATIENCE

State = dict[str, Tensor]
MOMENTS = ("exp_avg", "exp_avg_sq")
BUCKET = 50_000_000
"""Gradients that are reduced at once; DeepSpeed holds a buffer of as many values."""


def import_deepspeed(gpu: bool) -> types.ModuleType:
    """DeepSpeed, which then prints no advice, and neither tries out compilers nor compiles."""
    os.environ.setdefault("DS_ACCELERATOR", "cuda" if gpu else "cpu")  # else it looks for hardware, and says so
    import deepspeed

    deepspeed.utils.logging.logger.setLevel(logging.ERROR)
    deepspeed.ops.__compatible_ops__ = {}  # it would list what it can compile, and on CPUs build one: 25 s, and gloo does
    return sys.modules["deepspeed"]


class AsLoaded(DeepSpeedPrecision):
    """Weights and batches stay in the dtype they have."""

    def convert_module(self, module: torch.nn.Module) -> torch.nn.Module:
        """As it is."""
        return module

    def convert_input(self, data: Any) -> Any:
        """As they are."""
        return data

    def backward(self, tensor: Tensor, model: Any, *_: Any, **__: Any) -> None:
        """Gradients of a loss that Lightning has divided by the number of micro-batches: DeepSpeed shall not do it again."""
        model.trainer.model.backward(tensor, scale_wrt_gas=False)

    def optimizer_step(self, optimizer: Any, model: Any, closure: Any, **_: Any) -> None:  # type: ignore[override]
        """One micro-batch, whose last of a step moves the weights; clipping is DeepSpeed's, which knows the norm before it."""
        engine = model.trainer.model
        closure()
        model.on_before_optimizer_step(optimizer)
        completes = engine.is_gradient_accumulation_boundary()
        engine.step()
        if completes:
            model.gradient_norm = torch.as_tensor(engine.get_global_grad_norm())


class PartitionedTransformer(WholeTransformer):
    """Every weight, of which DeepSpeed's ZeRO-3 gives each rank a piece when training starts; whole before that.

    ``state`` is then of this rank's pieces, flat, and empty where a weight is too small for all ranks to have one.
    """

    def state(self) -> State:
        """The weights, or this rank's pieces of them."""
        return {name: _piece(parameter) for name, parameter in self._named.items()}

    def load(self, state: State) -> None:
        """Copy weights in, or pieces of them."""
        if not _is_partitioned(self.parameters[0]):
            return super().load(state)
        for name, piece in self.state().items():
            piece.copy_(state[name])

    def gathered(self, state: State) -> State:
        """The weights that ``state`` is this rank's pieces of, on the host of rank 0; all ranks take part."""
        found = {}
        for name, parameter in self._named.items():
            own = torch.zeros(parameter.ds_tensor.ds_numel, device=parameter.device)
            own[: state[name].numel()] = state[name]
            flat = own.new_empty(torch.distributed.get_world_size() * own.numel())
            torch.distributed.all_gather_into_tensor(flat, own)
            if torch.distributed.get_rank() == 0:
                found[name] = flat[: parameter.ds_numel].view(parameter.ds_shape).cpu()
        return found

    def own_part(self, state: State) -> State:
        """This rank's pieces of whole weights."""
        ranges = {name: _range(parameter) for name, parameter in self._named.items()}
        return {name: state[name].flatten()[own.start : own.stop] for name, own in ranges.items()}

    def effect(self) -> Effect:
        """``|W - W_start| / |W_start|``, over the pieces of all ranks."""
        pieces = {name: (piece.cpu(), self._start[name]) for name, piece in self.state().items()}
        squares = [(square(now - then), square(then)) for now, then in pieces.values()]
        totals = torch.tensor(squares, dtype=torch.float64, device=self.parameters[0].device)
        torch.distributed.all_reduce(totals)
        changes, weights = (dict(zip(pieces, column, strict=True)) for column in totals.T.tolist())
        return Effect.of(changes, weights)

    def settle(self) -> None:
        """Keep of what the weights were at first this rank's pieces alone, once DeepSpeed has made them."""
        self._start = {name: piece.clone() for name, piece in self.own_part(self._start).items()}


def _piece(parameter: Any) -> Tensor:
    """This rank's piece of a parameter without what pads it, or all of it while it is whole."""
    if not _is_partitioned(parameter):
        return parameter.detach()  # type: ignore[no-any-return]
    return parameter.ds_tensor.data[: len(_range(parameter))]  # type: ignore[no-any-return]


def _range(parameter: Any) -> range:
    """Where this rank's piece begins and ends in the flat values."""
    size = parameter.ds_tensor.ds_numel
    first = min(torch.distributed.get_rank() * size, parameter.ds_numel)
    return range(first, min(first + size, parameter.ds_numel))


def _is_partitioned(parameter: Any) -> bool:
    return hasattr(parameter, "ds_tensor")


class ZeroStrategy(DeepSpeedStrategy):
    """ZeRO ``level`` over all ranks; with ``offload`` moments and float32 weights lie, and are stepped, on the host.

    Level 3 is for a ``PartitionedTransformer``.
    """

    def __init__(self, level: int, offload: bool, trained: Trained, gpu: bool) -> None:
        self.deepspeed = import_deepspeed(gpu)
        self.trained, self.parameters = trained, trained.parameters
        zero: dict[str, Any] = {
            "stage": level,
            "overlap_comm": False,
            "reduce_bucket_size": min(BUCKET, sum(parameter.numel() for parameter in self.parameters)),
            "stage3_param_persistence_threshold": 0,
            "stage3_prefetch_bucket_size": 0,  # it foresees one order of the blocks, and held-out losses have another
            "stage3_max_reuse_distance": 0,
        }
        if offload:
            zero["offload_optimizer"] = {"device": "cpu", "pin_memory": gpu}
        super().__init__(
            config={
                "zero_optimization": zero,
                "zero_allow_untested_optimizer": True,
                "zero_force_ds_cpu_optimizer": False,  # torch's AdamW steps on the host too, and is not compiled first
                "train_micro_batch_size_per_gpu": 1,  # for DeepSpeed's own speedometer, which is not looked at
            },
            process_group_backend="nccl" if gpu else "gloo",
            precision_plugin=AsLoaded("32-true"),
            timeout=PATIENCE,
        )

    # -- Lightning's hooks ---------------------------------------------------------------------------------------------

    def setup_environment(self) -> None:
        """As DDP: CPU ranks are no less welcome than GPUs."""
        DDPStrategy.setup_environment(self)

    def setup_distributed(self) -> None:
        """The process group of DDP, which DeepSpeed then uses as well."""
        DDPStrategy.setup_distributed(self)
        self.deepspeed.init_distributed(self._process_group_backend, dist_init_required=False)

    def init_deepspeed(self) -> None:
        """Build the engine, and not warn that the stage has a clipping of its own."""
        assert self.model is not None
        self._initialize_deepspeed_train(self.model)

    def _setup_model_and_optimizer(self, model: Any, optimizer: Any, lr_scheduler: Any = None) -> Any:
        if isinstance(self.trained, PartitionedTransformer):
            model.adopt_transformer()
        engine, sharded, _, _ = self.deepspeed.initialize(
            args=types.SimpleNamespace(device_rank=self.local_rank),
            config=self.config,
            model=model,
            model_parameters=self.parameters,
            optimizer=optimizer,
            dist_init_required=False,
        )
        if isinstance(self.trained, PartitionedTransformer):
            self.trained.settle()
        return engine, sharded

    @property
    def sharded(self) -> Any:
        """DeepSpeed's optimizer: AdamW over this rank's part of the trained values, one behind the other."""
        return self.optimizers[0]

    # -- moments -------------------------------------------------------------------------------------------------------

    def moments(self) -> State:
        """AdamW's state, whole, as ``callbacks.moments`` names it; all ranks take part."""
        from deepspeed.utils import safe_get_full_optimizer_state

        state = self.sharded.optimizer.state
        (step,) = {float(entry["step"]) for entry in state.values()}
        found: State = {}
        for number, parameter in enumerate(self.parameters):
            found[f"{number}.step"] = torch.tensor(step)
            for name in MOMENTS:
                found[f"{number}.{name}"] = safe_get_full_optimizer_state(parameter, name)
        return found

    def restore_moments(self, state: dict[int, State]) -> None:
        """Take up this rank's part of ``state``, by the parameters' numbers, before the first step."""
        from deepspeed.utils import safe_set_full_optimizer_state, safe_set_local_optimizer_state

        sharded, partitioned = self.sharded, isinstance(self.trained, PartitionedTransformer)
        flats = sharded.fp32_partitioned_groups_flat if partitioned else sharded.single_partition_of_fp32_groups
        for flat in flats:
            empty = {name: torch.zeros_like(flat) for name in MOMENTS}
            sharded.optimizer.state[flat] = {"step": state[0]["step"].to(flat.device), **empty}
        if not partitioned:
            sharded._lazy_init_hp_params_optimizer_state()
        for number, parameter in enumerate(self.parameters):
            for name in MOMENTS:
                if partitioned:
                    safe_set_local_optimizer_state(parameter, _padded(state[number][name], parameter), name)
                else:
                    safe_set_full_optimizer_state(parameter, state[number][name], name)


def _padded(whole: Tensor, parameter: Any) -> Tensor:
    """This rank's piece of ``whole``, with zeros behind it where the ranks' pieces reach beyond the end."""
    own, piece = _range(parameter), whole.new_zeros(parameter.ds_tensor.ds_numel)
    piece[: len(own)] = whole.flatten()[own.start : own.stop]
    return piece
