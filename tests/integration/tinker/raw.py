"""The Tinker API without its client: one session and one training run, in the words of the wire."""

import itertools
from dataclasses import dataclass, field

import httpx
from tinker.proto.request_conv import forward_backward_request_to_proto
from tinker.types import ForwardBackwardInput, ForwardBackwardRequest

SDK = {"x-stainless-package-version": "0.38.0"}
PROTOBUF = {"content-type": "application/x-protobuf"}


@dataclass(kw_only=True)
class RawRun:
    """A training run; ``seq`` counts its operations."""

    api: httpx.Client
    session_id: str
    model_id: str
    seq: itertools.count = field(default_factory=lambda: itertools.count(1))

    def post(self, route: str, **body: object) -> httpx.Response:
        """Send a JSON body about the run."""
        return self.api.post(route, json={"model_id": self.model_id, **body})

    def submit(self, route: str, **body: object) -> str:
        """Send an operation in its place; return the id of its future."""
        answer = self.post(route, seq_id=next(self.seq), **body)
        assert answer.status_code == 200, answer.text
        return str(answer.json()["request_id"])

    def submit_pass(self, data, loss: str = "cross_entropy", **wish: object) -> str:
        """Send a pass as protobuf; return the id of its future."""
        answer = self.send_pass(data, loss, seq=next(self.seq), **wish)
        assert answer.status_code == 200, answer.text
        return str(answer.json()["request_id"])

    def send_pass(
        self, data, loss: str, *, seq: int, config=None, model_id: str | None = None
    ) -> httpx.Response:
        """Send a pass as protobuf."""
        body = ForwardBackwardInput(data=data, loss_fn=loss, loss_fn_config=config)
        request = ForwardBackwardRequest(
            forward_backward_input=body, model_id=model_id or self.model_id, seq_id=seq
        )
        content = forward_backward_request_to_proto(request).SerializeToString()
        return self.api.post("/forward_backward", content=content, headers=PROTOBUF)


def open_run(api: httpx.Client, *, seed: int = 0, rank: int = 2) -> RawRun:
    """Begin a session and a training run in it."""
    session_id = api.post("/create_session", json={"tags": [], "sdk_version": "x"}).json()["session_id"]
    body = {
        "session_id": session_id,
        "model_seq_id": 0,
        "base_model": "mint/tiny",
        "lora_config": {"rank": rank, "seed": seed},
    }
    answer = api.post("/create_model", json=body)
    assert answer.status_code == 200, answer.text
    made = wait(api, answer.json()["request_id"])
    assert made == {"type": "create_model", "model_id": f"{session_id}:train:0"}, made
    return RawRun(api=api, session_id=session_id, model_id=made["model_id"])


def wait(api: httpx.Client, request_id: str) -> dict:
    """Return what became of a future, as JSON."""
    for _ in range(10):
        answer = api.post("/retrieve_future", json={"request_id": request_id}, headers=SDK)
        if answer.status_code != 408:
            assert answer.status_code == 200, answer.text
            return answer.json()
    raise TimeoutError(request_id)
