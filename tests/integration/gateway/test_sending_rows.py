"""A local file of rows on its way to a real gateway, as `mint train` sends it."""

import json
from collections.abc import Iterator
from pathlib import Path

import pytest

from mint_client.adapters import row_files
from mint_client.adapters.public_api import PublicApi
from mint_client.adapters.row_files import send_rows
from mint_client.core.refusals import RowsRefusedError
from mint_common.errors import Unavailable

pytestmark = pytest.mark.integration


@pytest.fixture
def api(stack) -> Iterator[PublicApi]:
    with PublicApi(stack.url, stack.key) as api:
        yield api
        for file in api.get_openai("/files")["data"]:
            api._ask("DELETE", f"{api.url}/v1/files/{file['id']}")


@pytest.fixture
def rows(tmp_path: Path) -> Path:
    path = tmp_path / "rows of ä.jsonl"
    path.write_text("".join(json.dumps({"text": f"row {n}"}) + "\n" for n in range(500)))
    return path


def content(api: PublicApi, file_id: str) -> bytes:
    return api._send("GET", f"{api.url}/v1/files/{file_id}/content").content


def test_a_file_is_sent_whole_and_only_once(api: PublicApi, rows: Path) -> None:
    told: list[tuple[int, int]] = []
    sent = send_rows(api, rows, lambda *both: told.append(both))
    size = rows.stat().st_size
    assert told[-1] == (size, size)
    assert content(api, sent.file_id) == rows.read_bytes()
    view = api.get(f"/files/{sent.file_id}")
    assert (view["filename"], view["rows"], sent.was_there) == (rows.name, 500, False)
    again = send_rows(api, rows, pytest.fail)
    assert (again.file_id, again.was_there) == (sent.file_id, True)
    rows.write_text(rows.read_text().replace("row 7", "ROW 7"))  # as many bytes
    assert not send_rows(api, rows, lambda *_: None).was_there


def test_a_large_file_is_sent_in_parts(api: PublicApi, rows: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(row_files, "PART_BYTES", 1000)
    told: list[tuple[int, int]] = []
    sent = send_rows(api, rows, lambda *both: told.append(both))
    assert content(api, sent.file_id) == rows.read_bytes()
    assert [done for done, _ in told] == sorted(done for done, _ in told)
    assert told[-1] == (rows.stat().st_size, rows.stat().st_size)


def test_bad_rows_are_refused_with_their_lines(
    api: PublicApi, rows: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    rows.write_text(rows.read_text() + '{"txt": ""}\n')
    for part_bytes in (row_files.PART_BYTES, 1000):
        monkeypatch.setattr(row_files, "PART_BYTES", part_bytes)
        with pytest.raises(RowsRefusedError) as refused:
            send_rows(api, rows, lambda *_: None)
        (problem,) = refused.value.problems
        assert (problem.line, problem.code) == (501, "unknown_format")


def test_an_upload_that_breaks_off_is_given_up(
    stack, api: PublicApi, rows: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(row_files, "PART_BYTES", 1000)

    def break_off(sent: int, _total: int) -> None:
        if sent > 2000:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        send_rows(api, rows, break_off)
    assert not list((stack.blobs / "file-parts").rglob("part_*"))


def test_who_answers_nothing_is_unavailable(rows: Path) -> None:
    with PublicApi("http://127.0.0.1:9", "tml-key") as nobody, pytest.raises(Unavailable):
        send_rows(nobody, rows, lambda *_: None)
