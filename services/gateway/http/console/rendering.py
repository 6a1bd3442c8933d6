"""Pages from templates, with what every page has: who looks, the section, the browser's security policy."""

from collections.abc import Mapping
from importlib.resources import files
from typing import TYPE_CHECKING, Any

import jinja2
from fastapi.responses import HTMLResponse

from mint_common.runtime.clock import Clock
from services.gateway.core.console.words import FILTERS, SAID, ago
from services.gateway.http.console.assets import ASSETS

if TYPE_CHECKING:
    from services.gateway.http.console.context import Visit

POLICY = "default-src 'self'; object-src 'none'; base-uri 'none'; form-action 'self'; frame-ancestors 'none'"
"""Content security policy: scripts, styles, images and connections of this origin alone, nothing inline."""
HEADERS = {
    "content-security-policy": POLICY,
    "x-content-type-options": "nosniff",
    "referrer-policy": "same-origin",
    "cache-control": "no-store",
}
NAVIGATION = (
    ("overview", "/console", "Overview", "read"),
    ("policies", "/console/policies", "Policies", "read"),
    ("jobs", "/console/jobs", "Jobs", "read"),
    ("evaluations", "/console/evaluations", "Evaluations", "read"),
    ("residency", "/console/residency", "Residency", "read"),
    ("playground", "/console/playground", "Playground", "infer"),
    ("files", "/console/files", "Files", "read"),
    ("events", "/console/events", "Events", "read"),
    ("find", "/console/find", "Find", "read"),
    ("webhooks", "/console/webhooks", "Webhooks", "admin"),
    ("keys", "/console/keys", "Keys", "admin"),
)
"""The sections: name, address, title, scope."""


class Pages:
    """Renders templates; every value in them is escaped."""

    def __init__(self, clock: Clock) -> None:
        folder = str(files("services.gateway.http.console") / "templates")
        self._templates = jinja2.Environment(
            loader=jinja2.FileSystemLoader(folder),
            autoescape=True,
            undefined=jinja2.StrictUndefined,
            trim_blocks=True,
            lstrip_blocks=True,
        )
        self._templates.filters.update(FILTERS)
        self._templates.filters["ago"] = lambda seconds: ago(seconds, clock.now())
        self._templates.globals["asset"] = ASSETS.address

    def plain(self, template: str, *, status: int = 200, **values: Any) -> HTMLResponse:
        """Return a page that needs no session."""
        return self._answer(template, status, values)

    def show(
        self, visit: "Visit", template: str, *, section: str = "", status: int = 200, **values: Any
    ) -> HTMLResponse:
        """Return a page for a visit."""
        may = visit.caller.authority.may
        own: Mapping[str, Any] = {
            "caller": visit.caller,
            "may": may,
            "section": section,
            "navigation": [entry for entry in NAVIGATION if may(entry[3])],  # type: ignore[arg-type]  # of Scope
            "form_token": visit.form_token,
            "address": visit.address,
            "said": SAID.get(visit.request.query_params.get("said", ""), ""),
            "here": visit.request.url.path,
        }
        return self._answer(template, status, {**own, **values})

    def _answer(self, template: str, status: int, values: Mapping[str, Any]) -> HTMLResponse:
        text = self._templates.get_template(template).render(values)
        return HTMLResponse(text, status, headers=HEADERS)
