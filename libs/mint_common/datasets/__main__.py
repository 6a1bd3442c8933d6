"""Check the file on standard input as rows, and print the report as JSON.

With a number of bytes as argument: read a validation file of that size, then a training file, both checked
before, and print which rows they share.
"""

import sys
from collections.abc import Iterator

import msgspec

from mint_common.datasets.check import CHUNK_BYTES, check_stream
from mint_common.datasets.repeats import digests_of, shared_rows
from mint_common.datasets.report import Repeats


def main() -> None:
    """Read, check or compare, print."""
    found = _compared(int(sys.argv[1])) if sys.argv[1:] else check_stream(sys.stdin.buffer)[0]
    sys.stdout.buffer.write(msgspec.json.encode(found))


def _compared(validation_bytes: int) -> Repeats:
    validation = digests_of(_chunks(validation_bytes))
    return shared_rows(digests_of(_chunks(sys.maxsize)), validation)


def _chunks(size_bytes: int) -> Iterator[bytes]:
    """Yield the next bytes of standard input, until so many or its end."""
    while chunk := sys.stdin.buffer.read(min(CHUNK_BYTES, size_bytes)):
        size_bytes -= len(chunk)
        yield chunk


if __name__ == "__main__":
    main()
