"""Settings of the trainer, read once from the environment."""

from collections.abc import Mapping
from pathlib import Path
from typing import Literal, get_args

from pydantic import Field

from mint_common.adapters_format.names import DENSE, FUSED, PACKED
from mint_common.errors import SettingInvalid
from mint_common.settings import AlgorithmSettings, MemberSettings, RegistryPeer
from services.trainer.core.mismatch_rules import Mismatch
from services.trainer.core.placement import BaseDType, Checkpointing
from services.trainer.core.ranks import ProcessRank, Sharding

ExportLayout = Literal["packed", "peft-2d", "peft-3d"]
LAYOUTS: Mapping[ExportLayout, str] = {"packed": PACKED, "peft-2d": DENSE, "peft-3d": FUSED}


class TrainerSettings(MemberSettings):
    """A trainer has one base; ``MINT_TRAINER_BASE_DIR`` names its folder."""

    peers: RegistryPeer
    algorithms: AlgorithmSettings
    base_dir: Path = Field(description="folder of the base: Hugging Face files and mint_base.json")
    dtype: Literal["auto", BaseDType] = Field(
        "auto",
        description=(
            "dtype of the base's weights and activations; auto: float32 on the CPU, bfloat16 on a "
            "GPU; LoRA weights, logits and the optimizer are float32 in any case"
        ),
    )
    device: str = Field(
        "auto",
        pattern=r"^(auto|cpu|cuda(:[0-9]+)?)$",
        description="cpu, cuda or cuda:N; auto: a GPU where there is one, each of several ranks its own",
    )
    memory_share: float | None = Field(
        None,
        gt=0,
        le=1,
        description="share of its GPU's memory that a trainer may take, where an engine uses the same GPU",
    )
    checkpointing: Checkpointing = Field(
        "auto",
        description="compute layers again in the backward pass: less memory, a quarter more time."
        " auto: on a GPU that cannot hold the activations of a whole context, and on a CPU for a sequence"
        " whose activations take more than 1 GiB",
    )
    threads: int = Field(1, ge=1, description="torch threads of a step; more than the idle cores is slower")
    resident_policies: int = Field(
        8, ge=1, description="policies ready to step (16 bytes per LoRA parameter each)"
    )
    host_policies: int = Field(
        32, ge=0, description="further policies in host memory (12 bytes per LoRA parameter each)"
    )
    batch_policies: int = Field(
        8,
        ge=1,
        description="policies stepped together when ready at once, at most resident_policies;"
        " 1 makes every step bitwise reproducible on a CPU, and on a GPU as far as torch has"
        " deterministic kernels",
    )
    batch_tokens: int = Field(
        8192,
        ge=1,
        description="tokens stepped together; a pass with more of them is computed by itself, in runs that"
        " others go between",
    )
    microbatch_tokens: int | None = Field(
        None,
        ge=1,
        description="padded tokens of one forward and backward; bounds the memory of a step."
        " Unset: 512, and of a small base as many as 256 MiB of activations hold, 4096 at most",
    )
    hold_seconds: float = Field(
        3.0, ge=0, description="time that an operation waits for the numbers before its own to arrive"
    )
    snapshot_seconds: float = Field(
        5.0,
        ge=0,
        description="a policy that is trained is copied to the blob store so often,"
        " 0: after every step; what followed the last copy is computed again after a crash",
    )
    tenant_seconds_per_day: float = Field(
        0.0,
        ge=0,
        description="seconds of trainers that passes and steps of a tenant's clients may take on a day (UTC);"
        " 0: no limit",
    )
    lease_seconds: float = Field(
        10.0,
        ge=5,
        description="the other trainers of the base take over when this one has been silent for so long",
    )
    merges: int = Field(
        4,
        ge=0,
        description="downloads of merged weights at a time, each takes a process of its own, 60 MB and"
        " the adapter's size;"
        " 0: this base's weights are not given out",
    )
    export_layout: ExportLayout = Field(
        "packed",
        description=(
            "layout of a base's experts in exports: packed; peft-2d, a matrix each; peft-3d, as "
            "PEFT's target_parameters, at twice the rank where gate and up have an A each"
        ),
    )
    mismatch: Literal["auto", Mismatch] = Field(
        "auto",
        description="tokens of GRPO that trainer and sampler see differently: truncated bounds their weight"
        " (TIS), band leaves them out (IcePop), none trusts all; auto is band where attention is sparse,"
        " truncated where the trainer or a sampler of the wave computes in less than float32, else none",
    )
    ranks: int = Field(
        1, ge=1, description="processes that hold the base together; started here, unless torchrun has"
    )
    sharding: Sharding = Field(
        "none", description="part of the base that a rank holds; docs/operate/distributed.md says which fits"
    )
    rank_timeout_seconds: float = Field(
        300.0,
        ge=10,
        description="time limit of a rank that hangs or starts slowly; a dead one is noticed at once",
    )


def read_process_rank(environ: Mapping[str, str], settings: TrainerSettings) -> ProcessRank:
    """Return which of the ranks this process is. Raises SettingInvalid."""
    process = ProcessRank(count=settings.ranks)
    if "RANK" in environ and "WORLD_SIZE" in environ:
        rank, count = int(environ["RANK"]), int(environ["WORLD_SIZE"])
        process = ProcessRank(
            rank=rank, count=count, local=int(environ.get("LOCAL_RANK", rank)), launched=count > 1
        )
        if settings.ranks not in {1, count}:
            problem = f"{settings.ranks}, but {count} ranks were started (WORLD_SIZE)"
            raise SettingInvalid(name="MINT_TRAINER_RANKS", problem=problem)
    if (process.count > 1) != (settings.sharding != "none"):
        problem = (
            f"{process.count} ranks need one of {', '.join(get_args(Sharding)[1:])}"
            if process.count > 1
            else f"{settings.sharding} takes no effect on one rank: set MINT_TRAINER_RANKS"
        )
        raise SettingInvalid(name="MINT_TRAINER_SHARDING", problem=problem)
    return process
