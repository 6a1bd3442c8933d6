"""Bodies in msgpack."""

from typing import TypeVar

import msgspec
from fastapi import Response

from mint_common.client.http import MSGPACK
from mint_common.errors import InvalidField

T = TypeVar("T")


def packed(value: object) -> Response:
    """Return an answer."""
    return Response(msgspec.msgpack.encode(value), media_type=MSGPACK)


def read_packed(body: bytes, shape: type[T]) -> T:
    """Return a request's body. Raises InvalidField."""
    try:
        return msgspec.msgpack.decode(body, type=shape)
    except msgspec.DecodeError as error:
        raise InvalidField(field="body", problem=str(error)) from error
