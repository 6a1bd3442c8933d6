"""Expert parallel: each expert is on one rank; all ranks see all tokens."""

from torch import nn
from torch.distributed.device_mesh import DeviceMesh

from mint_common.errors import SettingInvalid
from services.trainer.adapters.distributed.crossings import entering, leaving
from services.trainer.adapters.lora.experts import LoraExperts
from services.trainer.adapters.lora.mixes import Share
from services.trainer.adapters.model.resident_base import ResidentBase
from services.trainer.core.ranks import own_range


def own_experts(base: ResidentBase, mesh: DeviceMesh) -> None:
    """Drop all experts but this rank's. Raises SettingInvalid.

    A rank computes the pairs of its experts, and the sum over ranks is the layer's output: no token is
    dropped, for any choice of the routers.
    """
    layers = [slot for slot in base.slots if isinstance(slot, LoraExperts)]
    if not layers:
        problem = f"expert needs a base with experts, {base.facts.architecture} has none"
        raise SettingInvalid(name="MINT_TRAINER_SHARDING", problem=problem)
    if any(slot.is_dense for slot in layers):
        problem = f"expert does not split {base.facts.architecture}: use fsdp or zero3"
        raise SettingInvalid(name="MINT_TRAINER_SHARDING", problem=problem)
    group = mesh.get_group()
    for slot in layers:
        own = own_range(slot.base.num_experts, rank=mesh.get_local_rank(), ranks=mesh.size())
        if not own:
            problem = f"{mesh.size()} ranks for {slot.base.num_experts} experts: some would own none"
            raise SettingInvalid(name="MINT_TRAINER_RANKS", problem=problem)
        for name, whole in list(slot.base.named_parameters()):  # weights and biases, all by expert
            kept = whole.detach()[own.start : own.stop].clone()
            setattr(slot.base, name, nn.Parameter(kept, requires_grad=False))
        slot.share = Share(experts=own, enter=entering(group), leave=leaving(group))
