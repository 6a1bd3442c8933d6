"""What tests of the console share: a browser that has signed in, and what its pages hold."""

import re
from collections.abc import Iterator
from contextlib import contextmanager

import httpx

HOSTILE = "<script>alert(1)</script>\"'><img src=x onerror=alert(2)>"


@contextmanager
def browser(stack, *, key: str | None = None) -> Iterator[httpx.Client]:
    """Yield a client that signed in as a browser does."""
    with httpx.Client(base_url=stack.url, headers={"accept": "text/html"}, timeout=30) as client:
        form = {"key": key or stack.key, "next": "/console/policies"}
        answer = client.post("/console/signin", data=form)
        assert (answer.status_code, answer.headers.get("location")) == (303, "/console/policies")
        yield client


def token_of(page: httpx.Response) -> str:
    return re.search(r'name="form_token" value="([0-9a-f]{64})"', page.text)[1]


def secret_of(page: httpx.Response) -> str:
    return re.search(r'id="secret">([^<]+)<', page.text)[1]
