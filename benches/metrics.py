"""A service's own counters, read from its /metrics."""

from collections.abc import Mapping

import aiohttp


async def read_metrics(http: aiohttp.ClientSession, url: str) -> Mapping[str, float]:
    """Return every sample by its name and labels, as Prometheus writes them."""
    async with http.get(f"{url}/metrics") as answer:
        text = await answer.text()
    samples = (line.rpartition(" ") for line in text.splitlines() if line and not line.startswith("#"))
    return {name: float(value) for name, _, value in samples}


def grown(before: Mapping[str, float], after: Mapping[str, float], name: str) -> float:
    """Return how much a sample has grown."""
    return after.get(name, 0.0) - before.get(name, 0.0)
