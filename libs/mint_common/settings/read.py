"""Read a service's settings from the environment, and describe them."""

import difflib
import math
import re
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple, TypeVar, get_origin

from pydantic import BaseModel, ValidationError
from pydantic.fields import FieldInfo

from mint_common.errors import SettingInvalid
from mint_common.settings.blocks import SHARED

S = TypeVar("S", bound=BaseModel)

_NEAR = 0.8
"""Minimum similarity of a known name that is suggested for a wrong one; common prefixes alone make names
fairly similar."""
FILE = "_FILE"
"""Suffix of a variable that holds the path of a file with the secret."""


class SettingDoc(NamedTuple):
    """One setting for ``--help`` and the docs; ``default`` None: it is required.

    A secret may also be in a file, whose path is in the variable's name with the suffix `_FILE`.
    """

    variable: str
    type: str
    default: str | None
    help: str
    is_secret: bool


class _Variable(NamedTuple):
    name: str
    block: str | None
    field: str
    info: FieldInfo

    @property
    def is_secret(self) -> bool:
        return not self.info.repr


def read_settings(cls: type[S], environ: Mapping[str, str], *, service: str) -> S:
    """Return the settings of a service from the environment. Raises SettingInvalid.

    Blocks of ``cls`` that are named in `SHARED` are read under ``MINT_<BLOCK>_``, and every other block or
    plain field under ``MINT_<SERVICE>_``. A secret is read from a file where ``NAME_FILE`` has its path;
    blank space around it does not count.
    """
    variables = _variables(cls, service)
    _refuse_unknown(environ, variables, service)
    environ = {**environ, **_secrets_of_files(variables, environ)}
    blocks: dict[str, object] = {}
    for name, info in cls.model_fields.items():
        block = _block_type(info)
        if block is not None:
            own = [v for v in variables if v.block == name]
            blocks[name] = _validate(block, own, environ, {})
    plain = [v for v in variables if v.block is None]
    return _validate(cls, plain, environ, blocks)


def describe_settings(cls: type[BaseModel], service: str) -> list[SettingDoc]:
    """Return every setting that a service reads, in reading order."""
    return [
        SettingDoc(
            variable=v.name,
            type=_type_name(v.info),
            default=None if v.info.is_required() else _default_text(v.info),
            help=v.info.description or "",
            is_secret=v.is_secret,
        )
        for v in _variables(cls, service)
    ]


def nearest(name: str, known: Sequence[str]) -> str:
    """Return the known name that was probably meant, or "" when all are too different."""
    longer = [candidate for candidate in known if candidate.startswith(name)]
    near = longer or difflib.get_close_matches(name, known, n=1, cutoff=_NEAR)
    return near[0] if near else ""


def _variables(cls: type[BaseModel], service: str) -> list[_Variable]:
    variables = list(_walk(cls, f"MINT_{service.upper()}_"))
    names = [v.name for v in variables]
    assert len(set(names)) == len(names), f"two settings of {cls.__name__} share a name: {sorted(names)}"
    return variables


def _walk(cls: type[BaseModel], own_prefix: str) -> Iterator[_Variable]:
    for name, info in cls.model_fields.items():
        block = _block_type(info)
        if block is None:
            yield _Variable(own_prefix + name.upper(), None, name, info)
            continue
        prefix = f"MINT_{name.upper()}_" if name in SHARED else own_prefix
        for field, field_info in block.model_fields.items():
            yield _Variable(prefix + field.upper(), name, field, field_info)


def _block_type(info: FieldInfo) -> type[BaseModel] | None:
    kind = info.annotation
    return kind if isinstance(kind, type) and issubclass(kind, BaseModel) else None


def _secrets_of_files(variables: list[_Variable], environ: Mapping[str, str]) -> dict[str, str]:
    found = {}
    for v in variables:
        named = environ.get(v.name + FILE, "") if v.is_secret else ""
        if not named:
            continue
        if environ.get(v.name):
            raise SettingInvalid(name=v.name + FILE, problem=f"is set, and so is {v.name}: set one of them")
        try:
            text = Path(named).read_text().strip()
        except (OSError, UnicodeDecodeError) as error:
            reason = error.strerror if isinstance(error, OSError) else "it is not text"
            raise SettingInvalid(name=v.name + FILE, problem=f"cannot read {named}: {reason}") from error
        if not text:
            raise SettingInvalid(name=v.name + FILE, problem=f"{named} is empty")
        found[v.name] = text
    return found


def _refuse_unknown(environ: Mapping[str, str], variables: list[_Variable], service: str) -> None:
    known = {v.name for v in variables} | {v.name + FILE for v in variables if v.is_secret}
    prefixes = [f"MINT_{service.upper()}_"]
    for name, block in SHARED.items():
        prefixes.append(f"MINT_{name.upper()}_")
        shared = {f"MINT_{name.upper()}_{field.upper()}": info for field, info in block.model_fields.items()}
        known.update(shared, (each + FILE for each, info in shared.items() if not info.repr))
    for name in sorted(environ):
        if name not in known and name.startswith(tuple(prefixes)):
            near = nearest(name, sorted(known))
            hint = f"; the nearest name is {near}" if near else ": docs/reference/settings.md lists all"
            raise SettingInvalid(name=name, problem=f"is not known{hint}")


def _validate(
    cls: type[S],
    variables: list[_Variable],
    environ: Mapping[str, str],
    blocks: Mapping[str, object],
) -> S:
    values = dict(blocks)
    for v in variables:
        text = environ.get(v.name, "")
        if text:
            values[v.field] = _split(text) if get_origin(v.info.annotation) is tuple else text
        elif v.info.is_required():
            raise SettingInvalid(name=v.name, problem=_missing(v, environ))
    try:
        settings = cls.model_validate(values)
    except ValidationError as error:
        raise _refusal(error, variables, environ) from None  # the cause would show secret values
    for v in variables:
        value = getattr(settings, v.field)
        if isinstance(value, float) and not math.isfinite(value):
            raise SettingInvalid(name=v.name, problem=f"must be finite; found {environ[v.name]!r}")
    return settings


def _refusal(
    error: ValidationError, variables: list[_Variable], environ: Mapping[str, str]
) -> SettingInvalid:
    first = error.errors(include_url=False, include_context=False, include_input=False)[0]
    problem = first["msg"].removeprefix("Value error, ")
    place = first["loc"][0] if first["loc"] else None
    for v in variables:
        if v.field == place:
            text = environ[v.name]
            found = repr(text) if not v.is_secret else f"a secret of {len(text)} characters"
            return SettingInvalid(name=v.name, problem=f"{problem}; found {found}")
    names = ", ".join(v.name for v in variables if environ.get(v.name))
    return SettingInvalid(name=names, problem=problem)


def _missing(variable: _Variable, environ: Mapping[str, str]) -> str:
    text = f"is required ({variable.info.description})" if variable.info.description else "is required"
    candidates = sorted(name for name in environ if name.startswith("MINT_") and name != variable.name)
    near = difflib.get_close_matches(variable.name, candidates, n=1, cutoff=0.85)
    return f"{text}; found {near[0]}: is that a misspelling?" if near else f"{text}; it is not set"


def _split(text: str) -> tuple[str, ...]:
    return tuple(part.strip() for part in text.split(",") if part.strip())


def _type_name(info: FieldInfo) -> str:
    kind = info.annotation
    if isinstance(kind, type) and get_origin(kind) is None:
        return kind.__name__
    return re.sub(r"(\w+\.)+", "", str(kind))  # without modules: that of Path differs by Python version


def _default_text(info: FieldInfo) -> str:
    default = info.get_default(call_default_factory=True)
    return ",".join(str(item) for item in default) if isinstance(default, tuple) else str(default)
