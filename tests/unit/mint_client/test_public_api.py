"""What the catalog's commands send, and how long they wait."""

import io
import json
import tarfile
import threading
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from mint_client.adapters.public_api import PublicApi
from mint_client.commands.api import open_api
from mint_client.core.refusals import AddressIncompleteError, StackNotRunningError
from mint_common.adapters_format import CONFIG_FILE, MANIFEST_FILE, WEIGHTS_FILE
from mint_common.errors import (
    EngineRestarting,
    InvalidField,
    MintError,
    NotFound,
    RequestRefused,
    SettingInvalid,
    Unauthorized,
    Unavailable,
)
from mint_common.names import MAX_LIMIT

SECONDS = 0.3


class SlowGateway(BaseHTTPRequestHandler):
    """Takes a body whole, and answers only when somebody who waited a short time has gone."""

    protocol_version = "HTTP/1.1"
    bodies: list[bytes]

    def do_GET(self) -> None:
        self._answer()

    def do_POST(self) -> None:
        body = b""
        while size := int(self.rfile.readline(), 16):
            body += self.rfile.read(size)
            self.rfile.readline()
        self.rfile.readline()
        self.bodies.append(body)
        self._answer()

    def _answer(self) -> None:
        threading.Event().wait(3 * SECONDS)
        self.send_response(200)
        self.send_header("content-length", "2")
        self.end_headers()
        self.wfile.write(b"{}")

    def log_message(self, *_: object) -> None:
        """Say nothing."""


def answering(status: int, error: dict[str, object]) -> Callable[[SlowGateway], None]:
    """Return a handler that reads a request and answers with an error."""

    def answer(self: SlowGateway) -> None:
        self.rfile.read(int(self.headers.get("content-length", 0)))
        body = json.dumps({"error": error}).encode()
        self.send_response(status)
        self.send_header("content-length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    return answer


@pytest.fixture
def bodies(monkeypatch: pytest.MonkeyPatch) -> list[bytes]:
    monkeypatch.setattr(SlowGateway, "bodies", [], raising=False)
    return SlowGateway.bodies


@pytest.fixture
def api(bodies: list[bytes]) -> Iterator[PublicApi]:
    server = ThreadingHTTPServer(("127.0.0.1", 0), SlowGateway)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    with PublicApi(f"http://127.0.0.1:{server.server_port}", "tml-key", seconds=SECONDS) as api:
        yield api
    server.shutdown()
    thread.join()
    server.server_close()


def test_upload_is_waited_for_and_arrives_as_a_tar(
    api: PublicApi, bodies: list[bytes], tmp_path: Path
) -> None:
    files = {WEIGHTS_FILE: bytes(range(256)) * 9999, CONFIG_FILE: b"{}", MANIFEST_FILE: b""}
    for name, data in files.items():
        (tmp_path / name).write_bytes(data)
    told: list[tuple[int, int]] = []
    with pytest.raises(Unavailable):
        api.get("/policies")
    assert api.upload("/policies/p/revisions", tmp_path, {}, lambda *both: told.append(both)) == {}
    with tarfile.open(fileobj=io.BytesIO(bodies[0])) as archive:
        found = {member.name: archive.extractfile(member) for member in archive}
        assert {name: file.read() for name, file in found.items() if file} == files
    assert told == sorted(told)
    assert told[-1] == (len(files[WEIGHTS_FILE]) + 2,) * 2


def test_what_is_no_gateway_is_named(api: PublicApi, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(SlowGateway, "_answer", lambda self: self.send_error(404), raising=False)
    with pytest.raises(Unavailable, match=r"gateway at http://127\.0\.0\.1:\d+ .*no gateway of MinT"):
        api.get("/policies")
    with (
        PublicApi("http://127.0.0.1:9", "tml-key") as nobody,
        pytest.raises(Unavailable, match=r"127\.0\.0\.1:9 does not answer: \[Errno 111\]"),
    ):
        nobody.get("/policies")
    with (
        PublicApi("http://127.0.0.1:9", "tml-key", when_away="Wait.") as local,
        pytest.raises(Unavailable, match=r"does not answer: \[Errno 111\] .*\. Wait\.$"),
    ):
        local.get("/policies")


def test_an_unknown_key_is_told_with_where_it_was_sent(
    api: PublicApi, monkeypatch: pytest.MonkeyPatch
) -> None:
    error = {"code": "unauthorized", "message": "This API key is not known.", "retryable": False}
    monkeypatch.setattr(SlowGateway, "do_GET", answering(401, error))
    with pytest.raises(
        Unauthorized, match=r"^This API key is not known\. It was sent to http://127\.0\.0\.1:"
    ):
        api.get("/policies")


def test_a_refused_key_is_told_without_a_message_too(api: PublicApi, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(SlowGateway, "do_GET", answering(401, {"code": "unauthorized"}))
    with pytest.raises(Unauthorized, match=r"^The API key is refused\. It was sent to http://127\.0\.0\.1:"):
        api.get("/policies")


def test_a_gateway_that_is_slow_is_not_said_to_be_starting(bodies: list[bytes], api: PublicApi) -> None:
    with (
        PublicApi(api.url, "tml-key", seconds=SECONDS, when_away="It may still be starting.") as hasty,
        pytest.raises(Unavailable) as refused,
    ):
        hasty.get("/policies")
    assert "starting" not in str(refused.value)


def test_an_engine_that_restarts_is_told_in_a_sentence_by_the_openai_api_too(
    api: PublicApi, monkeypatch: pytest.MonkeyPatch
) -> None:
    body = b'{"error": {"message": "...", "type": "e", "param": null, "code": "engine_restarting"}}'

    def answer(self: SlowGateway) -> None:
        self.rfile.read(int(self.headers["content-length"]))
        self.send_response(503)
        self.send_header("retry-after", "7")
        self.send_header("content-length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    monkeypatch.setattr(SlowGateway, "do_POST", answer)
    with pytest.raises(EngineRestarting, match="try again in 7 s"):
        list(api.stream("counter", "14, 19, ", {}, chat=False))


@pytest.mark.parametrize(
    ("message", "told"),
    [
        ("No model named 'counter@2'.", NotFound),
        ("No policy named 'counter'.", NotFound),
        ("No model named 'counter@2'. GET /v1/models lists the models.", NotFound),
        ("No policy named 'counter'. There is: copier.", RequestRefused),
        ("Revision 2 of policy 'counter' is retired: restore it, or name another one.", RequestRefused),
    ],
)
def test_why_a_model_is_not_found_is_told_as_the_gateway_says_it(
    api: PublicApi, monkeypatch: pytest.MonkeyPatch, message: str, told: type[MintError]
) -> None:
    error = {"message": message, "type": "e", "param": "model", "code": "model_not_found"}
    monkeypatch.setattr(SlowGateway, "do_POST", answering(404, error))
    with pytest.raises(told) as refused:
        list(api.stream("counter@2", "14, 19, ", {}, chat=False))
    assert type(refused.value) is told
    assert str(refused.value) == message.removesuffix(" GET /v1/models lists the models.")


@pytest.mark.parametrize(
    ("url", "key", "kind"),
    [
        ("127.0.0.1:8321", "tml-key", SettingInvalid),
        ("http://127.0.0.1:8321/v1/", "tml-key", SettingInvalid),
        ("http://127.0.0.1:8321", "tml-é", SettingInvalid),
        ("http://127.0.0.1:8321", "", AddressIncompleteError),
        ("", "tml-key", AddressIncompleteError),
    ],
)
def test_address_that_cannot_be_one_is_refused(
    monkeypatch: pytest.MonkeyPatch, url: str, key: str, kind: type[MintError]
) -> None:
    monkeypatch.setenv("MINT_URL", url)
    monkeypatch.setenv("MINT_API_KEY", key)
    with pytest.raises(kind), open_api(None):
        pass


def test_a_folder_that_is_named_beats_the_environment(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("MINT_URL", "http://127.0.0.1:9")
    monkeypatch.setenv("MINT_API_KEY", "tml-key")
    with pytest.raises(StackNotRunningError, match=str(tmp_path)), open_api(tmp_path):
        pass
    with open_api(None) as api, pytest.raises(Unavailable, match=r"127\.0\.0\.1:9"):
        api.get("/policies")


def test_folder_without_weights_is_named(api: PublicApi, tmp_path: Path) -> None:
    with pytest.raises(NotFound, match=r"adapter_model\.safetensors"):
        api.upload("/policies/p/revisions", tmp_path, {}, lambda *_: None)


def test_a_number_that_json_lacks_is_refused_before_it_is_sent(api: PublicApi) -> None:
    with pytest.raises(InvalidField, match="not finite"):
        api.post("/policies/counter/evaluations", {"value": float("nan")})


def test_a_list_is_read_to_its_end_a_page_at_a_time(monkeypatch: pytest.MonkeyPatch) -> None:
    """The cursor is the last row's field, and a page that is not full is the last."""
    names = list(range(2 * MAX_LIMIT + 5))
    asked: list[object] = []

    def page(_api: PublicApi, _path: str, params: dict[str, object]) -> list[dict[str, int]]:
        asked.append(params["after"])
        begin = 0 if params["after"] is None else names.index(int(str(params["after"]))) + 1
        return [{"id": name} for name in names[begin : begin + MAX_LIMIT]]

    monkeypatch.setattr(PublicApi, "get", page)
    rows = PublicApi("http://127.0.0.1:9", "key").rows("/rows", by="id")
    assert [row["id"] for row in rows] == names
    assert asked == [None, MAX_LIMIT - 1, 2 * MAX_LIMIT - 1]
