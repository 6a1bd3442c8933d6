"""Alerts and dashboards name only what the services export, and all that these export is described."""

import json
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from itertools import chain
from pathlib import Path
from typing import Any, NamedTuple

import pytest
import yaml

ROOT = Path(__file__).parents[3]
FOLDER = ROOT / "deploy/observability"
PAGE = (ROOT / "docs/reference/metrics.md").read_text()
SERVICES = ("registry", "trainer", "rollout", "loader", "gateway")
SUFFIXES = {"counter": ("",), "gauge": ("",), "histogram": ("_bucket", "_sum", "_count")}
OF_TARGETS = {"job", "instance", "le", "mint_dev_base", "alertname", "alertstate"}
"""Labels that Prometheus, or the chart, adds."""
DASHBOARDS = {"fleet", "residency", "training", "events", "jobs"}

promtool = pytest.mark.skipif(
    shutil.which("promtool") is None, reason="promtool is not installed (Debian's package of that name)"
)


class Described(NamedTuple):
    """A row of docs/reference/metrics.md."""

    name: str
    kind: str
    labels: frozenset[str]


def described() -> Iterator[Described]:
    """Yield what the page describes, of each service what is of every one."""
    for line in PAGE.splitlines():
        if not line.startswith(("| `mint_", "| `vllm:")):
            continue
        name, kind, *rest = (cell.strip() for cell in line.strip("| ").split(" | "))
        labels = frozenset(re.findall(r"`(\w+)`", rest[0])) if len(rest) > 1 else frozenset()
        services = SERVICES if "<service>" in name else ("",)
        for service in services:
            yield Described(name.strip("`").replace("<service>", service), kind, labels)


def exported() -> set[str]:
    """Return every series of the page, and those of vLLM's own that its text names."""
    ours = {each.name + suffix for each in described() for suffix in SUFFIXES[each.kind]}
    return ours | set(re.findall(r"`(vllm:\w+)`", PAGE))


def alerts() -> list[dict[str, Any]]:
    groups = yaml.safe_load((FOLDER / "alerts.yaml").read_text())["groups"]
    return [rule for group in groups for rule in group["rules"]]


def dashboards() -> dict[str, dict[str, Any]]:
    return {path.stem: json.loads(path.read_text()) for path in (FOLDER / "dashboards").glob("*.json")}


def expressions() -> list[str]:
    shown = [
        target["expr"].replace("$__rate_interval", "5m")
        for page in dashboards().values()
        for panel in page["panels"]
        for target in panel["targets"]
    ]
    return [*(rule["expr"] for rule in alerts()), *shown]


def test_the_page_has_the_kinds_that_are_known_here() -> None:
    found = list(described())

    assert len(found) > 70
    assert {each.kind for each in found} == set(SUFFIXES)


def test_alerts_and_dashboards_name_series_that_exist() -> None:
    named = {name for each in expressions() for name in re.findall(r"\b(?:mint_|vllm:)\w+", each)}

    assert len(named) > 50
    assert named - exported() - OF_TARGETS == set()


def test_alerts_and_dashboards_name_labels_that_exist() -> None:
    known = {label for each in described() for label in each.labels} | OF_TARGETS
    named = set()
    for each in expressions():
        named |= set(re.findall(r"(\w+)=~?\"", each))
        named |= {label.strip() for by in re.findall(r"by \(([^)]*)\)", each) for label in by.split(",")}

    assert {"status", "tier", "le"} <= named
    assert named - known == set()


def test_every_series_of_the_code_is_described() -> None:
    pages = {each.name for each in described()}
    made = re.compile(r'(Counter|Gauge|Histogram|GaugeMetricFamily)\(\s*f?"((?:mint_|vllm:)[\w{}:]+)"')
    found: set[str] = set()
    for path in chain((ROOT / "services").rglob("*.py"), (ROOT / "libs/mint_common").rglob("*.py")):
        for kind, name in made.findall(path.read_text()):
            full = f"{name.removesuffix('_total')}_total" if kind == "Counter" else name
            found.add(full.replace("{service}", "loader"))

    assert len(found) > 60
    assert found - pages == set()


def test_every_counter_of_the_services_is_there_from_the_start() -> None:
    program = """
import importlib
from prometheus_client import Counter
from mint_common.runtime import relay
services = ("gateway", "registry", "rollout", "trainer", "loader")
modules = [relay, *(importlib.import_module(f"services.{each}.metrics") for each in services)]
counters = [each for module in modules for each in vars(module).values() if isinstance(each, Counter)]
assert len(counters) > 30, len(counters)
print([each.describe()[0].name for each in counters if not each.collect()[0].samples])
"""
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=False)

    assert (done.stdout, done.stderr) == ("[]\n", "")


def test_there_is_a_dashboard_of_each_part() -> None:
    assert set(dashboards()) == DASHBOARDS
    assert all(len(page["panels"]) >= 9 for page in dashboards().values())


def test_every_alert_leads_to_its_incident_page() -> None:
    page = (ROOT / "docs/operate/incidents.md").read_text()
    sections = re.findall(r"^## (Mint\w+)$", page, re.MULTILINE)

    assert sections == [rule["alert"] for rule in alerts()]
    for rule in alerts():
        assert rule["annotations"]["runbook_url"] == f"docs/operate/incidents.md#{rule['alert'].lower()}"
        assert rule["annotations"]["summary"]
        assert rule["labels"]["severity"] in {"critical", "warning"}


def test_every_incident_page_says_what_it_means_how_to_look_and_what_to_do() -> None:
    page = (ROOT / "docs/operate/incidents.md").read_text()
    for section in page.split("\n## ")[1:]:
        marks = re.findall(r"^\*\*(\w+)\.\*\*", section, re.MULTILINE)
        assert marks == ["Means", "Look", "Do"], section.partition("\n")[0]


@pytest.mark.parametrize("name", ["operate/incidents.md", "operate/operations.md"])
def test_the_operators_pages_name_settings_and_series_that_exist(name: str) -> None:
    page = (ROOT / "docs" / name).read_text()
    settings = (ROOT / "docs/reference/settings.md").read_text() + (ROOT / "docker-compose.yml").read_text()
    named = set(re.findall(r"MINT_\w+", re.sub(r"MINT_(<SERVICE>|BLOBS_S3_\*|(URL|API_KEY)\b)", "", page)))

    assert named - set(re.findall(r"MINT_\w+", settings)) == set()
    roles = {f"mint_{service}" for service in SERVICES}  # of compose's Postgres
    series = set(re.findall(r"\b(?:mint_|vllm:)\w+", page)) - {"mint_outbox", "mint_client"} - roles
    assert series - exported() - {each.name for each in described()} == set()


def test_every_alert_is_tested_both_ways() -> None:
    tests = yaml.safe_load((FOLDER / "alerts.test.yaml").read_text())["tests"]
    tested: dict[str, set[bool]] = {}
    for each in tests:
        (query,) = each["promql_expr_test"]
        name = re.search(r'alertname="(\w+)"', query["expr"])[1]  # type: ignore[index]  # each has one
        tested.setdefault(name, set()).add(bool(query["exp_samples"]))
        assert each["name"] == f"{name} {'fires' if query['exp_samples'] else 'is silent'}"

    assert tested == {rule["alert"]: {True, False} for rule in alerts()}


@promtool
def test_alerts_are_rules_and_fire_when_they_should() -> None:
    _promtool("check", "rules", "--lint=all", "--lint-fatal", "alerts.yaml")
    _promtool("test", "rules", "alerts.test.yaml")


@promtool
def test_the_stack_of_compose_is_scraped_and_has_the_alerts() -> None:
    _promtool("check", "config", "--syntax-only", "prometheus.yml")
    config = yaml.safe_load((FOLDER / "prometheus.yml").read_text())

    assert config["rule_files"] == ["/etc/prometheus/alerts.yaml"]
    assert {each["job_name"] for each in config["scrape_configs"]} == {f"mint-{each}" for each in SERVICES}


@promtool
def test_a_rule_test_that_expects_something_else_fails(tmp_path: Path) -> None:
    shutil.copy(FOLDER / "alerts.yaml", tmp_path)
    wrong = (FOLDER / "alerts.test.yaml").read_text().replace("value: 1}]", "value: 2}]", 1)
    (tmp_path / "alerts.test.yaml").write_text(wrong)

    with pytest.raises(AssertionError, match="MintServiceDown"):
        _promtool("test", "rules", "alerts.test.yaml", folder=tmp_path)


@promtool
def test_every_expression_is_one_of_prometheus(tmp_path: Path) -> None:
    rules = [{"record": f"r:{number}", "expr": each} for number, each in enumerate(expressions())]
    written = tmp_path / "expressions.yaml"
    written.write_text(yaml.safe_dump({"groups": [{"name": "all", "rules": rules}]}))

    _promtool("check", "rules", str(written))


def _promtool(*arguments: str, folder: Path = FOLDER) -> None:
    done = subprocess.run(
        ["promtool", *arguments], cwd=folder, capture_output=True, text=True, check=False, timeout=120
    )
    assert done.returncode == 0, done.stdout + done.stderr
