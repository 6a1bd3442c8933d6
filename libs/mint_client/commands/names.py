"""Users' names: a revision by number, digest or alias; and suggestions for a wrong name."""

import difflib
from collections.abc import Mapping

from mint_client.adapters.public_api import PublicApi, path_of
from mint_client.commands.spelling import split_name
from mint_common.errors import NotFound
from mint_common.names import BEST, LATEST

LISTS = {
    "policy": ("/policies", "name"),
    "task": ("/tasks", "name"),
    "base": ("/bases", "name"),
    "webhook": ("/webhooks", "webhook_id"),
    "tenant": ("/tenants", "name"),
    "job": ("/jobs", "job_id"),
    "evaluation run": ("/evaluations/run", "run_id"),
    "rule": ("/policies/{policy}/rules", "rule_id"),
    "alias": ("/policies/{policy}/aliases", "alias"),
}
"""Route that lists the names of a kind, and the field that holds them."""
IDS = ("webhook", "job", "evaluation run", "rule")
"""Kinds with generated names: without a similar one, the error lists the first names."""
MAX_NEAR = 3
_DIGEST = "sha256:"
DIGEST_LENGTH = len(_DIGEST) + 64


def resolve_revision(api: PublicApi, policy: str, revision: str) -> int | str:
    """Return the number or digest of an alias, ``latest``, ``best``, or of a digest's beginning.

    Raises NotFound for an alias that is not there, and for a beginning of no digest or of several.
    """
    if revision.isdecimal():
        return int(revision)
    if revision.startswith(_DIGEST):
        return revision if len(revision) == DIGEST_LENGTH else _digest_like(api, policy, revision)
    if revision == LATEST:
        return _latest(api, policy)
    try:
        return str(api.get(path_of("policies", policy, "aliases", revision))["revision"]["digest"])
    except NotFound as error:
        if revision != BEST or error.kind != "alias":
            raise
    return int(api.get(path_of("policies", policy, "revisions", BEST))["number"])


def revision_path(api: PublicApi, name: str) -> str:
    """Return the path of the revision ``POLICY@REV``. Raises NotFound, InvalidField."""
    policy, revision = split_name(name)
    return path_of("policies", policy, "revisions", resolve_revision(api, policy, revision))


def digest_of(api: PublicApi, policy: str, revision: str) -> str:
    """Return the digest of a revision that is named in any of these ways. Raises NotFound."""
    found = api.get(path_of("policies", policy, "revisions", resolve_revision(api, policy, revision)))
    return str(found["digest"])


def _digest_like(api: PublicApi, policy: str, beginning: str) -> str:
    rows = api.rows(path_of("policies", policy, "revisions"), by="number")
    found = [row["digest"] for row in rows if row["digest"].startswith(beginning)]
    if len(found) != 1:
        raise NotFound(kind="revision", name=f"{policy}@{beginning}", near=", ".join(found[:MAX_NEAR]))
    return str(found[0])


def _latest(api: PublicApi, policy: str) -> int:
    latest = api.get(path_of("policies", policy))["latest"]
    if latest is None:
        raise NotFound(kind="revision", name=f"{policy}@{LATEST}")
    return int(latest["number"])


def with_near_names(error: NotFound, api: PublicApi, values: Mapping[str, object]) -> NotFound:
    """Return the error with the names that its user may have meant; ``values`` are the command's own."""
    if error.fields.get("near") or type(error) is not NotFound:
        return error
    name, kind = str(error.name), str(error.kind)
    if kind == "revision" and (policy := _policy_of(values)):
        return _with_latest(name, api, policy)
    names = _names_of(api, kind, values)
    near = difflib.get_close_matches(name, names, n=MAX_NEAR) or (names[:MAX_NEAR] if kind in IDS else [])
    return NotFound(**{**error.fields, "near": ", ".join(near)}) if near else error


def _with_latest(revision: str, api: PublicApi, policy: str) -> NotFound:
    latest = api.get(path_of("policies", policy))["latest"]
    name = revision if "@" in revision else f"{policy}@{revision}"
    near = f"{policy}@{latest['number']} (the latest)" if latest else ""
    return NotFound(kind="revision", name=name, near=near)


def _policy_of(values: Mapping[str, object]) -> str:
    return str(values.get("policy") or str(values.get("revision", "")).partition("@")[0])


def _names_of(api: PublicApi, kind: str, values: Mapping[str, object]) -> list[str]:
    if kind == "model":
        return [*_names_of(api, "policy", values), *_names_of(api, "base", values)]
    path, field = LISTS.get(kind, ("", ""))
    policy = _policy_of(values)
    if not path or ("{policy}" in path and not policy):
        return []
    return [row[field] for row in api.get(path.replace("/policies/{policy}", path_of("policies", policy)))]
