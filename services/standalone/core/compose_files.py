"""The generated files of a compose stack: its environment and its secrets."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Literal

from services.standalone.core.plan import SERVICES

ComputesOn = Literal["cpu", "gpu"]


@dataclass(frozen=True, slots=True, kw_only=True)
class ComposeFiles:
    """The text of ``.env``, and of each file of secrets by its name."""

    env: str
    secrets: Mapping[str, str]


def make_compose_files(
    secret: Callable[[], str], *, base: str, computes_on: ComputesOn, observability: bool, port: int
) -> ComposeFiles:
    """Return the files; ``secret`` returns a new secret of letters and digits at each call."""
    nats = secret()
    values = {
        "MINT_NATS_TOKEN": nats,
        "MINT_S3_ACCESS_KEY": secret(),
        "MINT_BASE": base,
        "MINT_PORT": str(port),
        "COMPOSE_PROFILES": ",".join([computes_on, *(["observability"] if observability else [])]),
    }
    if observability:
        values["MINT_OTLP_ENDPOINT"] = "http://collector:4318"
    return ComposeFiles(
        env=HEAD + "".join(f"{name}={value}\n" for name, value in values.items()),
        secrets={
            "api_key": f"tml-{secret()}",
            "internal_token": secret(),
            "nats_url": f"nats://{nats}@nats:4222",
            "postgres_password": secret(),
            # deploy/postgres/roles.sh creates a role for each.
            **{
                f"postgres_dsn_{service}": f"postgresql://mint_{service}:{secret()}@postgres:5432/mint"
                for service in SERVICES
            },
            "s3_secret_key": secret(),
            "grafana_password": secret(),
        },
    )


HEAD = """# Made by `mint compose init` for docker-compose.yml beside it. The folder secrets/ belongs to it.
# Database, bus and store are made with these secrets at the first start and ask for them ever after.
# On GPUs MINT_TRAINER_GPU and MINT_LOADER_GPU are the numbers of their GPUs (0), MINT_TRAINER_SHARE (0.4) and
# MINT_LOADER_SHARE (0.5) what they take of it, MINT_SHM_SIZE (8gb) the engine's shared memory.
"""
