"""Whose alias is pointed at a job's result, and when it stays where it is."""

from dataclasses import replace

import pytest

from mint_common.authority import Authority, Caller
from mint_common.catalog import AliasRecord, KeyRecord, Scope
from mint_common.claims import Claim, RevisionRef
from mint_common.errors import AliasProtected, InvalidField
from services.rollout.core.fine_tuning.answers import job_answer
from services.rollout.core.fine_tuning.events import job_events
from services.rollout.core.fine_tuning.plan import JobFiles
from services.rollout.core.fine_tuning.promotions import (
    check_alias,
    plan_promotion,
    promoter_of,
    why_not_allowed,
    why_not_promoted,
)
from services.rollout.core.fine_tuning.records import Promotion
from services.rollout.core.job import Job, JobState
from tests.unit.rollout.fine_tuning.making import (
    TENANT,
    body,
    file,
    plan,
    progress,
    revision,
    step,
    submitted,
)

FILES = JobFiles(training=file(rows=16), validation=file(name="valid", rows=4))
RESULT = revision(2, "sha256:2")
MEASURED = step(2, led_to=RESULT, valid_loss=0.75)
SUCCEEDED = {"state": JobState.SUCCEEDED, "finished_at": 9.0, "result": RESULT}


def by(scope: Scope) -> Caller:
    return Caller(
        authority=Authority(tenant_id=TENANT, key_id="key_a", scopes=frozenset({scope})), name="ann"
    )


def asked(wish: object, *, scope: Scope = "train", is_measured: bool = True) -> Promotion:
    """Return what becomes of a request to promote."""
    fields = {"validation_file": "file-valid"} if is_measured else {}
    wanted = body(**fields, mint={"promote": wish})
    planned = plan(wanted, files=FILES if is_measured else None)
    found = plan_promotion(wanted, planned.spec.data.evaluation, by(scope))
    assert found is not None
    return found


def job_with(promotion: Promotion) -> Job:
    made = submitted(plan(body(validation_file="file-valid"), files=FILES))
    return replace(made, fine_tuning=replace(made.fine_tuning, promote=promotion))


def test_a_job_promotes_only_if_it_is_asked_to() -> None:
    assert plan_promotion(body(), None, by("admin")) is None
    found = asked({"alias": "prod"}, is_measured=False)
    assert (found.alias, found.asked_by, found.is_admin, found.state) == ("prod", "ann", False, "open")
    assert asked({"alias": "prod"}, scope="admin").is_admin


@pytest.mark.parametrize(
    ("wish", "is_measured", "field"),
    [
        ({"alias": "Prod"}, True, "alias"),
        ({"alias": "7"}, True, "alias"),
        ({"alias": "a/b"}, True, "alias"),
        ({"alias": "prod", "at_least": 0.5}, True, "at_least"),
        ({"alias": "prod", "at_most": 0.5}, False, "at_most"),
    ],
)
def test_what_could_not_be_promoted_is_refused_by_its_field(
    wish: object, is_measured: bool, field: str
) -> None:
    with pytest.raises(InvalidField) as refused:
        asked(wish, is_measured=is_measured)
    assert refused.value.field == f"mint.promote.{field}"


def alias(*, protected: bool = False, frozen: bool = False) -> AliasRecord:
    manifest = Claim(uri="m", sha256="0" * 64, size_bytes=1)
    ref = RevisionRef(digest="sha256:1", number=1, manifest=manifest)
    return AliasRecord(
        alias="prod", revision=ref, sequence=1, history=(), protected=protected, frozen=frozen, moved_by=()
    )


def test_an_alias_is_not_promised_to_a_key_that_may_not_move_it() -> None:
    check_alias(alias(), asked({"alias": "prod"}))
    check_alias(alias(protected=True), asked({"alias": "prod"}, scope="admin"))
    with pytest.raises(AliasProtected):
        check_alias(alias(protected=True), asked({"alias": "prod"}))
    with pytest.raises(InvalidField, match="frozen"):
        check_alias(alias(frozen=True), asked({"alias": "prod"}, scope="admin"))


def test_a_job_moves_the_alias_in_its_own_name_with_its_key_s_authority() -> None:
    for scope in ("train", "admin"):
        promotion = asked({"alias": "prod"}, scope=scope)
        job = job_with(promotion)
        found = promoter_of(job, promotion, key(scope))
        assert (found.actor, found.tenant_id) == (f"job:{job.job_id}", TENANT)
        assert found.is_admin is (scope == "admin")
        assert not promoter_of(job, promotion, key("train")).is_admin


def key(*scopes: Scope, revoked_at: float | None = None) -> KeyRecord:
    return KeyRecord(
        key_id="key_a",
        tenant_id=TENANT,
        name="ann",
        shown="tml-a",
        scopes=scopes,
        created_at=1.0,
        last_used_at=None,
        revoked_at=revoked_at,
    )


def test_a_key_that_is_revoked_or_may_not_train_moves_no_alias() -> None:
    promotion = asked({"alias": "prod"}, scope="admin")
    assert promotion.key_id == "key_a"
    assert [why_not_allowed(promotion, key(scope)) for scope in ("train", "admin")] == ["", ""]
    assert "was revoked" in why_not_allowed(promotion, key("admin", revoked_at=2.0))
    assert "has no longer the scope 'train'" in why_not_allowed(promotion, key("read"))


@pytest.mark.parametrize(
    ("limit", "of_job", "waves", "why"),
    [
        ({}, {}, (MEASURED,), ""),
        ({"at_most": 0.75}, {}, (MEASURED,), ""),
        ({"at_most": 0.7}, {}, (MEASURED,), "valid_loss of revision 2 is 0.75, and must be at most 0.7"),
        ({"at_most": 0.7}, {}, (), "valid_loss of revision 2 is not known, and must be"),
        ({}, {"state": JobState.FAILED, "result": None}, (MEASURED,), "the job ended as failed"),
        ({}, {"state": JobState.CANCELLED, "result": None}, (MEASURED,), "the job ended as cancelled"),
    ],
)
def test_only_a_good_enough_result_is_promoted(limit: dict, of_job: dict, waves: tuple, why: str) -> None:
    promotion = asked({"alias": "prod", **limit})
    ended = progress(job_with(promotion), *waves, of_job={**SUCCEEDED, **of_job})
    found = why_not_promoted(ended, promotion)
    assert found == why if not why else found.startswith(why)


@pytest.mark.parametrize(
    ("problem", "told"),
    [
        ("", ("moved", "info", "Alias prod was pointed at tiny-mine@2")),
        ("it is frozen", ("not_moved", "warn", "Alias prod was not moved: it is frozen")),
    ],
)
def test_a_job_tells_what_came_of_its_promotion(problem: str, told: tuple[str, str, str]) -> None:
    promotion = asked({"alias": "prod"})
    waiting = progress(job_with(promotion), MEASURED, of_job=SUCCEEDED)
    assert job_answer(waiting, at=9.0)["mint"]["promote"]["state"] == "open"
    assert next(job_events(waiting))["message"] == "The job has successfully completed"
    ended = job_with(replace(promotion, ended_at=10.0, problem=problem))
    told_of = progress(ended, MEASURED, of_job=SUCCEEDED)
    answer = job_answer(told_of, at=11.0)["mint"]["promote"]
    event = next(job_events(told_of))
    assert (answer["state"], event["level"], event["message"]) == told
    assert (answer["problem"], event["created_at"]) == (problem or None, 10)
