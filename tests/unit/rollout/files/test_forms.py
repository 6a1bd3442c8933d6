"""Forms arrive in any cuts, and nothing of a file is kept but what one chunk holds."""

from collections.abc import AsyncIterator, Sequence

import httpx
import pytest
from fastapi import Request
from hypothesis import given
from hypothesis import strategies as st

from mint_common.errors import BodyTooLarge, InvalidField
from services.rollout.http.forms import MAX_FIELD_BYTES, MAX_FIELDS, Form, read_form


class Sink:
    """Keeps what is written, and how much came at once."""

    def __init__(self) -> None:
        self.data = b""
        self.largest = 0

    async def write(self, data: bytes) -> None:
        """Append bytes."""
        self.data += data
        self.largest = max(self.largest, len(data))


def form_of(file: object, **fields: str) -> tuple[bytes, str]:
    """Return a body and its content type, as httpx writes them."""
    kind = {
        "content-type": "multipart/form-data; boundary=boundary"
    }  # a random one would name tests at random
    request = httpx.Request("POST", "http://a/", headers=kind, files={"file": file}, data=fields)
    return request.read(), request.headers["content-type"]


async def read(body: bytes, kind: str, cuts: Sequence[int] = (), limit: int = 1 << 20) -> tuple[Form, Sink]:
    headers = [(b"content-type", kind.encode()), (b"content-length", str(len(body)).encode())]
    request = Request({"type": "http", "method": "POST", "headers": headers})

    async def chunks() -> AsyncIterator[bytes]:
        for begin, end in zip([0, *cuts], [*cuts, len(body)], strict=True):
            yield body[begin:end]

    sink = Sink()
    return await read_form(request, chunks(), sink, file_field="file", limit_bytes=limit), sink


@given(data=st.binary(max_size=2000), purpose=st.text(max_size=20), draw=st.data())
async def test_a_form_cut_anywhere_is_the_same_form(data, purpose, draw) -> None:
    body, kind = form_of(("train.jsonl", data), purpose=purpose)
    cuts = sorted(draw.draw(st.lists(st.integers(0, len(body)), max_size=10)))
    form, sink = await read(body, kind, cuts)
    assert sink.data == data
    assert (form.filename, form.fields) == ("train.jsonl", {"purpose": purpose})


@given(body=st.binary(max_size=400))
async def test_whatever_comes_is_a_form_or_refused(body) -> None:
    for whole in (
        body,
        b"--b\r\n" + body,
        b'--b\r\nContent-Disposition: form-data; name="file"\r\n\r\n' + body,
    ):
        try:
            await read(whole, "multipart/form-data; boundary=b")
        except InvalidField:
            continue


async def test_a_large_file_is_never_held_whole() -> None:
    body, kind = form_of(("a", b"x" * (1 << 20)))
    _, sink = await read(body, kind, range(65_536, len(body), 65_536))
    assert len(sink.data) == 1 << 20
    assert sink.largest <= 65_536 + 100


async def test_a_file_beyond_the_limit_is_refused() -> None:
    body, kind = form_of(("a", b"x" * 101))
    with pytest.raises(BodyTooLarge):
        await read(body, kind, limit=100)
    await read(*form_of(("a", b"x" * 100)), limit=100)


@pytest.mark.parametrize(
    ("body", "kind", "field"),
    [
        (b"{}", "application/json", "body"),
        (b"", "multipart/form-data", "body"),
        (b"", "multipart/form-data; boundary=b", "body"),
        (form_of(("a", b"data"))[0][:-20], form_of(("a", b"data"))[1], "body"),
        (
            b'--b\r\nContent-Disposition: form-data; name="x"\r\n\r\n1\r\n--b--\r\n',
            "multipart/form-data; boundary=b",
            "file",
        ),
        (
            b'--b\r\nContent-Disposition: form-data; name="file"\r\n\r\n1\r\n' * 2 + b"--b--\r\n",
            "multipart/form-data; boundary=b",
            "file",
        ),
    ],
)
async def test_what_is_no_form_with_one_file_is_refused_by_name(body, kind, field) -> None:
    with pytest.raises(InvalidField) as refused:
        await read(body, kind)
    assert refused.value.field == field


async def test_fields_are_bounded() -> None:
    with pytest.raises(InvalidField, match="'purpose'"):
        await read(*form_of(("a", b""), purpose="x" * (MAX_FIELD_BYTES + 1)))
    with pytest.raises(InvalidField, match=f"more than {MAX_FIELDS} fields"):
        await read(*form_of(("a", b""), **{f"f{number}": "" for number in range(MAX_FIELDS + 1)}))
