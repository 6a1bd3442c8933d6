"""Tensor parallel: heads, widths of MLPs and the vocabulary are cut over the ranks, experts distributed.

The styles below replace torch's for modules with LoRA: one sum over the ranks per block serves
base and update alike. A column-cut module has its slice of B and a part of A's gradient, a row-cut one its
slice of A and a part of B's. Latent attention (MLA) is cut after its latents, which every rank computes
whole, because all heads read them.
"""

from typing import Any

from torch import Tensor, nn
from torch.distributed.device_mesh import DeviceMesh
from torch.distributed.tensor import Replicate
from torch.distributed.tensor.parallel import (
    ColwiseParallel,
    ParallelStyle,
    RowwiseParallel,
    parallelize_module,
)

from mint_common.adapters_format.names import leaf_of
from mint_common.errors import SettingInvalid
from services.trainer.adapters.distributed.crossings import entering, leaving
from services.trainer.adapters.distributed.expert_parallel import own_experts
from services.trainer.adapters.lora.mixes import Share
from services.trainer.adapters.lora.modules import LoraLinear
from services.trainer.adapters.model.resident_base import ResidentBase
from services.trainer.core.ranks import own_range

COLUMNS = frozenset({"q_proj", "k_proj", "v_proj", "q_b_proj", "kv_b_proj", "gate_proj", "up_proj"})
ROWS = frozenset({"o_proj", "down_proj"})
LATENTS = frozenset({"q_a_proj", "kv_a_proj_with_mqa"})


def cut_tensors(base: ResidentBase, mesh: DeviceMesh) -> None:
    """Cut every layer, the embedding and the head to this rank's slices. Raises SettingInvalid."""
    scores = base.target_scores
    check_cuttable(base, mesh.size())
    for layer in base.layers:
        parallelize_module(layer, mesh, _plan(layer))
    if base.facts.experts:
        own_experts(base, mesh)
    if base.facts.vocab_size % mesh.size() == 0:
        tied = scores.head.weight is scores.body.embed_tokens.weight
        embedding = {"embed_tokens": RowwiseParallel(input_layouts=Replicate())}
        parallelize_module(scores.body, mesh, embedding)
        parallelize_module(scores, mesh, {"head": ColwiseParallel(output_layouts=Replicate())})
        if tied:
            scores.head.weight = scores.body.embed_tokens.weight
    scores.requires_grad_(requires_grad=False)


def _plan(layer: nn.Module) -> dict[str, ParallelStyle]:
    """Return a style for each linear of a layer, and for modules whose input feeds cut ones directly."""
    paths = [path for path, module in layer.named_modules() if isinstance(module, LoraLinear)]
    latent = {_parent(path) for path in paths if leaf_of(path) in LATENTS}
    plan: dict[str, ParallelStyle] = {path: _Block() for path in map(_parent, paths) if path not in latent}
    for path in paths:
        if leaf_of(path) in LATENTS:
            plan[path] = _Latent()
        elif leaf_of(path) in ROWS:
            plan[path] = _Rows()
        else:
            # Beside latents there may be a q_proj that reads what the block reads.
            plan[path] = _Columns(enters=_parent(path) in latent and leaf_of(path) == "q_proj")
    return plan


def _parent(path: str) -> str:
    return path.rpartition(".")[0]


def check_cuttable(base: ResidentBase, ranks: int) -> None:
    """Raise SettingInvalid unless the base is of known attention and MLP, in sizes that can be cut."""
    facts = base.facts
    leaves = set(map(leaf_of, facts.modules))
    if not leaves <= COLUMNS | ROWS | LATENTS or (
        not leaves & LATENTS and any(map(_spans_heads, base.layers))
    ):
        problem = f"tensor does not cut {facts.architecture}: use expert, fsdp or zero3"
        raise SettingInvalid(name="MINT_TRAINER_SHARDING", problem=problem)
    config = base.target_scores.body.config
    sizes = [("attention heads", config.num_attention_heads)]
    if not leaves & LATENTS:
        sizes.append(("key and value heads", config.num_key_value_heads))
    widths = {out for name, (_, out) in facts.modules.items() if leaf_of(name) == "up_proj"}
    sizes += [("MLP columns", width) for width in sorted(widths)]
    for what, size in sizes:
        if size % ranks:
            problem = f"{ranks} ranks cannot share {size} {what} evenly"
            raise SettingInvalid(name="MINT_TRAINER_RANKS", problem=problem)


def _spans_heads(layer: nn.Module) -> bool:
    """Return whether a block that is cut has weights of all heads: sinks, or a norm wider than one head."""
    blocks = {_parent(path) for path, module in layer.named_modules() if isinstance(module, LoraLinear)}
    for block in map(layer.get_submodule, blocks):
        norms = [one for one in block.children() if not isinstance(one, LoraLinear)]
        widths = [len(weight) for norm in norms for weight in norm.parameters()]
        if [*block.parameters(recurse=False)] or any(width != block.head_dim for width in widths):
            return True
    return False


class _Block(ParallelStyle):  # type: ignore[misc]  # torch is untyped for mypy here
    """The input of attention or MLP, which every rank has whole."""

    def _apply(self, module: nn.Module, device_mesh: DeviceMesh) -> nn.Module:
        enter = entering(device_mesh.get_group())

        def hook(_: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:  # torch's hook
            if args:
                return (enter(args[0]), *args[1:]), kwargs
            return args, {**kwargs, "hidden_states": enter(kwargs["hidden_states"])}

        module.register_forward_pre_hook(hook, with_kwargs=True)
        return module


class _Latent(ParallelStyle):  # type: ignore[misc]  # as above
    """A linear that every rank computes whole, for the heads of all."""

    def _apply(self, module: LoraLinear, device_mesh: DeviceMesh) -> nn.Module:
        enter = entering(device_mesh.get_group())
        module.register_forward_hook(lambda _module, _args, latent: enter(latent))
        return module


class _Columns(ParallelStyle):  # type: ignore[misc]  # as above
    """A linear with some of its outputs; one that ``enters`` has no block before it."""

    def __init__(self, *, enters: bool) -> None:
        super().__init__()
        self._enters = enters

    def _apply(self, module: LoraLinear, device_mesh: DeviceMesh) -> nn.Module:
        linear = module.base
        own = _own_slice(linear.out_features, device_mesh)
        linear.weight = _kept(linear.weight[own], device_mesh)
        if linear.bias is not None:
            linear.bias = _kept(linear.bias[own], device_mesh)
        module.share = Share(outputs=own)
        if self._enters:
            module.share = Share(outputs=own, enter=entering(device_mesh.get_group()))
        return module


class _Rows(ParallelStyle):  # type: ignore[misc]  # as above
    """A linear that reads some of its inputs; the sum over the ranks is its output."""

    def _apply(self, module: LoraLinear, device_mesh: DeviceMesh) -> nn.Module:
        linear = module.base
        own = _own_slice(linear.in_features, device_mesh)
        linear.weight = _kept(linear.weight[:, own], device_mesh)
        if linear.bias is not None and device_mesh.get_local_rank():
            linear.bias = None  # added once
        module.share = Share(inputs=own, leave=leaving(device_mesh.get_group()))
        return module


def _own_slice(size: int, mesh: DeviceMesh) -> slice:
    own = own_range(size, rank=mesh.get_local_rank(), ranks=mesh.size())
    return slice(own.start, own.stop)


def _kept(piece: Tensor, mesh: DeviceMesh) -> nn.Parameter:
    """Return a copy of a piece, so that the whole can be freed."""
    return nn.Parameter(piece.detach().clone().to(mesh.device_type), requires_grad=False)
