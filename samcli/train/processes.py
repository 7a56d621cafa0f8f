"""Several processes that train one network together: each has a share of every batch."""

from __future__ import annotations

import os
from datetime import timedelta
from typing import TYPE_CHECKING, Any, NamedTuple

import torch
import torch.distributed as dist
import torch.nn.functional as F
from torch import Tensor, nn

from samcli.errors import SamcliError

if TYPE_CHECKING:
    from samcli.train.loop import TrainConfig


class Processes(NamedTuple):
    """This process's place among those that train together, and its device."""

    rank: int
    world: int
    device: torch.device


def join_processes(config: TrainConfig) -> Processes:
    """Meet the processes that torchrun started; without it, this one is alone. May be called again.

    On CUDA each process takes the device with its local rank. Raises SamcliError when the processes do not
    divide each stage's batch, or there are too few devices.
    """
    world = int(os.environ.get("WORLD_SIZE", "1"))
    device = torch.device(config.device)
    if world == 1:
        return Processes(0, 1, device)
    for stage in config.stages:
        if stage.batch % world:
            raise SamcliError(
                f"{world} processes cannot share a batch of {stage.batch} ({stage.side} px); "
                f"start a number of processes that divides {', '.join(str(s.batch) for s in config.stages)}"
            )
    if device.type == "cuda":
        local, count = int(os.environ["LOCAL_RANK"]), torch.cuda.device_count()
        if local >= count:
            raise SamcliError(
                f"process {local} has no device of its own: {count} CUDA devices; start {count}"
            )
        device = torch.device("cuda", local)
        torch.cuda.set_device(device)
    elif device.type != "cpu":
        raise SamcliError(f"several processes cannot train on {device.type}; use --device cpu")
    if not dist.is_initialized():
        dist.init_process_group("nccl" if device.type == "cuda" else "gloo", timeout=timedelta(hours=12))
    return Processes(dist.get_rank(), world, device)


def average_gradients(network: nn.Module, world: int) -> None:
    """Make the gradients of all processes their mean."""
    grads = [p.grad for p in network.parameters() if p.grad is not None]
    flat = torch.cat([g.flatten() for g in grads])
    dist.all_reduce(flat)
    for grad, part in zip(grads, flat.split([g.numel() for g in grads]), strict=True):
        grad.copy_(part.view_as(grad) / world)


def summed(value: Tensor, world: int) -> Tensor:
    """The sum of a number over all processes."""
    if world > 1:
        value = value.clone()
        dist.all_reduce(value)
    return value


def share_norms(network: nn.Module) -> None:
    """Let batch normalisation see the whole batch, not only this process's share; keys stay as they are."""
    for module in network.modules():
        if type(module) is nn.BatchNorm2d:
            module.__class__ = SharedNorm


class SharedNorm(nn.BatchNorm2d):
    """Batch normalisation by the statistics of all processes' batches, which are of one size."""

    def forward(self, x: Tensor) -> Tensor:
        """x: (B, C, H, W)."""
        if not self.training:
            return super().forward(x)
        y, mean, variance = _Normalised.apply(x, self.weight, self.bias, self.eps)  # type: ignore[no-untyped-call]
        assert self.running_mean is not None
        assert self.running_var is not None
        assert self.num_batches_tracked is not None
        with torch.no_grad():
            count = dist.get_world_size() * x.numel() / x.shape[1]
            step = 0.0 if self.momentum is None else self.momentum
            self.running_mean.lerp_(mean, step)
            self.running_var.lerp_(variance * count / (count - 1), step)
            self.num_batches_tracked += 1
        out: Tensor = y
        return out


class _Normalised(torch.autograd.Function):
    """Normalised by the mean and variance over all processes, which are returned too, (C,) each."""

    @staticmethod
    def forward(
        ctx: Any, x: Tensor, weight: Tensor, bias: Tensor, eps: float
    ) -> tuple[Tensor, Tensor, Tensor]:
        variance, mean = torch.var_mean(x.float(), (0, 2, 3), correction=0)
        moments = torch.stack([mean.double(), variance.double() + mean.double() ** 2])
        dist.all_reduce(moments)
        moments /= dist.get_world_size()
        mean, variance = moments[0].float(), (moments[1] - moments[0] ** 2).float()
        y = F.batch_norm(x, mean, variance, weight, bias, eps=eps)
        ctx.save_for_backward(x, weight, mean, torch.rsqrt(variance + eps))
        ctx.mark_non_differentiable(mean, variance)
        return y, mean, variance

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, Tensor, Tensor, None]:
        """The gradient of the sum of all processes' losses with respect to x; of this one's to the rest."""
        x, weight, mean, scale = ctx.saved_tensors
        grad = grads[0].float()
        normal = (x.float() - mean[:, None, None]) * scale[:, None, None]
        own = torch.stack([grad.sum((0, 2, 3)), (grad * normal).sum((0, 2, 3))])
        whole = own.clone()
        dist.all_reduce(whole)
        whole /= dist.get_world_size() * x.numel() / x.shape[1]
        inner = grad - whole[0][:, None, None] - normal * whole[1][:, None, None]
        return (inner * (weight * scale)[:, None, None]).to(x.dtype), own[1], own[0], None
