"""``/console/playground``: one prompt to several models next to each other."""

import asyncio
import re
from collections.abc import Collection, Sequence
from typing import Annotated, Any

from fastapi import APIRouter, Query, Response

from services.gateway.http.console.api import ApiAnswer
from services.gateway.http.console.context import Visit, VisitDep
from services.gateway.http.console.route import ConsoleRoute, number_in
from services.gateway.http.edge.context import InferCaller

_PLAIN_NAME = re.compile(r"[\w.@:/-]{1,200}", re.ASCII)
"""A model's name that code shows as it is: a page's address may name anything, and code is copied."""
router = APIRouter(include_in_schema=False, route_class=ConsoleRoute)

MAX_MODELS, OFFERED, MAX_BASES = 4, 200, 16
"""Models next to each other, names offered for choice, and bases whose features are shown."""


@router.get("/console/playground")
async def playground(
    _caller: InferCaller,
    visit: VisitDep,
    model: Annotated[list[str] | None, Query(max_length=MAX_MODELS)] = None,
) -> Response:
    """Show the form; a script sends the prompt and streams the answers."""
    models = await visit.get("v1", "models")
    names = [each["id"] for each in models.data["data"]][:OFFERED] if models.is_ok else []
    features, plain = await _features(visit, models)
    chosen = model or names[:1]
    return visit.pages.show(
        visit,
        "playground.html",
        section="playground",
        models=models,
        names=names,
        chosen=chosen,
        named=next(filter(_PLAIN_NAME.fullmatch, chosen[:1]), "POLICY"),
        features=features,
        plain=sorted(plain),
    )


@router.post("/console/playground")
async def ask(_caller: InferCaller, visit: VisitDep) -> Response:
    """Answer a prompt without scripts: each model's whole answer."""
    form = dict(visit.request.state.form)
    chosen = [name.strip() for name in form.get("models", "").split(",") if name.strip()][:MAX_MODELS]
    limit, prompt = form.get("max_tokens", "64"), form.get("prompt", "")
    _, plain = await _features(visit, await visit.get("v1", "models"))

    async def answer(model: str) -> ApiAnswer:
        body = {"model": model, "max_tokens": number_in(limit)}
        if model in plain:
            return await visit.send("POST", "v1", "completions", body={**body, "prompt": prompt})
        messages = [{"role": "user", "content": prompt}]
        return await visit.send("POST", "v1", "chat", "completions", body={**body, "messages": messages})

    answers = await asyncio.gather(*map(answer, chosen))
    return visit.pages.show(
        visit,
        "playground_answers.html",
        section="playground",
        prompt=prompt,
        answers=list(zip(chosen, answers, strict=True)),
    )


async def _features(visit: Visit, models: ApiAnswer) -> tuple[Sequence[Any], Collection[str]]:
    """Return the features of some models' bases, and the models whose base has no chat template."""
    listed = models.data["data"] if models.is_ok else []
    bases = sorted({each["parent"] or each["id"] for each in listed})[:MAX_BASES]
    asked = await asyncio.gather(*(visit.get("mint", "v1", "bases", base, "features") for base in bases))
    features = [answer.data for answer in asked if answer.is_ok]
    without_chat = {each["base"] for each in features if not each["chat"]}
    return features, {each["id"] for each in listed if (each["parent"] or each["id"]) in without_chat}
