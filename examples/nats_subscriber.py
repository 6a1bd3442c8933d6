"""Read a tenant's events from NATS through a durable consumer: each at least once, whenever it runs.

An operator makes the tenant's account and the consumer (docs/guides/nats.md), here ``ci`` of ``ten_a``::

    NATS=nats://ten_a:PASSWORD@127.0.0.1:4222 python examples/nats_subscriber.py ten_a ci

It prints one JSON envelope a line and acks it then: killed at any time, it goes on where it stopped.
"""

import argparse
import asyncio
import os
import signal
import sys

import nats
import nats.errors
import nats.js.errors

STREAM = "MINT"
BATCH = 16
WAIT_SECONDS = 30.0


async def read(url: str, tenant: str, consumer: str) -> None:
    """Print events until interrupted."""
    # A wrong password ends here; without error_cb the library would log its own traceback too.
    await (await nats.connect(url, allow_reconnect=False, error_cb=ignore)).close()
    client = await nats.connect(url, max_reconnect_attempts=-1)
    jetstream = client.jetstream()
    events = await jetstream.pull_subscribe_bind(consumer=f"{tenant}-{consumer}", stream=STREAM)
    while True:
        try:
            messages = await events.fetch(BATCH, timeout=WAIT_SECONDS)
        except (TimeoutError, nats.errors.TimeoutError):
            continue  # nothing happened
        except nats.js.errors.ServiceUnavailableError:
            sys.exit(f"no consumer {tenant}-{consumer}: docs/guides/nats.md says how an operator makes it")
        for message in messages:
            print(message.data.decode(), flush=True)
            await message.ack()


async def ignore(_error: Exception) -> None:
    """Do nothing about an error that `nats.connect` raises as well."""


def main() -> None:
    """Run the subscriber."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("tenant")
    parser.add_argument("consumer")
    chosen = parser.parse_args()
    if "NATS" not in os.environ:
        parser.error("set NATS to the server's address, with the tenant's password")
    for number in (signal.SIGINT, signal.SIGPIPE):  # Ctrl-C, or `| head`: end without a traceback
        signal.signal(number, signal.SIG_DFL)
    try:
        asyncio.run(read(os.environ["NATS"], chosen.tenant, chosen.consumer))
    except nats.errors.Error as error:
        sys.exit(f"NATS at {os.environ['NATS'].rpartition('@')[2]}: {error}")


if __name__ == "__main__":
    main()
