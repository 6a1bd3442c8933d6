"""Generate deploy/observability/dashboards from `dashboard_panels`: a JSON file for Grafana each."""

import json
from collections.abc import Mapping
from functools import partial

from dashboard_panels import DASHBOARDS, Dashboard, Panel
from generated_page import ROOT, generate

FOLDER = ROOT / "deploy/observability/dashboards"
SCHEMA_VERSION = 39
"""Of Grafana 10; later ones move it on when they load it."""
_SOURCE = {"type": "prometheus", "uid": "${datasource}"}
_COLUMNS, _WIDTH, _HEIGHT = 3, 8, 8

Json = Mapping[str, object]


def render(dashboard: Dashboard) -> str:
    """Return the JSON of a dashboard."""
    page = {
        "uid": f"mint-{dashboard.name}",
        "title": dashboard.title,
        "tags": ["mint"],
        "schemaVersion": SCHEMA_VERSION,
        "editable": True,
        "refresh": "30s",
        "time": {"from": "now-1h", "to": "now"},
        "templating": {
            "list": [
                {"name": "datasource", "label": "Prometheus", "type": "datasource", "query": "prometheus"}
            ]
        },
        "panels": [_panel(number, panel) for number, panel in enumerate(dashboard.panels)],
    }
    return json.dumps(page, indent=1, sort_keys=True) + "\n"


def _panel(number: int, panel: Panel) -> Json:
    row, column = divmod(number, _COLUMNS)
    return {
        "id": number + 1,
        "type": "timeseries",
        "title": panel.title,
        "datasource": _SOURCE,
        "gridPos": {"x": column * _WIDTH, "y": row * _HEIGHT, "w": _WIDTH, "h": _HEIGHT},
        "fieldConfig": {"defaults": {"unit": panel.unit}, "overrides": []},
        "options": {
            "legend": {"displayMode": "list", "placement": "bottom", "showLegend": True},
            "tooltip": {"mode": "multi", "sort": "desc"},
        },
        "targets": [
            {"refId": chr(ord("A") + place), "expr": expression, "legendFormat": line, "datasource": _SOURCE}
            for place, (expression, line) in enumerate(panel.queries)
        ],
    }


if __name__ == "__main__":
    generate(__doc__, {FOLDER / f"{one.name}.json": partial(render, one) for one in DASHBOARDS})
