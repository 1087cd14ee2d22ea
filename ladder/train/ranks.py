"""The data-parallel ranks of a training job: a plain process is one, ``torchrun`` starts more.

Ranks form a mesh of replicas x shards. Sharding (and replication, its case of one shard) is torch's ``fully_shard``,
applied from outside to the single-device model. Attention and MLP are sharded apart, not decoder layer by layer,
because the wiring calls them apart.
"""

import contextlib
import os
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import timedelta

import torch
import torch.distributed as dist
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import MixedPrecisionPolicy, fully_shard

from ladder.errors import UserError
from ladder.train.options import Options, world_size


@dataclass(frozen=True)
class Ranks:
    rank: int
    size: int
    device: torch.device
    sharded: bool = False  # fully_shard is applied

    @property
    def first(self) -> bool:
        return self.rank == 0

    def sum(self, value: torch.Tensor) -> torch.Tensor:
        """The sum of ``value`` over the ranks, in place."""
        if self.size > 1:
            dist.all_reduce(value)
        return value

    def gather(self, value) -> list:
        """Every rank's (small) object, on every rank."""
        if self.size == 1:
            return [value]
        values = [None] * self.size
        dist.all_gather_object(values, value)
        return values

    def barrier(self) -> None:
        self.gather(None)


@contextlib.contextmanager
def start(options: Options) -> Iterator[Ranks]:
    """Join the other ranks (WORLD_SIZE and its like in the environment, as torchrun sets them)."""
    if options.device == "cuda" and not torch.cuda.is_available():
        raise UserError("--device cuda: torch finds no GPU on this machine; use --device cpu, or a machine with one")
    cuda = torch.cuda.is_available() if options.device == "auto" else options.device == "cuda"
    rank, size = int(os.environ.get("RANK", 0)), world_size()
    device = torch.device("cuda", int(os.environ.get("LOCAL_RANK", 0))) if cuda else torch.device("cpu")
    if cuda:
        torch.cuda.set_device(device)
    # bf16 goes the same way at one rank as at many: fp32 shards, cast to bf16 when gathered.
    if size == 1 and options.precision == "fp32":
        yield Ranks(rank, size, device)
        return
    alone = {"store": dist.HashStore(), "rank": 0, "world_size": 1} if size == 1 else {}
    # Checkpoints are planned with objects, which travel over gloo. Rank 0 may wait hours for an orphan's work to end.
    dist.init_process_group("cpu:gloo,cuda:nccl" if cuda else "gloo", timeout=timedelta(hours=4), **alone)
    try:
        yield Ranks(rank, size, device, sharded=True)
    finally:
        dist.destroy_process_group()


def distribute(model: torch.nn.Module, ranks: Ranks, options: Options) -> torch.nn.Module:
    """Put ``model`` on the ranks in place: recompute, compile, shard (in this order, as torch's parts require)."""
    if options.activation_checkpointing:
        # renamed in transformers 5.2x, and to go under the old name in 6; neither defaults to the reentrant kind
        getattr(model, "activation_checkpointing_enable", model.gradient_checkpointing_enable)()
    if options.compile:
        for layer in model.model.layers:
            layer.self_attn.compile()
            layer.mlp.compile()
    if not ranks.sharded:
        return model.to(ranks.device)
    replicas = ranks.size // options.shard
    mesh = init_device_mesh(ranks.device.type, (replicas, options.shard), mesh_dim_names=("replicate", "shard"))
    how = {"mesh": mesh if replicas > 1 else mesh["shard"]}
    if options.precision == "bf16":
        how["mp_policy"] = MixedPrecisionPolicy(param_dtype=torch.bfloat16, reduce_dtype=torch.float32)
    for layer in model.model.layers:
        fully_shard(layer.self_attn, **how)
        fully_shard(layer.mlp, **how)
    return fully_shard(model, **how)  # embeddings, norms and head; moves all of it to the device
