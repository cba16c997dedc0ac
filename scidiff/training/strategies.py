"""How several processes share the weights of a run: each holds all of them, or each a part.

    ddp    every process holds all weights and averages gradients (torch's DistributedDataParallel)
    fsdp   weights, gradients, averages and optimiser states are cut over the processes; those of a block are put
           together while it computes (torch's fully_shard, FSDP2; Zhao et al. 2023). For models that fit no device

Both take the same steps to rounding, and so does one process alone. What is written is whole: a run may be resumed with
the other strategy and another number of processes.
"""

from __future__ import annotations

import copy
from abc import ABC, abstractmethod
from collections.abc import Mapping
from contextlib import AbstractContextManager, nullcontext

from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel
from torch.optim.swa_utils import AveragedModel

from scidiff.training.distributed import World


class Strategy(ABC):
    """What the loop asks.

    Attributes:
        loss: the module that gives the loss of each sample of a batch.
    """

    loss: nn.Module

    @abstractmethod
    def gradient(self, *, last: bool) -> AbstractContextManager[object]:
        """Surrounds the gradient of one batch; processes exchange theirs with the `last` batch of a step."""

    @abstractmethod
    def whole(self, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Tensors as they are in one process alone. All processes must ask."""

    @abstractmethod
    def share(self, tensors: Mapping[str, Tensor], like: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Whole tensors as this process holds them: cut as `like` is. All processes must ask."""

    @abstractmethod
    def averaged(self) -> nn.Module:
        """The denoiser with the averaged weights, whole, in evaluation mode. All processes must ask."""


class Replicated(Strategy):
    """All weights in every process; in a process alone, the module as it is.

    Args:
        loss: the objective, whose weights are trained.
        average: of its denoiser.
        world: the processes.
    """

    def __init__(self, loss: nn.Module, average: AveragedModel, world: World) -> None:
        self.loss: nn.Module = DistributedDataParallel(loss) if world.size > 1 else loss
        self._average = average

    def gradient(self, *, last: bool) -> AbstractContextManager[object]:
        alone = not isinstance(self.loss, DistributedDataParallel)
        return nullcontext() if last or alone else self.loss.no_sync()  # type: ignore[operator]

    def whole(self, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
        return dict(tensors)

    def share(self, tensors: Mapping[str, Tensor], like: Mapping[str, Tensor]) -> dict[str, Tensor]:
        return dict(tensors)

    def averaged(self) -> nn.Module:
        average: nn.Module = self._average.module
        return average.eval()


class Sharded(Strategy):
    """A part of every weight in each process.

    The elements of lists of modules (the blocks of a transformer) are gathered one at a time. To validate, and at the
    end, the averaged denoiser is put together in every process.

    Args:
        loss: the objective, whose weights are trained; cut in place.
        average: of its denoiser; cut in place.
        world: the processes, more than one.
    """

    def __init__(self, loss: nn.Module, average: AveragedModel, world: World) -> None:
        from torch.distributed.device_mesh import init_device_mesh

        device = next(loss.parameters()).device
        mesh = init_device_mesh(device.type, (world.size,))
        self._alone = copy.deepcopy(average.module)
        self._average = average
        self.loss = _cut(loss, mesh)
        _cut(average.module, mesh)

    def gradient(self, *, last: bool) -> AbstractContextManager[object]:
        self.loss.set_requires_gradient_sync(last)  # type: ignore[operator]
        return nullcontext()

    def whole(self, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
        from torch.distributed.tensor import DTensor

        return {name: x.full_tensor() if isinstance(x, DTensor) else x for name, x in tensors.items()}

    def share(self, tensors: Mapping[str, Tensor], like: Mapping[str, Tensor]) -> dict[str, Tensor]:
        from torch.distributed.tensor import DTensor, distribute_tensor

        def cut(x: Tensor, like: Tensor | None) -> Tensor:
            if not isinstance(like, DTensor) or x.shape != like.shape:
                return x
            return distribute_tensor(x.to(like.device), like.device_mesh, like.placements)

        return {name: cut(x, like.get(name)) for name, x in tensors.items()}

    def averaged(self) -> nn.Module:
        self._alone.load_state_dict(self.whole(self._average.module.state_dict()))
        return self._alone.eval()


def _cut(module: nn.Module, mesh: object) -> nn.Module:
    """Cut the weights of a module, block by block, over the processes of a mesh."""
    from torch.distributed.fsdp import fully_shard

    for part in list(module.modules()):
        if isinstance(part, nn.ModuleList):
            for block in part:
                fully_shard(block, mesh=mesh)  # type: ignore[call-overload]
    fully_shard(module, mesh=mesh)  # type: ignore[call-overload]
    return module
