"""A gateway with scripted jobs: the routes and the event stream that `mint track` reads."""

import json
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

KEY = "tml-test"
POLICY = {"policy_id": "pol_a", "name": "counter", "base": "tiny", "lora": {"rank": 8}}
BASE = {"name": "tiny", "digest": "sha256:" + "b" * 64}
SPEC = {
    "algorithm": "sft",
    "steps": 100,
    "learning_rate": 0.002,
    "data": {"training": {"file_id": "file-rows", "rows": 40}, "epochs": 3, "evaluation": None},
}


def digest(number: int) -> str:
    """Return the digest of a revision."""
    return f"sha256:{number:064x}"


class ScriptedGateway(ThreadingHTTPServer):
    """Jobs whose steps end when a test says so. ``log`` has all events; a stream starts after its cursor."""

    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.jobs: dict[str, dict[str, Any]] = {}
        self.revisions: list[dict[str, Any]] = []
        self.scores: list[dict[str, Any]] = []
        self.aliases: dict[str, int] = {}
        self.log: list[dict[str, Any]] = []
        self.kept_from = 0

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_port}"

    def emit(self, kind: str, **data: Any) -> None:
        event = {"id": f"evt_{len(self.log)}", "type": kind, "version": 1, "cause": "", "time": time.time()}
        self.log.append({**event, "data": {"tenant_id": "default", "policy_id": "pol_a", **data}})

    def start(self, job_id: str, **more: Any) -> None:
        """Start a job."""
        self.jobs[job_id] = {
            "job_id": job_id,
            "policy_id": "pol_a",
            "policy": "counter",
            "base": "tiny",
            "state": "running",
            "spec": SPEC,
            "created_at": time.time(),
            "started_at": time.time(),
            "finished_at": None,
            "result": None,
            "fine_tuning": None,
            "steps": [],
            **more,
        }
        self.emit("job.submitted", job_id=job_id)

    def step(self, job_id: str, **measured: float) -> None:
        """End a step of a job: its revision is published."""
        steps, number = self.jobs[job_id]["steps"], len(self.revisions) + 1
        parent = digest(number - 1) if number > 1 else None
        revision = {"number": number, "digest": digest(number), "parent": parent, "job_id": job_id}
        self.revisions.append(revision)
        step = len(steps) + 1
        steps.append(
            {
                "step": step,
                "state": "published",
                "loss": 1.0 / step,
                "learning_rate": 0.002,
                **measured,
                "sampled": parent,
                "revision": {"number": number, "digest": digest(number)},
                "published_at": time.time(),
            }
        )
        self.emit("revision.published", job_id=job_id, revision=steps[-1]["revision"])

    def end(self, job_id: str, state: str = "succeeded") -> None:
        """End a job."""
        result = self.jobs[job_id]["steps"][-1]["revision"]
        self.jobs[job_id] |= {"state": state, "finished_at": time.time(), "result": result}
        self.emit("job.finished", job_id=job_id)

    def score(self, number: int, suite: str, metric: str, value: float) -> None:
        """Record a score of a revision."""
        score = {"number": number, "suite": suite, "metric": metric, "value": value}
        told = {
            "evaluation_id": f"evl_{len(self.scores)}",
            "created_at": time.time(),
            "digest": digest(number),
        }
        self.scores.append({**score, **told})
        self.emit("evaluation.recorded", digest=digest(number))

    def move(self, alias: str, number: int) -> None:
        """Point an alias at a revision."""
        self.aliases[alias] = number
        self.emit("alias.moved", alias=alias, revision={"number": number, "digest": digest(number)})

    def answer(self, path: str) -> Any:
        """Return the answer of a route, None: 404."""
        found = {
            "/jobs": [{**job, "steps": []} for job in reversed(self.jobs.values())],
            "/bases/tiny": BASE,
            "/policies/pol_a": POLICY,
            "/policies/counter": POLICY,
            "/policies/pol_a/revisions": self.revisions,
            "/policies/pol_a/evaluations": self.scores,
            "/policies/pol_a/aliases": [
                {"alias": alias, "revision": {"number": number, "digest": digest(number)}}
                for alias, number in self.aliases.items()
            ],
            **{f"/policies/pol_a/revisions/{each['digest']}": each for each in self.revisions},
            **{f"/jobs/{job_id}": job for job_id, job in self.jobs.items()},
        }
        return found.get(path)


class _Handler(BaseHTTPRequestHandler):
    server: ScriptedGateway

    def do_GET(self) -> None:
        path, _, query = self.path.removeprefix("/mint/v1").partition("?")
        if self.headers["authorization"] != f"Bearer {KEY}":
            self._send(401, {"error": {"code": "unauthorized", "message": "The API key is refused."}})
        elif path == "/events":
            self._stream()
        elif (answer := self.server.answer(path)) is None:
            error = {"code": "not_found", "message": "No such thing.", "kind": "thing", "name": path}
            self._send(404, {"error": error})
        else:
            is_next_page = isinstance(answer, list) and "after=" in query
            self._send(200, _after(answer, query) if is_next_page else answer)

    def _stream(self) -> None:
        begin = self.headers["last-event-id"]
        at = len(self.server.log) if begin is None else int(begin)
        if at < self.server.kept_from:
            error = {"code": "events_expired", "message": "Not all events are stored.", "place": begin}
            self._send(410, {"error": error})
            return
        self.send_response(200)
        self.end_headers()
        try:
            self.wfile.write(b"id: %d\n\n" % at)
            while True:
                for event in self.server.log[at:]:
                    at += 1
                    self.wfile.write(b"id: %d\ndata: %s\n\n" % (at, json.dumps(event).encode()))
                self.wfile.flush()
                time.sleep(0.3)
                self.wfile.write(b": heartbeat\n\n")
        except OSError:
            return

    def _send(self, status: int, answer: Any) -> None:
        body = json.dumps(answer).encode()
        self.send_response(status)
        self.send_header("content-length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_: object) -> None:
        """Say nothing."""


def _after(answer: list[dict[str, Any]], query: str) -> list[dict[str, Any]]:
    last = next(part.removeprefix("after=") for part in query.split("&") if part.startswith("after="))
    names = [str(each.get("evaluation_id", each.get("number"))) for each in answer]
    return answer[names.index(last) + 1 :]


@contextmanager
def scripted_gateway() -> Iterator[ScriptedGateway]:
    """Serve a gateway in a thread."""
    with ScriptedGateway() as gateway:
        thread = threading.Thread(target=gateway.serve_forever, daemon=True)
        thread.start()
        yield gateway
        gateway.shutdown()
        thread.join()
