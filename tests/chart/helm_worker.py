"""Lint and render a chart, JSON in and out, in a process of its own: Helm's SDK brings Go's runtime."""

import json
import sys
from typing import Any

import helm_python as helm


def main() -> None:
    """Answer every case with its report and its files, or with what is wrong with its values."""
    asked = json.load(sys.stdin)
    json.dump([_answer(asked["chart"], case) for case in asked["cases"]], sys.stdout)


def _answer(chart: str, case: dict[str, Any]) -> dict[str, Any]:
    try:
        with helm.Chart.load(chart) as loaded:
            files = loaded.render(
                case["values"],
                name=case["release"],
                namespace=case["namespace"],
                is_install=not case["is_upgrade"],
                is_upgrade=case["is_upgrade"],
            )
    except helm.HelmError as error:
        return {"error": str(error)}
    report = helm.lint(chart, case["values"], strict=True, kube_version="v1.34.0")
    return {"files": files, "lint": [each for each in report["messages"] if each["severity"] > 1]}


if __name__ == "__main__":
    main()
