"""Notes what tests marked ``client(name, feature)`` found; `tools/make_openai_doc.py` takes it."""

import hashlib
import json
from collections.abc import Iterator

import pytest
from clients.environments import ROOT

FOUND = ROOT / "out/openai/clients"


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item: pytest.Item) -> Iterator[None]:
    """Write a file for each such test that ran."""
    report = yield
    mark = item.get_closest_marker("client")
    if mark is not None and report.when == "call":
        name, feature = mark.args
        FOUND.mkdir(parents=True, exist_ok=True)
        told = {"client": name, "feature": feature, "works": report.passed}
        file = FOUND / f"{hashlib.sha256(item.nodeid.encode()).hexdigest()[:16]}.json"
        file.write_text(json.dumps(told) + "\n")
    return report
