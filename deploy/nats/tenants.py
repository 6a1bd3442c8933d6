"""Write the accounts of a NATS server that tenants may connect to, and make their durable consumers.

    python deploy/nats/tenants.py ten_a:ci,eval ten_b > tenants.conf
    python deploy/nats/tenants.py ten_a:ci,eval ten_b --make-consumers nats://mint:PASSWORD@127.0.0.1:4222

Include the file in nats.conf instead of ``authorization``. Passwords come from the server's environment:
MINT_NATS_PASSWORD for the services (user ``mint``), MINT_NATS_PASSWORD_<TENANT> for each tenant (user: its
id). docs/guides/nats.md says what a tenant can do then, and why accounts rather than permissions.
"""

import argparse
import asyncio
import re
import sys

import nats
from nats.js.api import AckPolicy, ConsumerConfig, DeliverPolicy

STREAM = "MINT"
ACK_SECONDS = 30.0
_NAME = re.compile(r"[A-Za-z0-9_-]{1,64}")


def read_tenant(text: str) -> tuple[str, tuple[str, ...]]:
    """Return a tenant's id and the names of its consumers. Raises ValueError."""
    tenant, _, names = text.partition(":")
    consumers = tuple(name for name in names.split(",") if name)
    wrong = [name for name in (tenant, *consumers) if _NAME.fullmatch(name) is None]
    if wrong:
        raise ValueError(f"{wrong[0]!r} is no name: letters, digits, _ and - alone")
    return tenant, consumers


def consumer_name(tenant: str, name: str) -> str:
    """Return the durable consumer's name on the stream."""
    return f"{tenant}-{name}"


def subjects_of(tenant: str) -> str:
    """Return the subjects of a tenant's events."""
    return f"mint.*.*.{tenant}.>"


def render(tenants: dict[str, tuple[str, ...]]) -> str:
    """Return the configuration."""
    exports = [line for tenant, names in tenants.items() for line in _exports(tenant, names)]
    core = _account("MINT", user="mint", variable="MINT_NATS_PASSWORD", kind="exports", lines=exports)
    rest = [_tenant_account(tenant, names) for tenant, names in tenants.items()]
    return "accounts {\n" + core + "".join(rest) + "}\n"


def _services(tenant: str, names: tuple[str, ...]) -> list[tuple[str, str]]:
    """Return what a tenant may ask of the stream's account: the next messages of its consumers, and acks."""
    services = []
    for name in names:
        consumer = consumer_name(tenant, name)
        services.append((f"$JS.API.CONSUMER.MSG.NEXT.{STREAM}.{consumer}", ", response_type: stream"))
        services.append((f"$JS.ACK.{STREAM}.{consumer}.>", ""))
    return services


def _exports(tenant: str, names: tuple[str, ...]) -> list[str]:
    mine = f"accounts: [{tenant}]"
    services = [f'service: "{subject}"{how}, {mine}' for subject, how in _services(tenant, names)]
    return [f'stream: "{subjects_of(tenant)}", {mine}', *services]


def _tenant_account(tenant: str, names: tuple[str, ...]) -> str:
    services = [
        f'service: {{ account: MINT, subject: "{subject}" }}' for subject, _ in _services(tenant, names)
    ]
    imports = [f'stream: {{ account: MINT, subject: "{subjects_of(tenant)}" }}', *services]
    variable = "MINT_NATS_PASSWORD_" + tenant.upper().replace("-", "_")
    return _account(tenant, user=tenant, variable=variable, kind="imports", lines=imports)


def _account(name: str, *, user: str, variable: str, kind: str, lines: list[str]) -> str:
    stores = "    jetstream: enabled\n" if kind == "exports" else ""
    users = f"    users: [ {{ user: {user}, password: ${variable} }} ]\n"
    listed = "".join(f"      {{ {line} }}\n" for line in lines)
    return f"  {name}: {{\n{stores}{users}    {kind}: [\n{listed}    ]\n  }}\n"


async def make_consumers(url: str, tenants: dict[str, tuple[str, ...]]) -> None:
    """Make every consumer that is not there; repeat it after a loss of the server's data."""
    client = await nats.connect(url)
    try:
        for tenant, names in tenants.items():
            for name in names:
                config = ConsumerConfig(
                    durable_name=consumer_name(tenant, name),
                    filter_subjects=[subjects_of(tenant)],
                    deliver_policy=DeliverPolicy.ALL,
                    ack_policy=AckPolicy.EXPLICIT,
                    ack_wait=ACK_SECONDS,
                    max_ack_pending=1000,
                )
                await client.jetstream().add_consumer(STREAM, config)
    finally:
        await client.close()


def main() -> None:
    """Write the file, or make the consumers."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("tenants", nargs="+", type=read_tenant, metavar="TENANT[:CONSUMER,...]")
    parser.add_argument("--make-consumers", metavar="URL", help="as the user mint")
    chosen = parser.parse_args()
    tenants = dict(chosen.tenants)
    if chosen.make_consumers:
        asyncio.run(make_consumers(chosen.make_consumers, tenants))
    else:
        sys.stdout.write(render(tenants))


if __name__ == "__main__":
    main()
