"""Every expression of the dashboards has a result over a running stack, and no alert fires."""

import json
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import httpx
import pytest
import yaml
from e2e.stack import RunningStack

from services.standalone.adapters.launch import free_port

ROOT = Path(__file__).parents[2]
SERVICES = ("registry", "trainer-tiny", "rollout", "loader-tiny", "gateway")
SECONDS = 240.0

pytestmark = [
    pytest.mark.e2e,
    pytest.mark.slow,
    pytest.mark.timeout(900),
    pytest.mark.skipif(
        shutil.which("prometheus") is None,
        reason="prometheus is not installed (Debian's package of that name)",
    ),
]


class Prometheus:
    """A server that scrapes a stack every second."""

    def __init__(self, http: httpx.Client) -> None:
        self._http = http

    def ask(self, expression: str) -> list[dict[str, Any]]:
        """Return the samples of an expression now."""
        answer = self._http.get("/api/v1/query", params={"query": expression})
        assert answer.status_code == 200, (expression, answer.text)
        found: list[dict[str, Any]] = answer.json()["data"]["result"]
        return found


@pytest.fixture
def prometheus(stack: RunningStack, tmp_path: Path) -> Iterator[Prometheus]:
    targets = [
        {"job_name": f"mint-{service}", "static_configs": [{"targets": [f"127.0.0.1:{part['port']}"]}]}
        for service in SERVICES
        for part in [stack.parts()[service]]
    ]
    config = {"global": {"scrape_interval": "1s"}, "scrape_configs": targets}
    (tmp_path / "prometheus.yml").write_text(yaml.safe_dump(config))
    port = free_port()
    command = [
        "prometheus",
        f"--config.file={tmp_path / 'prometheus.yml'}",
        f"--storage.tsdb.path={tmp_path / 'data'}",
        f"--web.listen-address=127.0.0.1:{port}",
        "--log.level=warn",
    ]
    with subprocess.Popen(command) as process:
        try:
            url = f"http://127.0.0.1:{port}"
            _until_ready(url)
            with httpx.Client(base_url=url, timeout=30, trust_env=False) as http:
                yield Prometheus(http)
        finally:
            process.terminate()


def _until_ready(url: str) -> None:
    deadline = time.monotonic() + SECONDS
    while time.monotonic() < deadline:
        try:
            if httpx.get(f"{url}/-/ready", trust_env=False).status_code == 200:
                return
        except httpx.TransportError:
            pass
        time.sleep(0.1)
    raise AssertionError("prometheus is not ready")


def test_every_expression_has_a_result_over_a_working_stack(
    stack: RunningStack, prometheus: Prometheus
) -> None:
    until_seen(prometheus, "count(mint_ready == 1) == 5")
    stack.make_policy("charted")
    job_id = stack.submit("charted", steps=3, prompts_per_step=4, group_size=8)
    for number in range(12):
        body = {"model": "tiny", "prompt": f"f a{number}=", "max_tokens": 8, "stream": True}
        stack.http.post("/v1/completions", json=body).raise_for_status()
    stack.wait_for_end(job_id)
    body = {"model": "charted", "prompt": "f ab=", "max_tokens": 8, "stream": True}
    stack.http.post("/v1/completions", json=body).raise_for_status()
    until_seen(prometheus, 'increase(mint_rollout_jobs_total{outcome="succeeded"}[5m]) > 0')
    until_seen(prometheus, 'sum(increase(mint_loader_first_token_seconds_count{tier!="base"}[5m])) > 0')

    answers = {name: prometheus.ask(expression) for name, expression in dashboard_expressions().items()}
    missing = [name for name, samples in answers.items() if not samples]
    assert missing == []
    alerts = yaml.safe_load((ROOT / "deploy/observability/alerts.yaml").read_text())["groups"][0]["rules"]
    for rule in alerts:
        assert prometheus.ask(rule["expr"]) == [], f"{rule['alert']} would fire over a stack in order"


def until_seen(prometheus: Prometheus, expression: str) -> None:
    deadline = time.monotonic() + SECONDS
    while not prometheus.ask(expression):
        assert time.monotonic() < deadline, expression
        time.sleep(0.2)


def dashboard_expressions() -> Mapping[str, str]:
    """Return the expressions by ``dashboard: panel: line``, over five minutes."""
    program = "import json, dashboard_panels; print(json.dumps(dashboard_panels.expressions('5m')))"
    told = subprocess.run(
        [sys.executable, "-c", program], cwd=ROOT / "tools", capture_output=True, text=True, check=True
    )
    found: Mapping[str, str] = json.loads(told.stdout)
    return found
