"""Model names that are a sampler checkpoint's path: ``tinker://RUN/sampler_weights/NAME``, ``BASE;PATH``."""

from dataclasses import dataclass

from mint_common.errors import InvalidField
from services.gateway.core.tinker.ids import CheckpointPath, parse_path
from services.gateway.core.tinker.lora import base_name


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelPath:
    """A path, and the base that a client says it is of; None when it says none."""

    path: CheckpointPath
    base: str | None


def parse_model_path(model: str) -> ModelPath | None:
    """Return the path that a model name is, None for a name of a policy or base. Raises InvalidField."""
    base, semicolon, text = model.rpartition(";")
    if not semicolon and "://" not in text:
        return None
    if semicolon and not base:
        raise InvalidField(field="model", problem="names no base before ';'")
    return ModelPath(path=parse_sampler_path("model", text), base=base_name(base) if semicolon else None)


def parse_sampler_path(field: str, text: str) -> CheckpointPath:
    """Return a path that can be sampled from. Raises InvalidField."""
    path = parse_path(field, text)
    if path.kind == "training":
        problem = "is a training checkpoint: only what save_weights_for_sampler saves can be sampled"
        raise InvalidField(field=field, problem=problem)
    return path


def check_base(named: ModelPath, *, base: str) -> None:
    """Refuse a path of another base than its name says. Raises InvalidField."""
    if named.base is not None and named.base != base:
        raise InvalidField(
            field="model", problem=f"says base {named.base[:100]!r}, but the path is of {base!r}"
        )
