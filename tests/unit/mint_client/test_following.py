"""Following a job while its gateway restarts, and when it does not come back."""

import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import pytest

from mint_client import cli
from mint_client.adapters.public_api import PublicApi
from mint_client.commands.jobs import watch_job
from mint_client.views import job as views
from services.standalone.adapters.launch import free_port
from tests.unit.mint_client.test_training import job_of


@contextmanager
def gateway(port: int, state: str, **changes: Any) -> Iterator[None]:
    """Answer that a job is in a state."""

    class Answers(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            body = json.dumps(
                [] if self.path.endswith("/adapters") else job_of(state=state, **changes)
            ).encode()
            self.send_response(200)
            self.send_header("content-length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *_: object) -> None:
            """Print nothing."""

    server = ThreadingHTTPServer(("127.0.0.1", port), Answers)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    try:
        yield
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


@pytest.fixture
def port(monkeypatch: pytest.MonkeyPatch) -> int:
    monkeypatch.setattr(views, "POLL_SECONDS", 0.01)
    return free_port()


def test_a_job_is_followed_through_a_restart_of_the_gateway(port: int) -> None:
    url, notes = f"http://127.0.0.1:{port}", list[str]()
    seen = threading.Event()
    with PublicApi(url, "key") as api:
        ended: list[views.JobNow] = []

        def follow() -> None:
            ended.append(views.follow_job(api, "job_1", lambda job, adapters: seen.set(), notes.append))

        with gateway(port, "running"):
            watcher = threading.Thread(target=follow)
            watcher.start()
            assert seen.wait(10)
        while not notes:
            watcher.join(0.01)
        with gateway(port, "succeeded"):
            watcher.join(30)
    assert [job.state for job in ended] == ["succeeded"]
    assert len(notes) == 1
    assert "the job goes on" in notes[0]


def test_a_promotion_is_followed_through_a_restart_of_the_gateway(port: int) -> None:
    def promoted(**told: Any) -> dict[str, Any]:
        return {"method": "supervised", "promote": {"alias": "prod", **told}}

    notes: list[str] = []
    ended: list[views.JobNow] = []
    pending = views.read_job(job_of(state="succeeded", fine_tuning=promoted()))
    with PublicApi(f"http://127.0.0.1:{port}", "key") as api:
        watcher = threading.Thread(
            target=lambda: ended.append(views.follow_promotion(api, pending, notes.append))
        )
        watcher.start()
        while not notes:
            watcher.join(0.01)
        with gateway(port, "succeeded", fine_tuning=promoted(ended_at=1.0)):
            watcher.join(30)
    assert [job.promotion.ended_at for job in ended if job.promotion] == [1.0]
    assert len(notes) == 1


def test_a_gateway_that_stays_away_has_an_exit_code_of_its_own(
    port: int, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(views, "AWAY_SECONDS", 0.1)
    with PublicApi(f"http://127.0.0.1:{port}", "key") as api:
        monkeypatch.setattr(cli, "app", partial(watch_job, api, "job_1"))
        with pytest.raises(SystemExit) as ended:
            cli.main()
    assert ended.value.code == cli.LOST == 3
    assert "mint job show job_1 --watch" in capsys.readouterr().err
