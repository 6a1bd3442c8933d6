"""``/console/playground``: one prompt to several models next to each other."""

import asyncio
from typing import Annotated

from fastapi import APIRouter, Query, Response

from services.gateway.http.console.context import VisitDep
from services.gateway.http.console.route import ConsoleRoute
from services.gateway.http.edge.context import InferCaller

router = APIRouter(include_in_schema=False, route_class=ConsoleRoute)

MAX_MODELS, OFFERED = 4, 200
"""Models next to each other, and names offered for choice."""


@router.get("/console/playground")
async def playground(
    _caller: InferCaller,
    visit: VisitDep,
    model: Annotated[list[str] | None, Query(max_length=MAX_MODELS)] = None,
) -> Response:
    """Show the form; a script sends the prompt and streams the answers."""
    models = await visit.get("v1", "models")
    names = [each["id"] for each in models.data["data"]][:OFFERED] if models.is_ok else []
    return visit.pages.show(
        visit, "playground.html", section="playground", models=models, names=names, chosen=model or names[:1]
    )


@router.post("/console/playground")
async def ask(_caller: InferCaller, visit: VisitDep) -> Response:
    """Answer a prompt without scripts: each model's whole answer."""
    form = dict(visit.request.state.form)
    chosen = [name.strip() for name in form.get("models", "").split(",") if name.strip()][:MAX_MODELS]
    limit = form.get("max_tokens", "64")
    body = {
        "messages": [{"role": "user", "content": form.get("prompt", "")}],
        "max_tokens": int(limit) if limit.isdecimal() else limit,
    }
    answers = await asyncio.gather(
        *(visit.send("POST", "v1", "chat", "completions", body={"model": each, **body}) for each in chosen)
    )
    return visit.pages.show(
        visit,
        "playground_answers.html",
        section="playground",
        prompt=form.get("prompt", ""),
        answers=list(zip(chosen, answers, strict=True)),
    )
