"""A whole stack as its user starts it: `mint up` in a folder, driven through the public API only."""

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx

from services.standalone.adapters.launch import free_port

MINT = str(Path(sys.executable).parent / "mint")
START_SECONDS = 600.0
JOB_SECONDS = 400.0


@dataclass(slots=True, kw_only=True)
class RunningStack:
    """`mint up --base tiny` and how to talk to it."""

    folder: Path
    process: subprocess.Popen[bytes]
    port: int
    http: httpx.Client = field(init=False)
    killed: set[int] = field(default_factory=set, init=False)

    def __post_init__(self) -> None:
        self.http = httpx.Client(
            base_url=f"http://127.0.0.1:{self.port}",
            headers={"authorization": f"Bearer {self.api_key}"},
            timeout=60,
            trust_env=False,
        )

    @property
    def api_key(self) -> str:
        return (self.folder / "api_key").read_text().strip()

    def parts(self) -> dict[str, dict[str, Any]]:
        """Return what `run.json` says of each part: state, pid, port, restarts."""
        parts: dict[str, dict[str, Any]] = json.loads((self.folder / "run.json").read_text())["parts"]
        return parts

    def kill(self, part: str) -> None:
        """kill -9 one part."""
        pid = self.parts()[part]["pid"]
        os.kill(pid, signal.SIGKILL)
        self.killed.add(pid)

    def wipe_bus(self) -> None:
        """kill -9 NATS and remove everything that it had stored, before its restart if possible."""
        self.kill("nats")
        shutil.rmtree(self.folder / "nats" / "jetstream", ignore_errors=True)

    def get(self, path: str) -> Any:
        answer = self.http.get(f"/mint/v1{path}")
        assert answer.status_code == 200, answer.text
        return answer.json()

    def post(self, path: str, body: Mapping[str, Any], *, status: int = 200, **headers: str) -> Any:
        answer = self.http.post(f"/mint/v1{path}", json=body, headers=headers)
        assert answer.status_code == status, answer.text
        return answer.json()

    def make_policy(self, name: str) -> Any:
        lora = {"rank": 8, "alpha": 16, "seed": 0}
        return self.post("/policies", {"name": name, "base": "tiny", "lora": lora}, status=201)

    def submit(self, policy: str, **spec: Any) -> str:
        body = {"policy": policy, "task": "mode:copy", **spec}
        job_id: str = self.post("/jobs", body, status=202)["job_id"]
        return job_id

    def job(self, job_id: str) -> Any:
        return self.get(f"/jobs/{job_id}")

    def job_if_up(self, job_id: str) -> Any | None:
        """Return the job, or None while a part that answers for it is down."""
        try:
            answer = self.http.get(f"/mint/v1/jobs/{job_id}")
        except httpx.TransportError:
            return None
        return answer.json() if answer.status_code == 200 else None

    def wait_for_step(self, job_id: str, published: int, *, seconds: float = JOB_SECONDS) -> Any:
        """Return the job once that many steps have a published revision, or it ended."""
        deadline = time.monotonic() + seconds
        while time.monotonic() < deadline:
            job = self.job_if_up(job_id)
            if job is not None and (
                job["state"] in {"succeeded", "failed", "cancelled"}
                or sum(step["revision"] is not None for step in job["steps"]) >= published
            ):
                return job
            time.sleep(0.1)
        raise AssertionError(f"no {published} published steps after {seconds} s: {self.job_if_up(job_id)}")

    def wait_for_end(self, job_id: str, *, seconds: float = JOB_SECONDS) -> Any:
        """Return the job once it ended."""
        return self.wait_for_step(job_id, sys.maxsize, seconds=seconds)

    def wait_until_ready(self) -> None:
        """Wait until every part is ready, those that were killed as other processes."""
        deadline = time.monotonic() + START_SECONDS
        while time.monotonic() < deadline:
            if self.process.poll() is not None:
                raise AssertionError(f"mint up ended with {self.process.returncode}:\n{self.logs()}")
            if (self.folder / "run.json").exists():
                parts = self.parts().values()
                if all(each["state"] == "ready" and each["pid"] not in self.killed for each in parts):
                    return
            time.sleep(0.1)
        raise AssertionError(f"the stack did not become ready: {self.parts()}\n{self.logs()}")

    def logs(self) -> str:
        """Return the last lines of every part's log."""
        files = sorted((self.folder / "log").glob("*.log"))
        tails = {file.name: file.read_text(errors="replace").splitlines()[-8:] for file in files}
        return "\n".join(f"== {name}\n" + "\n".join(lines) for name, lines in tails.items())

    def stop(self) -> None:
        """Stop as a user would, with Ctrl-C."""
        self.http.close()
        if self.process.poll() is None:
            self.process.send_signal(signal.SIGINT)
            self.process.wait(60)


def mint(
    *arguments: object, seconds: float = 120, env: Mapping[str, str] | None = None
) -> "subprocess.CompletedProcess[str]":
    """Run a command, in this process's environment unless another one is given."""
    command = [MINT, *map(str, arguments)]
    return subprocess.run(command, env=env, capture_output=True, text=True, check=False, timeout=seconds)


def start_stack(
    folder: Path,
    env: Mapping[str, str] | None = None,
    *,
    base: str = "tiny",
    bases: Sequence[str] = (),
    file: Path | None = None,
    port: int = 0,
    command: Sequence[str] = (MINT,),
    flags: Sequence[str] = (),
) -> RunningStack:
    """Start `mint up --base tiny`, or `mint up -f FILE`, and wait until it is ready."""
    port = port or free_port()
    named = [part for each in bases or [base] for part in ("--base", each)]
    what = named if file is None else ("-f", str(file))
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / "up.out").open("ab") as out:
        process = subprocess.Popen(
            [*command, "up", *flags, *what, "--dir", str(folder), "--port", str(port)],
            env={**os.environ, **(env or {})},
            stdout=out,
            stderr=subprocess.STDOUT,
            stdin=subprocess.DEVNULL,
        )
    deadline = time.monotonic() + START_SECONDS
    while not (folder / "api_key").exists() and time.monotonic() < deadline and process.poll() is None:
        time.sleep(0.05)
    if process.poll() is not None:
        raise AssertionError((folder / "up.out").read_text())
    stack = RunningStack(folder=folder, process=process, port=port)
    try:
        stack.wait_until_ready()
    except BaseException:
        stack.stop()
        raise
    return stack
