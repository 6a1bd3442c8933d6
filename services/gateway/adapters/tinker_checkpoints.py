"""Checkpoints by path: from the run's row, its trainer and, for a sampler checkpoint, the registry."""

from contextlib import suppress

from mint_common.catalog import Resolution
from mint_common.claims import RevisionRef
from mint_common.client.registry import RegistryClient
from mint_common.client.trainer_directory import TrainerDirectory
from mint_common.errors import (
    InvalidField,
    NotFound,
    RevisionLostError,
    RevisionQuarantinedError,
    RevisionRetiredError,
)
from mint_common.ids import TenantId
from mint_common.training import CheckpointRecord, CheckpointRef
from services.gateway.adapters.tinker_postgres import PostgresTinkerRuns
from services.gateway.core.tinker.ids import CheckpointPath, parse_model_id, parse_model_path, policy_name_of
from services.gateway.core.tinker.lora import base_name
from services.gateway.core.tinker.records import TrainingRun


class TrainedCheckpoints:
    """Finds checkpoints of a tenant, and public ones. Raises NotFound for all others."""

    def __init__(
        self, runs: PostgresTinkerRuns, trainers: TrainerDirectory, registry: RegistryClient
    ) -> None:
        self._runs = runs
        self._trainers = trainers
        self._registry = registry

    async def find(
        self, path: CheckpointPath, tenant_id: TenantId, *, own: bool = False
    ) -> tuple[TrainingRun, CheckpointRecord]:
        """Return a checkpoint with its run; ``own``: only a tenant's own."""
        run = await self._runs.run(path.model_id)
        if run is not None:
            trainer = await self._trainers.find(run.base)
            with suppress(NotFound):
                record = await trainer.checkpoint(CheckpointRef(run.policy_id, path.kind, path.name))
                if record.tenant_id == tenant_id or (record.is_public and not own):
                    return run, record
        raise NotFound(kind="checkpoint", name=str(path))

    async def find_sampler(
        self, path: CheckpointPath, tenant_id: TenantId
    ) -> tuple[CheckpointRecord, RevisionRef]:
        """Return a sampler checkpoint with its revision. Raises an error if it cannot be served."""
        _, record = await self.find(path, tenant_id)
        assert record.revision is not None, "a sampler checkpoint has a revision"
        found = await self._registry.get_revision(record.tenant_id, record.policy_id, record.revision)
        if found.state == "retired":
            raise RevisionRetiredError(number=found.number, name=str(path))
        if found.state == "quarantined":
            raise RevisionQuarantinedError(number=found.number, name=str(path))
        if found.fault is not None:
            raise RevisionLostError(number=found.number, name=str(path), fault=found.fault)
        return record, found.ref


class NamesAndPaths:
    """Resolves names of the registry and paths of sampler checkpoints."""

    def __init__(self, registry: RegistryClient, checkpoints: TrainedCheckpoints) -> None:
        self._registry = registry
        self._checkpoints = checkpoints

    async def resolve(self, tenant_id: TenantId, model: str) -> Resolution:
        """Return what a name means now. Raises NotFound, InvalidField, Unavailable."""
        named = parse_model_path(model)
        if named is None:
            return await self._registry.resolve(tenant_id, model)
        path, base = named
        record, revision = await self._checkpoints.find_sampler(path, tenant_id)
        if base and base_name(base) != record.base:
            problem = f"says base {base[:100]!r}, but the path is of {record.base!r}"
            raise InvalidField(field="model", problem=problem)
        return Resolution(
            base=record.base,
            policy_id=record.policy_id,
            policy_name=policy_name_of(*parse_model_id(path.model_id)),
            revision=revision,
        )
