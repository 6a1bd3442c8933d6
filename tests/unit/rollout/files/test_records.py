"""What files may be, and how their faults are told."""

from typing import get_args

import pytest
from openai.types import FileObject

from mint_common.api_errors import error_status
from mint_common.datasets.check import DatasetCheck
from mint_common.errors import InvalidField, NotFound, error_from_payload
from mint_common.ids import TenantId, new_id
from mint_common.job_errors import FilesFull, JobRefused
from services.gateway.http.files.routes import file_error_body
from services.rollout.core.files.answers import page_answer
from services.rollout.core.files.records import (
    PAGE_FILES,
    IdPrefix,
    PartRecord,
    UploadRecord,
    check_expiry,
    check_filename,
    check_id,
    check_listed_purpose,
    check_parts,
    check_purpose,
    created_at_of,
    new_file_id,
    page_size,
)
from services.rollout.core.files.refusals import dataset_refused


def upload(size_bytes: int) -> UploadRecord:
    return UploadRecord(
        upload_id="upload_a",
        tenant_id=TenantId("ten_a"),
        filename="a",
        purpose="fine-tune",
        size_bytes=size_bytes,
        mime_type="",
        expires_after_seconds=None,
        status="pending",
        created_at=0,
        expires_at=1,
        file_id=None,
    )


def part(name: str, size_bytes: int) -> PartRecord:
    return PartRecord(part_id=name, upload_id="upload_a", sha256="", size_bytes=size_bytes, created_at=0)


def test_ids_are_openai_s() -> None:
    assert check_id(IdPrefix.FILE, new_file_id(1)).startswith("file-")
    for kind in (IdPrefix.UPLOAD, IdPrefix.PART):
        assert check_id(kind, new_id(kind))
    for name in ("", "a" * 101, "a\0", "A", "../a", "a b"):
        with pytest.raises(NotFound):
            check_id(IdPrefix.FILE, name)


def test_an_id_of_a_file_tells_its_time() -> None:
    first, second = new_file_id(1_700_000_000_123_456), new_file_id(1_700_000_000_123_457)
    assert first < second
    assert created_at_of(first) == 1_700_000_000.123456
    for other in ("file-2q3vnj5o6pmewm2ht6yq4x7k5a", f"file-results-{'a' * 26}", "upload_a", first + "a"):
        assert created_at_of(other) is None


@pytest.mark.parametrize(
    ("anchor", "seconds", "field"),
    [
        ("last_active_at", 3600, "anchor"),
        (None, 3600, "anchor"),
        ("created_at", None, "seconds"),
        ("created_at", "3599", "seconds"),
        ("created_at", "2592001", "seconds"),
        ("created_at", "1e4", "seconds"),
        ("created_at", "٣٦٠٠", "seconds"),
    ],
)
def test_an_expiry_is_an_hour_to_30_days_after_creation(anchor, seconds, field) -> None:
    with pytest.raises(InvalidField) as refused:
        check_expiry(anchor, seconds)
    assert refused.value.field == f"expires_after.{field}"


def test_an_expiry_may_be_left_out() -> None:
    assert check_expiry(None, None) is None
    assert check_expiry("created_at", "3600") == check_expiry("created_at", 3600) == 3600


def test_purposes_and_names_are_checked() -> None:
    assert check_purpose("evals") == "evals"
    for purpose in ("", "vision", "fine-tune ", "\0"):
        with pytest.raises(InvalidField, match="it is one of fine-tune, evals, user_data"):
            check_purpose(purpose)
    for name in ("", "a\nb", "a\0", "a" * 256):
        with pytest.raises(InvalidField):
            check_filename(name)


def test_files_are_listed_by_any_purpose_of_openai_s() -> None:
    for purpose in get_args(FileObject.model_fields["purpose"].annotation):
        assert check_listed_purpose(purpose) == purpose
    with pytest.raises(InvalidField):
        check_listed_purpose("none")


def test_parts_make_a_file_in_the_order_asked_for() -> None:
    stored = [part("a", 1), part("b", 2), part("again", 2)]
    assert [each.part_id for each in check_parts(upload(3), ["b", "a"], stored)] == ["b", "a"]
    for asked, size in ((["a", "x"], 3), (["a", "a"], 2), (["a"], 3), ([], 3)):
        with pytest.raises(InvalidField) as refused:
            check_parts(upload(size), asked, stored)
        assert refused.value.field == "part_ids"


def test_bad_rows_are_told_by_line_in_openai_s_shape() -> None:
    check = DatasetCheck()
    check.feed(b'{"text": "a"}\n{"txt": "b"}\n[')
    error = error_from_payload(dataset_refused(check.finish()).to_payload())
    told = file_error_body(error)["error"]
    assert error_status(error) == 400
    assert told["message"].startswith("Line 2: no format has its keys ('txt')")
    assert (told["type"], told["param"], told["code"]) == ("invalid_request_error", "file", "invalid_jsonl")
    assert (told["line"], told["count"], [each["line"] for each in told["errors"]]) == (2, 2, [2, 3])
    assert error.to_payload()["errors"] == told["errors"]


def test_a_refused_job_keeps_its_code_between_services() -> None:
    refused = JobRefused(reason="file_not_found", field="training_file", problem="There is none.", line=3)
    error = error_from_payload(refused.to_payload())
    assert isinstance(error, JobRefused)
    assert (error.code, error.field, error.line, str(error)) == (
        "file_not_found",
        "training_file",
        3,
        "There is none.",
    )


def test_faults_name_the_parameter() -> None:
    for error, status, param in (
        (NotFound(kind="file", name="file-a"), 404, "file_id"),
        (InvalidField(field="md5", problem="differs"), 400, "md5"),
        (FilesFull(needed=2, what="bytes", limit=1), 400, None),
    ):
        assert (error_status(error), file_error_body(error)["error"]["param"]) == (status, param)


def test_a_page_says_whether_there_is_more() -> None:
    def show(name: str) -> dict[str, object]:
        return {"id": name}

    page = page_answer(["a", "b", "c"], show, limit=2)
    assert (page["first_id"], page["last_id"], page["has_more"]) == ("a", "b", True)
    assert page_answer([], show, limit=2)["last_id"] is None
    assert (page_size(10_000), page_size(2)) == (PAGE_FILES, 2)
