"""DeepSpeed's ZeRO under Lightning: gradients and AdamW's moments in shards, on GPUs and on CPU ranks alike.

Enters: what is trained, and the settings of the strategy. Leaves: a Lightning strategy, and moments as whole tensors, so that a
checkpoint of one strategy resumes under another. Frozen weights are never DeepSpeed's: under ``zero3`` ranks share them by
``memory.weight_sharding`` (ADR 16).
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

from cinelora.adapters.trainable import Trained
from cinelora.parallel.launch import PATIENCE

State = dict[str, Tensor]

# What lies where, for two ranks and a trained weight W of 10 values:
#
#             weights                     gradients                   AdamW's moments
#   DDP       W on both                   summed, on both             all on both
#   zero1     W on both                   summed, on both             of W[0:5] on rank 0, of W[5:10] on rank 1
#   zero2     W on both                   each its part, after a sum  as zero1
#   zero3     W[0:5], W[5:10]; whole      as zero2                    as zero1
#             only while a layer runs
#
# Levels 1 and 2 lay all trained weights one after the other and cut that one long row into as many parts as there are ranks:
# a part may begin in the middle of a weight. Level 3 cuts each weight by itself, and fills the last piece with zeros where the
# values do not divide. DeepSpeed has a set of functions for each of the two, which is why the code below asks which it is.

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
        # Lightning calls this once for each micro-batch, with a closure that runs forward and backward. DeepSpeed counts
        # micro-batches itself: ``step`` does nothing until the last of them, when it clips, moves the weights and forgets
        # the gradients. Whether this is the last has to be asked before, since ``step`` begins the next count.
        engine = model.trainer.model
        closure()
        model.on_before_optimizer_step(optimizer)
        completes = engine.is_gradient_accumulation_boundary()
        engine.step()
        if completes:
            model.gradient_norm = torch.as_tensor(engine.get_global_grad_norm())


def own_range(parameter: Any) -> range:
    """Where this rank's piece begins and ends in the flat values."""
    # All pieces are of one size, rounded up, so that the last ones may reach beyond the weight or lie beyond it: of 5 values
    # in 4 pieces of 2, rank 2 has one and rank 3 none.
    size = parameter.ds_tensor.ds_numel
    first = min(torch.distributed.get_rank() * size, parameter.ds_numel)
    return range(first, min(first + size, parameter.ds_numel))


class ZeroStrategy(DeepSpeedStrategy):
    """ZeRO ``level`` over all ranks; with ``offload`` moments and float32 weights lie, and are stepped, on the host.

    Level 3 is for what is ``partitioned``.
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
        # Level 3 hooks itself into every module below the one that it is given, to bring a layer's weights before it runs.
        # The transformer is kept out of the stage otherwise, as Lightning would move it to the device, so it is put in now.
        if self.trained.partitioned:
            model.adopt_transformer()
        here = types.SimpleNamespace(device_rank=self.local_rank)
        what = {"model": model, "model_parameters": self.parameters, "optimizer": optimizer, "config": self.config}
        engine, sharded, _, _ = self.deepspeed.initialize(here, dist_init_required=False, **what)
        # From here on a weight of level 3 is its piece. What the weights were at first, kept to measure how far they have
        # moved, was whole until now and is cut the same way.
        self.trained.settle()
        return engine, sharded

    @property
    def sharded(self) -> Any:
        """DeepSpeed's optimizer: AdamW over this rank's part of the trained values, one after the other."""
        return self.optimizers[0]

    # -- moments -------------------------------------------------------------------------------------------------------

    def moments(self) -> State:
        """AdamW's state, whole, as ``callbacks.checkpoint`` names it; all ranks take part."""
        from deepspeed.utils import safe_get_full_optimizer_state

        # Every rank asks for every parameter in the same order, and DeepSpeed puts the whole together from the parts. The
        # step count is no tensor of a parameter but one number, the same in all parts, so it is read once.
        state = self.sharded.optimizer.state
        (step,) = {float(entry["step"]) for entry in state.values()}
        found: State = {}
        for number, parameter in enumerate(self.parameters):
            found[f"{number}.step"] = torch.tensor(step)
            for name in MOMENTS:
                found[f"{number}.{name}"] = safe_get_full_optimizer_state(parameter, name)
        return found

    def restore_moments(self, state: dict[int, State]) -> None:
        """Restore this rank's part of ``state``, by the parameters' numbers, before the first step."""
        from deepspeed.utils import safe_set_full_optimizer_state, safe_set_local_optimizer_state

        # AdamW makes its moments at the first step, and a resumed run needs them before. So each flat part of this rank gets
        # an entry by hand, at zero and with the step count. Then DeepSpeed learns which places in it belong to which
        # parameter, and is handed each whole moment (levels 1 and 2) or this rank's piece (level 3) to copy in.
        sharded, partitioned = self.sharded, self.trained.partitioned
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
    """This rank's piece of ``whole``, with zeros after it where the ranks' pieces reach beyond the end."""
    own, piece = own_range(parameter), whole.new_zeros(parameter.ds_tensor.ds_numel)
    piece[: len(own)] = whole.flatten()[own.start : own.stop]
    return piece
