"""Files and uploads through OpenAI's own client."""

import hashlib
import http.client
import json
import socket
import time
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from urllib.parse import urlsplit

import httpx
import openai
import pytest

pytestmark = pytest.mark.integration

ROWS = b"".join(
    json.dumps(
        {"messages": [{"role": "user", "content": f"{n}+1?"}, {"role": "assistant", "content": str(n + 1)}]}
    ).encode()
    + b"\n"
    for n in range(50)
)


def client_of(stack, key: str | None = None) -> openai.OpenAI:
    return openai.OpenAI(base_url=f"{stack.url}/v1", api_key=key or stack.key, max_retries=0)


@pytest.fixture
def client(stack) -> Iterator[openai.OpenAI]:
    with client_of(stack) as made:
        yield made


def blobs_of(stack) -> list[str]:
    """Return the names of all content that is stored."""
    return sorted(path.name for path in (stack.blobs / "files").glob("*"))


def test_a_file_is_created_listed_read_and_deleted(stack, client) -> None:
    after: dict[str, object] = {"anchor": "created_at", "seconds": 3600}
    made = client.files.create(file=("train.jsonl", ROWS), purpose="fine-tune", expires_after=after)
    assert (made.object, made.bytes, made.filename, made.status) == (
        "file",
        len(ROWS),
        "train.jsonl",
        "processed",
    )
    assert made.expires_at == made.created_at + 3600
    assert client.files.wait_for_processing(made.id) == client.files.retrieve(made.id)
    assert client.files.content(made.id).read() == ROWS
    others = [client.files.create(file=("a", b"a"), purpose=purpose) for purpose in ("evals", "user_data")]
    listed = [file.id for file in client.files.list(limit=2)]  # several pages
    assert listed[:3] == [others[1].id, others[0].id, made.id]
    assert [file.id for file in client.files.list(purpose="evals")] == [others[0].id]
    assert list(client.files.list(purpose="fine-tune-results")) == []
    assert hashlib.sha256(ROWS).hexdigest() in blobs_of(stack)
    for file in (made, *others):
        assert client.files.delete(file.id).deleted
        with pytest.raises(openai.NotFoundError):
            client.files.retrieve(file.id)
    assert blobs_of(stack) == []


def test_a_file_comes_in_parts(stack, client, tmp_path) -> None:
    path = tmp_path / "train.jsonl"
    path.write_bytes(ROWS)
    done = client.uploads.upload_file_chunked(
        file=path,
        mime_type="application/jsonl",
        purpose="fine-tune",
        part_size=1000,
        md5=hashlib.md5(ROWS).hexdigest(),
    )
    assert done.status == "completed"
    assert client.files.content(done.file.id).read() == ROWS
    assert not list((stack.blobs / "file-parts").rglob("part_*"))
    client.files.delete(done.file.id)
    begun = client.uploads.create(bytes=10, filename="a", mime_type="text/plain", purpose="evals")
    client.uploads.parts.create(begun.id, data=b"12345")
    assert client.uploads.cancel(begun.id).status == "cancelled"
    with pytest.raises(openai.BadRequestError, match="is cancelled"):
        client.uploads.parts.create(begun.id, data=b"67890")


def test_bad_rows_are_refused_with_every_line(client) -> None:
    lines = ROWS.splitlines()
    lines[11] = b'{"messages": [{"content": "a"}, {"role": "assistant", "content": "b"}]}'
    lines[19] = b"not JSON"
    with pytest.raises(openai.BadRequestError) as refused:
        client.files.create(file=("a.jsonl", b"\n".join(lines)), purpose="fine-tune")
    error = refused.value
    assert (error.code, error.param) == ("invalid_jsonl", "file")
    body = error.body
    assert body["message"] == "Line 12: messages[0].role is missing"
    assert (body["line"], body["count"]) == (12, 2)
    assert [(each["line"], each["code"]) for each in body["errors"]] == [
        (12, "missing_field"),
        (20, "invalid_json"),
    ]


def test_a_user_s_fault_is_400_and_names_the_parameter(stack, client) -> None:
    for purpose, expires_after, param in (
        ("vision", openai.omit, "purpose"),
        ("evals", {"anchor": "created_at", "seconds": 1}, "expires_after.seconds"),
    ):
        with pytest.raises(openai.BadRequestError) as refused:
            client.files.create(file=("a", b"a"), purpose=purpose, expires_after=expires_after)
        assert refused.value.param == param
    headers = {"authorization": f"Bearer {stack.key}"}
    for answer in (
        httpx.post(f"{stack.url}/v1/files", headers=headers),
        httpx.post(f"{stack.url}/v1/files", headers=headers, json={"file": "a"}),
        httpx.post(f"{stack.url}/v1/files", headers=headers, data={"purpose": "evals"}),
        httpx.post(
            f"{stack.url}/v1/files", headers=headers, files={"file": ("a", b"")}, data={"purpose": "evals"}
        ),
        httpx.get(f"{stack.url}/v1/files", headers=headers, params={"limit": 0}),
        httpx.get(f"{stack.url}/v1/files", headers=headers, params={"purpose": "\0"}),
    ):
        assert answer.status_code == 400, answer.text
        assert answer.json()["error"]["type"] == "invalid_request_error"
    address = urlsplit(stack.url)
    connection = http.client.HTTPConnection(address.hostname, address.port, timeout=30)
    connection.putrequest("POST", "/v1/files")
    for name, value in {**headers, "content-length": str(1 << 40)}.items():
        connection.putheader(name, value)
    connection.endheaders()
    refused = connection.getresponse()
    assert (refused.status, json.loads(refused.read())["error"]["code"]) == (413, "too_large")
    connection.close()


def test_a_body_without_a_length_ends_where_its_tenant_s_room_ends(stack, client) -> None:
    room, largest = 20 << 30, 512 << 20
    begun = [
        client.uploads.create(bytes=largest - (place == 0), filename="a", mime_type="", purpose="evals").id
        for place in range(room // largest)
    ]
    address = urlsplit(stack.url)
    head = (
        f"POST /v1/files HTTP/1.1\r\nhost: a\r\nauthorization: Bearer {stack.key}\r\n"
        "content-type: multipart/form-data; boundary=b\r\ntransfer-encoding: chunked\r\n\r\n"
    )
    part = b'--b\r\ncontent-disposition: form-data; name="file"; filename="a"\r\n\r\nab'
    with socket.create_connection((address.hostname, address.port), timeout=60) as sent:
        sent.sendall(head.encode() + b"%x\r\n%s\r\n" % (len(part), part))  # and no end of the body
        answer = http.client.HTTPResponse(sent)
        answer.begin()
        assert (answer.status, json.loads(answer.read())["error"]["code"]) == (400, "files_full")
    for upload_id in begun:
        client.uploads.cancel(upload_id)


def test_other_tenants_neither_see_nor_touch_a_file(stack, client) -> None:
    made = client.files.create(file=("a.jsonl", ROWS), purpose="fine-tune")
    begun = client.uploads.create(bytes=10, filename="a", mime_type="text/plain", purpose="evals")
    with client_of(stack, stack.other_key) as other:
        for call in (other.files.retrieve, other.files.delete, other.files.content):
            with pytest.raises(openai.NotFoundError):
                call(made.id)
        with pytest.raises(openai.NotFoundError):
            other.uploads.cancel(begun.id)
        with pytest.raises(openai.NotFoundError):
            other.uploads.parts.create(begun.id, data=b"a")
        assert list(other.files.list(after=made.id)) == list(other.files.list()) == []
        same = other.files.create(file=("b.jsonl", ROWS), purpose="fine-tune")
        assert blobs_of(stack) == [hashlib.sha256(ROWS).hexdigest()]
        client.files.delete(made.id)
        assert other.files.content(same.id).read() == ROWS
        other.files.delete(same.id)
    assert blobs_of(stack) == []
    client.uploads.cancel(begun.id)


@pytest.mark.parametrize("service", ["gateway", "rollout"])
def test_a_service_killed_in_the_middle_of_a_body_leaves_nothing(stack, client, service: str) -> None:
    address = urlsplit(stack.url)
    head = (
        f"POST /v1/files HTTP/1.1\r\nhost: a\r\nauthorization: Bearer {stack.key}\r\n"
        "content-type: multipart/form-data; boundary=b\r\ncontent-length: 9000000\r\n\r\n"
        '--b\r\ncontent-disposition: form-data; name="file"; filename="a"\r\n\r\n'
    )
    with socket.create_connection((address.hostname, address.port)) as sent:
        sent.sendall(head.encode() + b"x" * 4_000_000)
        spooled = _await_spooled(Path(stack.environ["TMPDIR"]), 3_000_000)
        stack.kill(service)
    stack.start(service)
    deadline = time.monotonic() + 60
    while spooled.exists() and time.monotonic() < deadline:
        time.sleep(0.05)
    assert not spooled.exists()
    assert list(client.files.list()) == []
    assert blobs_of(stack) == []
    made = client.files.create(file=("a.jsonl", ROWS), purpose="fine-tune")
    assert client.files.content(made.id).read() == ROWS
    client.files.delete(made.id)


def _await_spooled(folder: Path, size_bytes: int) -> Path:
    """Return the file in which that much of a body has arrived."""
    deadline = time.monotonic() + 120
    while time.monotonic() < deadline:
        for path in folder.glob("mint-spool-*/*"):
            with suppress(FileNotFoundError):
                if path.stat().st_size >= size_bytes:
                    return path
        time.sleep(0.02)
    raise AssertionError("the body did not arrive")
