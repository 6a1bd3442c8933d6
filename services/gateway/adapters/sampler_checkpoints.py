"""Sampler checkpoints by their paths: the run's row, then its trainer, then the registry."""

from mint_common.catalog import Resolution
from mint_common.claims import RevisionRef
from mint_common.client.registry import RegistryClient
from mint_common.client.trainer import TrainerDirectory
from mint_common.errors import NotFound, RevisionLostError, RevisionQuarantinedError, RevisionRetiredError
from mint_common.ids import TenantId
from mint_common.training import CheckpointRecord, CheckpointRef
from services.gateway.core.tinker.ids import CheckpointPath, parse_model_id, policy_name_of
from services.gateway.core.tinker.model_paths import ModelPath, check_base, parse_model_path
from services.gateway.ports.tinker import TinkerRuns


class TrainedSamplerCheckpoints:
    """See `services.gateway.ports.tinker.SamplerCheckpoints`."""

    def __init__(self, runs: TinkerRuns, trainers: TrainerDirectory, registry: RegistryClient) -> None:
        self._runs = runs
        self._trainers = trainers
        self._registry = registry

    async def find(self, path: CheckpointPath, tenant_id: TenantId) -> tuple[CheckpointRecord, RevisionRef]:
        """Return a checkpoint, and the revision that it is."""
        record = await self._record(path, tenant_id)
        assert record.revision is not None, "a sampler checkpoint has a revision"
        found = await self._registry.get_revision(record.tenant_id, record.policy_id, record.revision)
        if found.state == "retired":
            raise RevisionRetiredError(number=found.number, name=str(path))
        if found.state == "quarantined":
            raise RevisionQuarantinedError(number=found.number, name=str(path))
        if found.fault is not None:
            raise RevisionLostError(number=found.number, name=str(path), fault=found.fault)
        return record, found.ref

    async def _record(self, path: CheckpointPath, tenant_id: TenantId) -> CheckpointRecord:
        missing = NotFound(kind="checkpoint", name=str(path))
        run = await self._runs.run(path.model_id)
        if run is None:
            raise missing
        trainer = await self._trainers.find(run.base)
        try:
            record = await trainer.checkpoint(
                CheckpointRef(policy_id=run.policy_id, kind="sampler", name=path.name)
            )
        except NotFound as error:
            raise missing from error
        if record.tenant_id != tenant_id and not record.is_public:
            raise missing
        return record


class NamesAndPaths:
    """What names mean to a resolver: those of the registry, and paths of sampler checkpoints."""

    def __init__(self, registry: RegistryClient, checkpoints: TrainedSamplerCheckpoints) -> None:
        self._registry = registry
        self._checkpoints = checkpoints

    async def resolve(self, tenant_id: TenantId, model: str) -> Resolution:
        """Return what a name means now. Raises NotFound, InvalidField, Unavailable."""
        named = parse_model_path(model)
        if named is None:
            return await self._registry.resolve(tenant_id, model)
        return await self._of_path(tenant_id, named)

    async def _of_path(self, tenant_id: TenantId, named: ModelPath) -> Resolution:
        record, revision = await self._checkpoints.find(named.path, tenant_id)
        check_base(named, base=record.base)
        return Resolution(
            base=record.base,
            policy_id=record.policy_id,
            policy_name=policy_name_of(*parse_model_id(named.path.model_id)),
            revision=revision,
        )
