"""Multipart forms with one file, which goes to a sink as it comes."""

from collections.abc import AsyncIterator
from dataclasses import dataclass, field

from fastapi import Request
from python_multipart.exceptions import FormParserError
from python_multipart.multipart import MultipartParser, parse_options_header

from mint_common.errors import BodyTooLarge, InvalidField
from mint_common.runtime.edge_body import announced_bytes
from services.rollout.adapters.spool import LocalSpoolFile

MAX_FIELDS = 16
MAX_FIELD_BYTES = 4096
FORM_BYTES = 1 << 20
"""Maximum bytes of a body beside its file: names, fields, boundaries."""


@dataclass(slots=True, kw_only=True)
class Form:
    """A form's fields, and the name of its file; None: it had none."""

    fields: dict[str, str] = field(default_factory=dict)
    filename: str | None = None


async def read_form(
    request: Request, stream: AsyncIterator[bytes], sink: LocalSpoolFile, *, file_field: str, limit_bytes: int
) -> Form:
    """Read a form; its file goes to the sink. Raises InvalidField, BodyTooLarge."""
    announced_bytes(request.headers, limit=limit_bytes + FORM_BYTES)
    reader = _FormReader(_boundary(request), file_field=file_field, limit_bytes=limit_bytes)
    received_bytes = 0
    async for chunk in stream:
        received_bytes += len(chunk)
        if received_bytes > limit_bytes + FORM_BYTES:
            raise BodyTooLarge(limit_bytes=limit_bytes)
        data = reader.feed(chunk)
        if data:
            await sink.write(data)
    return reader.finish()


def _boundary(request: Request) -> bytes:
    kind, options = parse_options_header(request.headers.get("content-type"))
    boundary = options.get(b"boundary", b"")
    if kind != b"multipart/form-data" or not 0 < len(boundary) <= 200:
        raise InvalidField(field="body", problem="must be multipart/form-data with a boundary")
    return boundary


class _FormReader:
    """Receives the parser's results, and holds at most one chunk of the file."""

    def __init__(self, boundary: bytes, *, file_field: str, limit_bytes: int) -> None:
        self._form = Form()
        self._file_field = file_field
        self._limit_bytes = limit_bytes
        self._file_bytes = 0
        self._data = bytearray()
        self._header, self._value = bytearray(), bytearray()
        self._disposition = b""
        self._name = ""
        self._field: bytearray | None = None
        self._is_whole = False
        self._parser = MultipartParser(
            boundary,
            {
                "on_part_begin": self._begin_part,
                "on_header_field": lambda data, start, end: self._header.extend(data[start:end]),
                "on_header_value": lambda data, start, end: self._value.extend(data[start:end]),
                "on_header_end": self._end_header,
                "on_headers_finished": self._begin_data,
                "on_part_data": self._take_data,
                "on_part_end": self._end_part,
                "on_end": self._end,
            },
        )

    def feed(self, chunk: bytes) -> bytes:
        """Return what of the file is in a chunk. Raises InvalidField, BodyTooLarge."""
        self._data.clear()
        try:
            self._parser.write(chunk)
        except FormParserError as error:
            raise InvalidField(field="body", problem=f"is no multipart form: {error}") from error
        return bytes(self._data)

    def finish(self) -> Form:
        """Return the form. Raises InvalidField when it is cut off or has no file."""
        if not self._is_whole:
            raise InvalidField(field="body", problem="is no multipart form, or is cut off")
        if self._form.filename is None:
            raise InvalidField(field=self._file_field, problem="is missing")
        return self._form

    def _begin_part(self) -> None:
        self._disposition, self._name, self._field = b"", "", None
        self._header.clear()
        self._value.clear()

    def _end_header(self) -> None:
        if bytes(self._header).lower() == b"content-disposition":
            self._disposition = bytes(self._value)
        self._header.clear()
        self._value.clear()

    def _begin_data(self) -> None:
        _, options = parse_options_header(self._disposition)
        self._name = options.get(b"name", b"").decode(errors="replace")
        if self._name == self._file_field:
            if self._form.filename is not None:
                raise InvalidField(field=self._file_field, problem="is there twice")
            self._form.filename = options.get(b"filename", b"upload").decode(errors="replace")
            return
        if not self._name or b"filename" in options or self._name in self._form.fields:
            problem = "has a part without a name, a second file, or a field twice"
            raise InvalidField(field="body", problem=problem)
        if len(self._form.fields) == MAX_FIELDS:
            raise InvalidField(field="body", problem=f"has more than {MAX_FIELDS} fields")
        self._field = bytearray()

    def _take_data(self, data: bytes, start: int, end: int) -> None:
        if self._field is None:
            self._file_bytes += end - start
            if self._file_bytes > self._limit_bytes:
                raise BodyTooLarge(limit_bytes=self._limit_bytes)
            self._data += data[start:end]
            return
        self._field += data[start:end]
        if len(self._field) > MAX_FIELD_BYTES:
            problem = f"has more than {MAX_FIELD_BYTES} bytes"
            raise InvalidField(field=self._name[:100], problem=problem)

    def _end_part(self) -> None:
        if self._field is not None:
            self._form.fields[self._name] = self._field.decode(errors="replace")

    def _end(self) -> None:
        self._is_whole = True
