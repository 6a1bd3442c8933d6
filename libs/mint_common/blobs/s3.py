"""Blobs in a bucket of any S3 compatible store, through one aioboto3 client.

Writes carry their sha256, which the store verifies; ``put_new`` is a conditional put (``If-None-Match: *``).
Transient errors (5xx, throttling, broken connections) are retried with backoff; errors that persist become
Unavailable, so that work waits for an operator instead of being lost.
"""

import asyncio
import base64
import random
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack, nullcontext
from functools import partial
from pathlib import Path
from typing import Any, BinaryIO, TypeVar

import aioboto3
import aiohttp
from aiobotocore.config import AioConfig
from botocore.exceptions import BotoCoreError, ClientError

from mint_common.blobs.checked import (
    CHUNK_BYTES,
    Check,
    check_range,
    check_size,
    claim_of,
    claim_of_file,
    landing_in_thread,
)
from mint_common.blobs.port import check_key, check_prefix
from mint_common.claims import Claim
from mint_common.errors import AlreadyExists, BlobCorrupt, BlobMissing, Unavailable, plain_problem

T = TypeVar("T")
_Client = Any  # botocore makes its clients and their answers at run time, from JSON

_ATTEMPTS = 6
_FIRST_DELAY_SECONDS = 0.1
_MAX_DELAY_SECONDS = 3.0
_PASSING_CODES = {"SlowDown", "RequestTimeout", "RequestTimeTooSkewed", "ConditionalRequestConflict"}
_CONNECTION_ERRORS = (BotoCoreError, aiohttp.ClientError, ConnectionError, TimeoutError)
_STORE = "the S3 store"


class S3Blobs:
    """Blobs under a prefix of a bucket. Make it with `open_s3`."""

    def __init__(self, client: _Client, *, bucket: str, prefix: str, exit_stack: AsyncExitStack) -> None:
        self._client = client
        self._bucket = bucket
        self._prefix = f"{prefix.strip('/')}/" if prefix.strip("/") else ""
        self._exit_stack = exit_stack

    async def put(self, key: str, data: bytes) -> Claim:
        """Store bytes, replacing an existing blob."""
        check_key(key)
        claim = claim_of(key, data)
        await self._put(claim, lambda: data, {})
        return claim

    async def put_new(self, key: str, data: bytes) -> Claim:
        """Store bytes under a free key."""
        check_key(key)
        return await self._put_new(claim_of(key, data), lambda: data)

    async def put_file(self, key: str, path: Path) -> Claim:
        """Store a file's bytes under a free key; S3 takes 5 GB at once."""
        check_key(key)
        claim = await asyncio.to_thread(claim_of_file, key, path)
        return await self._put_new(claim, lambda: path.open("rb"))

    async def _put_new(self, claim: Claim, body: Callable[[], bytes | BinaryIO]) -> Claim:
        while True:
            try:
                await self._put(claim, body, {"IfNoneMatch": "*"})
            except _KeyTakenError:
                # Perhaps by ourselves: the answer to an earlier attempt may have been lost.
                if await self._is_there(claim):
                    return claim
            else:
                return claim

    async def get(self, claim: Claim) -> bytes:
        """Return the claimed bytes, checked."""
        check_key(claim.uri)
        return await self._retrying(lambda: self._read(claim), claim.uri)

    async def get_range(self, claim: Claim, *, start: int, size: int) -> bytes:
        """Return a part of the claimed bytes."""
        check_key(claim.uri)
        check_range(claim, start=start, size=size)
        return await self._retrying(lambda: self._read_range(claim, start, size), claim.uri)

    async def fetch(self, claim: Claim, path: Path) -> None:
        """Copy the claimed bytes to a file, chunk by chunk."""
        check_key(claim.uri)
        await self._retrying(lambda: self._copy(claim, path), claim.uri)

    async def delete(self, key: str) -> None:
        """Remove a key."""
        check_key(key)
        try:
            await self._retrying(lambda: self._client.delete_object(**self._at(key)), key)
        except BlobMissing:
            return

    async def list(self, prefix: str) -> AsyncIterator[str]:
        """Yield the keys under a prefix."""
        check_prefix(prefix)
        keys: set[str] = set()
        more: dict[str, str] | None = {}
        while more is not None:
            page = await self._retrying(partial(self._list_page, prefix, more), prefix)
            keys.update(item["Key"].removeprefix(self._prefix) for item in page.get("Contents", []))
            more = {"ContinuationToken": page["NextContinuationToken"]} if page.get("IsTruncated") else None
        # Not every compatible store lists in order: SeaweedFS walks its folders.
        for key in sorted(keys):
            yield key

    async def close(self) -> None:
        """Close the client and its connections."""
        await self._exit_stack.aclose()

    def _at(self, key: str) -> dict[str, str]:
        return {"Bucket": self._bucket, "Key": self._prefix + key}

    async def _put(
        self, claim: Claim, body: Callable[[], bytes | BinaryIO], condition: dict[str, str]
    ) -> None:
        checksum = base64.b64encode(bytes.fromhex(claim.sha256)).decode()

        async def attempt() -> None:
            opened = body()
            with nullcontext() if isinstance(opened, bytes) else opened:
                await self._client.put_object(
                    **self._at(claim.uri), Body=opened, ChecksumSHA256=checksum, **condition
                )

        await self._retrying(attempt, claim.uri)

    async def _is_there(self, claim: Claim) -> bool:
        try:
            await self._retrying(lambda: self._verify(claim), claim.uri)
        except BlobMissing:
            return False
        except BlobCorrupt as error:
            raise AlreadyExists(kind="blob", name=claim.uri) from error
        return True

    async def _chunks(self, claim: Claim) -> AsyncIterator[bytes]:
        check = Check(claim)
        answer = await self._client.get_object(**self._at(claim.uri))
        body = answer["Body"]
        async with body:
            while chunk := await body.read(CHUNK_BYTES):
                check.update(chunk)
                yield chunk
        check.finish()

    async def _verify(self, claim: Claim) -> None:
        async for _ in self._chunks(claim):
            pass

    async def _read(self, claim: Claim) -> bytes:
        return b"".join([chunk async for chunk in self._chunks(claim)])

    async def _read_range(self, claim: Claim, start: int, size: int) -> bytes:
        try:
            answer = await self._client.get_object(
                **self._at(claim.uri), Range=f"bytes={start}-{start + size - 1}"
            )
        except ClientError as error:
            if error.response.get("ResponseMetadata", {}).get("HTTPStatusCode") != 416:
                raise
            raise BlobCorrupt(
                uri=claim.uri, expected=f"{claim.size_bytes} bytes", found=f"at most {start}"
            ) from error
        async with answer["Body"] as body:
            total = answer.get("ContentRange", "").rpartition("/")[2]
            if not total.isdigit():
                raise Unavailable(what=_STORE, problem="it answered with another range than requested")
            check_size(claim, int(total))
            data: bytes = await body.read()
        if len(data) != size:
            raise ConnectionError(f"{len(data)} of {size} bytes came")
        return data

    async def _copy(self, claim: Claim, path: Path) -> None:
        async with landing_in_thread(path) as file:
            async for chunk in self._chunks(claim):
                await asyncio.to_thread(file.write, chunk)

    async def _list_page(self, prefix: str, more: dict[str, str]) -> Any:  # botocore's answer
        return await self._client.list_objects_v2(Bucket=self._bucket, Prefix=self._prefix + prefix, **more)

    async def _retrying(self, call: Callable[[], Awaitable[T]], key: str) -> T:
        delay = _FIRST_DELAY_SECONDS
        for attempt in range(_ATTEMPTS):
            try:
                return await call()
            except ClientError as error:
                refusal = _refusal(error, key)
                if refusal is not None:
                    raise refusal from error
                failure: Exception = error
            except _CONNECTION_ERRORS as error:
                failure = error
            if attempt + 1 < _ATTEMPTS:
                await asyncio.sleep(delay * random.uniform(0.5, 1.0))
                delay = min(2 * delay, _MAX_DELAY_SECONDS)
        raise Unavailable(what=_STORE, problem=_problem(failure)) from failure


class _KeyTakenError(Exception):
    """A conditional put found the key taken."""


def _refusal(error: ClientError, key: str) -> Exception | None:
    """Return the error of a refused request; None if a retry may succeed."""
    code = error.response.get("Error", {}).get("Code", "")
    status = error.response.get("ResponseMetadata", {}).get("HTTPStatusCode", 0)
    if status >= 500 or status == 429 or code in _PASSING_CODES:
        return None
    if status == 412:
        return _KeyTakenError(key)
    if code in {"NoSuchKey", "404", "NotFound"}:
        return BlobMissing(uri=key)
    return Unavailable(what=_STORE, problem=_problem(error))


def _problem(failure: Exception) -> str:
    if not isinstance(failure, ClientError):
        return plain_problem(failure)
    status = failure.response.get("ResponseMetadata", {}).get("HTTPStatusCode", 0)
    return f"it answered {status} {failure.response.get('Error', {}).get('Code', '')}"


async def open_s3(
    *,
    bucket: str,
    region: str,
    prefix: str = "",
    endpoint: str = "",
    access_key: str = "",
    secret_key: str = "",
) -> S3Blobs:
    """Open a client that lives until `S3Blobs.close`.

    No endpoint means AWS; no keys mean the usual AWS credential chain.
    """
    config = AioConfig(
        signature_version="s3v4",
        # botocore would hash bodies on the loop; what has a body has a checksum, whose header is signed.
        s3={"addressing_style": "path", "payload_signing_enabled": False},
        max_pool_connections=64,
        connect_timeout=5,
        read_timeout=30,
        retries={"total_max_attempts": 1},
        # Other stores than AWS do not know the trailing checksums that botocore would add by itself.
        request_checksum_calculation="when_required",
        response_checksum_validation="when_required",
    )
    client = aioboto3.Session().client(
        "s3",
        endpoint_url=endpoint or None,
        aws_access_key_id=access_key or None,
        aws_secret_access_key=secret_key or None,
        region_name=region,
        config=config,
    )
    async with AsyncExitStack() as stack:
        opened = await stack.enter_async_context(client)
        return S3Blobs(opened, bucket=bucket, prefix=prefix, exit_stack=stack.pop_all())
