"""ShardedStrategy: Lightning's FSDP2 strategy with the checkpoints of every other run."""

from pathlib import Path
from typing import Any

from lightning.pytorch.strategies import ModelParallelStrategy, ParallelStrategy
from torch import Tensor
from torch.distributed.tensor import DTensor
from torch.optim import Optimizer

from ceeh.run.checkpoint import read_checkpoint
from ceeh.run.checkpoint_io import AtomicCheckpointIO
from ceeh.run.shards import Rows, replaced
from ceeh.runtime.distributed import is_rank_zero, world_size


class ShardedStrategy(ModelParallelStrategy):
    """All processes share the weights; a checkpoint has the content that one process would save.

    `distributed` is its form: each rank's rows in a file, or all of it gathered on rank 0 in one. Either is
    read by any number of ranks, each of which reads its rows. Lightning's own distributed checkpoints have
    other names for the optimizer's states, no checksums, and a pickle.
    """

    def __init__(self, *, distributed: bool) -> None:
        # Lightning's "auto" shards over nodes, not over their devices.
        super().__init__(
            data_parallel_size=world_size(),
            tensor_parallel_size=1,
            save_distributed_checkpoint=distributed,
        )
        self.distributed = distributed

    @property
    def lightning_restore_optimizer(self) -> bool:
        return True

    def lightning_module_state_dict(self) -> dict[str, Any]:
        """Sharded, without communication."""
        assert self.lightning_module is not None
        return self.lightning_module.state_dict()

    def optimizer_state(self, optimizer: Optimizer) -> dict[str, Any]:
        """Sharded, without communication."""
        return optimizer.state_dict()

    def save_checkpoint(
        self, checkpoint: dict[str, Any], filepath: str | Path, storage_options: Any = None
    ) -> None:
        """Collective. A failure is in the `failure` of the checkpoint plug-in."""
        io = self.checkpoint_io
        assert isinstance(io, AtomicCheckpointIO)
        if self.distributed:
            io.save_shards(checkpoint, Path(filepath))
            return
        full = replaced(checkpoint, gathered)
        if is_rank_zero():
            io.save_checkpoint(full, filepath)

    def load_checkpoint(
        self, checkpoint_path: str | Path, weights_only: bool | None = None
    ) -> dict[str, Any]:
        """The checkpoint with this rank's rows of its weights and of its optimizer's states."""
        path, own = Path(checkpoint_path), self.own_shards()
        rows = Rows(path) if path.is_dir() else None

        def sharded(place: str, value: Tensor) -> Tensor:
            like = own.get(place, own.get(place.rpartition(".")[0]))
            if like is None or value.shape != like.shape:  # such as Adam's number of steps
                return value.clone()
            start, stop = own_rows(like)
            local = rows.read(place, start, stop) if rows else value[start:stop].clone()
            return DTensor.from_local(
                local.to(like.device),
                like.device_mesh,
                like.placements,
                shape=like.shape,
                stride=like.stride(),
            )

        # Mapped, so that no rank holds more than its rows; these are copies.
        return replaced(read_checkpoint(path, weights=False), sharded)

    def own_shards(self) -> dict[str, DTensor]:
        """Place in a checkpoint -> the parameter whose rows are there, or in the entries below it."""
        assert self.lightning_module is not None
        named = self.lightning_module.named_parameters(remove_duplicate=False)  # tied ones twice
        own = {f"state_dict.{name}": value for name, value in named}
        for number, optimizer in enumerate(self.optimizers):
            parameters = [value for group in optimizer.param_groups for value in group["params"]]
            for index, value in enumerate(parameters):
                own[f"optimizer_states[{number}].state.{index}"] = value
        return {place: value for place, value in own.items() if isinstance(value, DTensor)}

    load_model_state_dict = ParallelStrategy.load_model_state_dict
    load_optimizer_state_dict = ParallelStrategy.load_optimizer_state_dict


def gathered(place: str, value: Tensor) -> Tensor | None:
    """A sharded tensor in rank 0's main memory; the other ranks take part, and keep nothing."""
    if not isinstance(value, DTensor):
        return value
    full = value.full_tensor()
    return full.cpu() if is_rank_zero() else None


def own_rows(value: DTensor) -> tuple[int, int]:
    """The first of this rank's rows, and the one after the last: as torch.chunk cuts them."""
    most = -(-len(value) // value.device_mesh.size())
    start = min(value.device_mesh.get_local_rank() * most, len(value))
    return start, start + len(value.to_local())
