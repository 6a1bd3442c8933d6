"""Score every new revision of a policy as soon as it is published; a rule then promotes it or rolls it back.

Start the stack with ``mint up`` and make a rule once (an admin key's business)::

    mint rule create counter progression reward 0.5 --choose best --cooldown 60 --roll-back-below 0.2

then run ``python examples/eval_hook.py counter progression``. MINT_URL is the stack's address and
MINT_API_KEY a key with the scopes read, infer and train. The hook may be stopped and started at will:
whenever it connects, it first scores what was published while nobody listened, so it misses nothing and
scores nothing twice.
"""

import argparse
import json
import os
import statistics
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx

METRIC = "reward"
AGAIN_SECONDS = 2.0
EXPIRED = 410
"""The stream does not go back as far as our place in it."""
FINAL = {401, 403, 422}
"""What asking again does not mend: the key, or what was asked for."""


class Hook:
    """Scores revisions of one policy on one task's held-out prompts."""

    def __init__(self, http: httpx.Client, policy: str, task: str, *, prompts: int) -> None:
        self.http = http
        self.policy = policy
        self.task = task
        self.prompts = prompts
        self.last_event_id: str | None = None

    def run(self) -> None:
        """Listen until interrupted; a lost connection is made again."""
        while True:
            try:
                for event_type, data in self.events():
                    if event_type == "connected" or (
                        event_type == "revision.published" and self.is_ours(data["data"])
                    ):
                        self.catch_up()
            except httpx.HTTPStatusError as error:
                said = f"{error.response.status_code} {told(error.response)}"
                if error.response.status_code in FINAL:
                    raise SystemExit(said) from error
                if error.response.status_code == EXPIRED:
                    self.last_event_id = None  # away for too long: catching up covers what was missed
                else:  # no such policy yet, or everybody is busy
                    print(f"{said} Again in {AGAIN_SECONDS:g} s.", flush=True)
            except httpx.HTTPError as error:
                print(f"connection lost ({error!r}), again in {AGAIN_SECONDS:g} s", flush=True)
            time.sleep(AGAIN_SECONDS)

    def events(self) -> Iterator[tuple[str, Any]]:
        """Yield (type, envelope) of server-sent events; first of all that the stream is open."""
        headers = {"last-event-id": self.last_event_id} if self.last_event_id else {}
        with self.http.stream("GET", "/mint/v1/events", headers=headers, timeout=60) as response:
            if response.is_error:
                response.read()
            response.raise_for_status()
            yield "connected", {}
            event_type = ""
            for line in response.iter_lines():
                name, _, value = line.partition(": ")
                if name == "id":
                    self.last_event_id = value
                elif name == "event":
                    event_type = value
                elif name == "data":
                    yield event_type, json.loads(value)

    def is_ours(self, published: Any) -> bool:
        """Return whether an event is about the hook's policy."""
        return bool(self.get(f"/policies/{self.policy}")["policy_id"] == published["policy_id"])

    def catch_up(self) -> None:
        """Score every published revision that has no score yet, oldest first."""
        scored = {
            score["number"]
            for score in self.pages(f"/policies/{self.policy}/evaluations", "evaluation_id")
            if (score["suite"], score["metric"]) == (self.task, METRIC)
        }
        for revision in self.pages(f"/policies/{self.policy}/revisions", "number"):
            if revision["state"] == "published" and revision["number"] not in scored:
                self.score(revision["number"])

    def score(self, number: int) -> None:
        """Ask a revision the held-out prompts through the OpenAI API and post the mean reward."""
        wanted = {"split": "heldout", "n": self.prompts, "seed": 0}
        prompts = self.post(f"/mint/v1/tasks/{self.task}/prompts", wanted)["prompts"]
        question = {
            "model": f"{self.policy}@{number}",
            "prompt": [prompt["text"] for prompt in prompts],
            "max_tokens": 16,
            "temperature": 0,
        }
        answers = self.post("/v1/completions", question)["choices"]
        items = [{"entry": prompts[answer["index"]]["entry"], "text": answer["text"]} for answer in answers]
        rewards = self.post(f"/mint/v1/tasks/{self.task}/score", {"items": items})["rewards"]
        value = sum(rewards) / len(rewards)
        score = {"revision": number, "suite": self.task, "metric": METRIC, "value": value, "n": len(rewards)}
        if len(rewards) > 1:
            score["stderr"] = statistics.stdev(rewards) / len(rewards) ** 0.5
        self.post(f"/mint/v1/policies/{self.policy}/evaluations", score)
        print(f"{self.policy}@{number}: {self.task} {METRIC} {value:.3f}", flush=True)

    def pages(self, path: str, cursor: str) -> Iterator[Any]:
        """Yield all items of a list, page by page."""
        after: object = None
        while True:
            page = self.get(path, {"limit": 500} | ({} if after is None else {"after": after}))
            yield from page
            if len(page) < 500:
                return
            after = page[-1][cursor]

    def get(self, path: str, params: dict[str, Any] | None = None) -> Any:
        """Return the JSON of an answer below /mint/v1."""
        return self.http.get(f"/mint/v1{path}", params=params).raise_for_status().json()

    def post(self, path: str, body: object) -> Any:
        """Return the JSON that a request led to."""
        return self.http.post(path, json=body).raise_for_status().json()


def told(answer: httpx.Response) -> str:
    """Return what an error says, of MinT's API or of OpenAI's."""
    try:
        return str(answer.json()["error"]["message"])
    except (ValueError, KeyError, TypeError):
        return answer.reason_phrase


def main() -> None:
    """Run the hook."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("policy")
    parser.add_argument("task", nargs="?", default="progression")
    parser.add_argument("--prompts", type=int, default=32)
    chosen = parser.parse_args()
    file = Path.home() / ".mint/api_key"
    key = os.environ.get("MINT_API_KEY") or (file.read_text().strip() if file.exists() else "")
    if not key:
        parser.error("no API key: set MINT_API_KEY (mint up prints where it is)")
    headers = {"authorization": f"Bearer {key}"}
    with httpx.Client(
        base_url=os.environ.get("MINT_URL", "http://127.0.0.1:8321"), headers=headers, timeout=300
    ) as http:
        Hook(http, chosen.policy, chosen.task, prompts=chosen.prompts).run()


if __name__ == "__main__":
    main()
