"""How a model lies on the ranks: a mesh of replicas x shards x tensor-parallel ranks.

Tensor parallelism is this project's own (``ladder.parallelize``: asynchronous sums, the wiring kept), the rest is
torch's ``fully_shard``; both are applied from outside to the single-device model. Attention and MLP are sharded apart,
not decoder layer by layer, because the wiring calls them apart.

    DDP        replicas only
    FSDP2      shards only
    HSDP       both: shards inside a node, replicas across
    TP x FSDP  each of these, for slices of the model
"""

import math

import torch
import torch.distributed as dist
from torch.distributed.device_mesh import DeviceMesh, init_device_mesh
from torch.distributed.fsdp import FSDPModule, MixedPrecisionPolicy, fully_shard
from torch.distributed.tensor import DTensor, Replicate, Shard

from ladder.errors import UserError
from ladder.model import slicing
from ladder.parallel.group import Group
from ladder.parallel.shard import check_tied, parallelize
from ladder.train.options import Options


def check(config, tp: int) -> None:
    """Refuse a model that cannot be trained over ``tp`` tensor-parallel ranks. config: of the model."""
    if tp == 1:
        return
    check_tied(config, tp)
    slicing.check_degree(config, tp)
    if config.rows().ends_apart:
        raise UserError(
            f"--tp-ranks {tp}: the ranks' streams end apart under wiring {config.wiring!r}, and its head cannot be "
            "sharded; drop --tp-ranks, which trains it over virtual ranks"
        )
    for key in ("attention_bias", "mlp_bias"):
        if getattr(config, key):
            raise UserError(f"--tp-ranks {tp}: one rank alone would train the biases of this model ({key}); drop it")


def distribute(model: torch.nn.Module, ranks: Group, options: Options) -> torch.nn.Module:
    """Put ``model`` on the ranks in place: slice, recompute, compile, shard (in this order, as torch's parts require).

    ``model.layout`` is the :class:`Layout`.
    """
    parameters = sum(p.numel() for p in model.parameters())
    check(model.config, ranks.tp)
    mesh = everyone = None
    if ranks.sharded:
        sizes = (ranks.size // options.shard, options.shard, ranks.tp)
        mesh = init_device_mesh(ranks.device.type, sizes, mesh_dim_names=("replicate", "shard", "tp"))
        # A slice is cut first and sharded then: in this order the parts of a tensor are simple to name.
        numbers = torch.arange(ranks.world_size).view(sizes).permute(2, 0, 1)
        everyone = DeviceMesh("cpu", numbers, mesh_dim_names=("tp", "replicate", "shard"))
    if ranks.tp > 1:
        parallelize(model, mesh["tp"])
    if options.activation_checkpointing:
        # renamed in transformers 5.2x, and to go under the old name in 6; neither defaults to the reentrant kind
        getattr(model, "activation_checkpointing_enable", model.gradient_checkpointing_enable)()
    if options.compile:
        compile_modules(model)
    if ranks.sharded:
        how = {"mesh": mesh["replicate", "shard"] if sizes[0] > 1 else mesh["shard"]}
        if options.precision == "bf16":
            how["mp_policy"] = MixedPrecisionPolicy(param_dtype=torch.bfloat16, reduce_dtype=torch.float32)
        for layer in model.model.layers:
            fully_shard(layer.self_attn, **how)
            fully_shard(layer.mlp, **how)
        fully_shard(model, **how)  # embeddings, norms and head; moves all of it to the device
    else:
        model.to(ranks.device)
    model.layout = Layout(parameters, ranks, mesh, everyone)
    return model


def compile_modules(model) -> None:
    """Attention and MLP of each layer; what lies between is the wiring's."""
    for layer in model.model.layers:
        layer.self_attn.compile()
        layer.mlp.compile()


class Layout:
    """What became of a model of ``parameters`` weights.

    mesh, everyone: of all ranks, None for a plain model; the latter is on the CPU, with tensor parallelism outermost.
    """

    def __init__(self, parameters: int, ranks: Group, mesh: DeviceMesh | None, everyone: DeviceMesh | None):
        self.parameters, self.ranks, self.mesh, self.everyone = parameters, ranks, mesh, everyone
        sizes, here = ((1, 1, 1), (0, 0, 0)) if everyone is None else (everyone.shape, everyone.get_coordinate())
        self._replicas, (self._tp, self._replica, _) = sizes[1], here

    def words(self, model, options: Options) -> str:
        """One line, read off the model as it is."""
        local_ = sum(local(p).numel() for p in model.parameters())
        parts = []
        if self.mesh is not None:
            dims = dict(zip(self.mesh.mesh_dim_names, self.mesh.shape, strict=True))
            groups = sum(isinstance(module, FSDPModule) for module in model.modules())
            parts.append(f"{kind(**dims)} on a mesh of {' x '.join(f'{size} {name}' for name, size in dims.items())}")
            parts.append(f"{groups} groups of parameters (each attention, each MLP, the rest)")
        parts.append("bf16 compute, fp32 weights and sums" if options.precision == "bf16" else "fp32")
        parts += ["attention and MLP compiled"] * options.compile
        parts += ["activations recomputed"] * options.activation_checkpointing
        share = f" {local_:,} of" if local_ != self.parameters else ""
        trained = sum(local(p).numel() for p in model.parameters() if p.requires_grad)
        frozen = f", of which {trained:,} are trained" if trained != local_ else ""
        return f"{self.ranks.device.type}: {'; '.join(parts)};{share} {self.parameters:,} parameters on a rank{frozen}"

    def cut(self, name: str) -> int | None:
        """The dimension in which tensor-parallel ranks split the parameter called so, None if each holds all of it."""
        if self.ranks.tp == 1:
            return None
        return {"colwise": 0, "rowwise": 1, None: None}[slicing.style(name.rpartition(".")[0])]

    def writes(self, name: str, number: int) -> bool:
        """Whether this rank writes its part of a tensor, the ``number``-th: those who hold the same take turns."""
        mine, holders = self._replica, self._replicas
        if self.cut(name) is None:
            mine, holders = mine * self.ranks.tp + self._tp, holders * self.ranks.tp
        return number % holders == mine

    def part(self, name: str, like: torch.Tensor, value: torch.Tensor) -> torch.Tensor:
        """``value`` on the CPU, this rank's part of a tensor like the parameter called so, as a part of the whole."""
        if self.mesh is None:
            return value
        cut, shape = self.cut(name), list(like.shape)
        if cut is not None:
            shape[cut] *= self.ranks.tp
        placements = [Replicate() if cut is None else Shard(cut), Replicate(), Shard(0)]
        stride = tuple(math.prod(shape[n + 1 :]) for n in range(len(shape)))
        return DTensor.from_local(value, self.everyone, placements, shape=torch.Size(shape), stride=stride)

    def clip(self, model, most: float) -> float:
        """Scale the gradients to a norm of ``most`` if it is larger; return what it was, over all ranks."""
        parameters = dict(model.named_parameters())
        if self.ranks.tp == 1:
            return full_tensor(torch.nn.utils.clip_grad_norm_(parameters.values(), most)).item()
        gradients = {name: p.grad for name, p in parameters.items() if p.grad is not None}
        mine, shared = (
            full_tensor(
                torch.nn.utils.get_total_norm([g for n, g in gradients.items() if (self.cut(n) is None) == same])
            )
            for same in (False, True)
        )
        squares = mine.square()
        dist.all_reduce(squares, group=self.mesh["tp"].get_group())
        norm = (squares + shared.square()).sqrt()
        torch.nn.utils.clip_grads_with_norm_(parameters.values(), most, norm)
        return norm.item()

    @torch.no_grad()
    def gathered(self, model, keep: bool = True) -> dict[str, torch.Tensor]:
        """The whole weights on the CPU, one after the other; nothing where not ``keep``. All ranks call it together."""
        found = {}
        for name, parameter in model.state_dict().items():  # buffers that are saved too
            value, cut = full_tensor(parameter), self.cut(name)
            if cut is not None:
                parts = [torch.empty_like(value) for _ in range(self.ranks.tp)]
                dist.all_gather(parts, value.contiguous(), group=self.mesh["tp"].get_group())
                value = torch.cat(parts, cut)
            if keep:
                found[name] = value.detach().cpu()
        return found


def kind(replicate: int, shard: int, tp: int) -> str:
    """What the world calls a mesh."""
    data = "HSDP" if min(replicate, shard) > 1 else "FSDP2" if shard > 1 else "DDP" if replicate > 1 else ""
    return " x ".join(filter(None, ("TP" if tp > 1 else "", data))) or "one rank"


def local(tensor: torch.Tensor) -> torch.Tensor:
    return tensor.to_local() if isinstance(tensor, DTensor) else tensor


def full_tensor(tensor: torch.Tensor) -> torch.Tensor:
    return tensor.full_tensor() if isinstance(tensor, DTensor) else tensor
