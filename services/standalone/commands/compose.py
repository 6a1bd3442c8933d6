"""`mint compose`: the stack of containers."""

import secrets
import string
from pathlib import Path
from typing import Annotated

import typer

from mint_common.errors import AlreadyExists
from services.standalone.core.compose_files import ComputesOn, make_compose_files

ALPHABET = string.ascii_letters + string.digits
SECRET_CHARACTERS = 32


compose_app = typer.Typer(help="Configure the stack of docker-compose.yml.", no_args_is_help=True)
ToOption = Annotated[
    Path, typer.Option(metavar="DIR", help="Folder of docker-compose.yml; the files are written there.")
]
BaseOption = Annotated[
    str, typer.Option(help="Name of the base's folder in the volume `bases`; the image contains tiny.")
]
OnOption = Annotated[ComputesOn, typer.Option(help="Device of trainer and engines.")]
PortOption = Annotated[int, typer.Option(min=1, max=65535, help="The gateway's port on this machine.")]


@compose_app.command("init", short_help="Write .env and secrets/.")
def init(
    to: ToOption = Path(),
    base: BaseOption = "tiny",
    on: OnOption = "cpu",
    port: PortOption = 8321,
    *,
    observability: Annotated[
        bool, typer.Option("--observability", help="Also run Prometheus, Grafana and a trace collector.")
    ] = False,
) -> None:
    """Write the configuration of docker-compose.yml: .env with settings and secrets/ with new secrets.
    Existing files are never replaced.

    Example: mint compose init --port 8321
    """
    made = make_compose_files(_secret, base=base, computes_on=on, observability=observability, port=port)
    folder = to / "secrets"
    for path in (to / ".env", folder):
        if path.exists():
            raise AlreadyExists(kind="file", name=str(path))
    folder.mkdir(mode=0o700)
    for name, text in made.secrets.items():
        # The folder is closed on this machine; in a container another user has to read the file alone.
        _write(folder / name, text + "\n", mode=0o644)
    _write(to / ".env", made.env, mode=0o600)
    typer.echo(f"{to / '.env'} and {folder}/: written. Start the stack, then speak to it:")
    typer.echo("  docker compose up --build --wait")
    typer.echo(f"  export MINT_URL=http://127.0.0.1:{port} MINT_API_KEY=$(cat {folder / 'api_key'})")
    typer.echo("  mint policy list")


def _write(path: Path, text: str, *, mode: int) -> None:
    path.write_text(text)
    path.chmod(mode)


def _secret() -> str:
    return "".join(secrets.choice(ALPHABET) for _ in range(SECRET_CHARACTERS))
