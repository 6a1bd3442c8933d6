"""Check the file on standard input as rows, and print the report as JSON."""

import sys

import msgspec

from mint_common.datasets.check import CHUNK_BYTES, DatasetCheck


def main() -> None:
    """Read, check, print."""
    check = DatasetCheck()
    while (chunk := sys.stdin.buffer.read(CHUNK_BYTES)) and check.feed(chunk):
        pass
    sys.stdout.buffer.write(msgspec.json.encode(check.finish()))


if __name__ == "__main__":
    main()
