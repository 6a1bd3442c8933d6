"""`mint ask`: what models answer, streamed; several side by side."""

import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Annotated

import typer
from rich.console import Console
from rich.live import Live

from mint_client.adapters.public_api import PublicApi
from mint_client.commands.api import api_command
from mint_client.commands.names import with_near_names
from mint_client.core.columns import ANSWER
from mint_client.views.terminal import make_table, print_rows
from mint_common.errors import MintError, NotFound

MAX_AT_ONCE = 16

Stream = Callable[[str], Iterator[tuple[str, str]]]
"""Asks a model: yields (piece of the answer, digest of the revision)."""
AnswerRow = dict[str, str | None]


@api_command
def ask(
    api: PublicApi,
    models: Annotated[
        list[str],
        typer.Argument(
            metavar="MODEL...", help="Base, POLICY, or POLICY@REV with a number, digest or alias."
        ),
    ],
    prompt: Annotated[str, typer.Argument(metavar="PROMPT", help="Text to complete.")],
    *,
    max_tokens: Annotated[int, typer.Option(metavar="N", min=1, help="At most.")] = 64,
    temperature: Annotated[float, typer.Option(min=0.0, help="Sampling temperature; 0 is greedy.")] = 0.0,
    chat: Annotated[bool, typer.Option("--chat", help="Use the base's chat template.")] = False,
) -> None:
    """Send a prompt to one or more models and print their answers as they are generated.

    Example: mint ask smollm2 counter@1 counter "14, 19, 24, " --max-tokens 4
    """
    options = {"max_tokens": max_tokens, "temperature": temperature}

    def stream(model: str) -> Iterator[tuple[str, str]]:
        return api.stream(model, prompt, options, chat=chat)

    if len(models) > 1:
        _compare(models, stream, api)
        return
    answered_by = ""
    for piece, revision in stream(models[0]):
        typer.echo(piece, nl=False)
        answered_by = revision
    typer.echo("")
    typer.echo(f"by {answered_by}", err=True)


def _compare(models: list[str], stream: Stream, api: PublicApi) -> None:
    """Ask all at once. Refusals are printed last, and the exit code is 1 then."""
    refusals: list[str] = []
    rows: list[AnswerRow] = [{"model": model, "text": "", "revision": None} for model in models]
    console = Console()
    lock = threading.Lock()

    def read(row: AnswerRow) -> None:
        try:
            for piece, revision in stream(str(row["model"])):
                with lock:
                    row.update(text=f"{row['text']}{piece}", revision=revision)
        except MintError as error:
            told = with_near_names(error, api, {}) if isinstance(error, NotFound) else error
            refusals.append(f"{row['model']}: {told}")

    if console.is_terminal:
        with Live(console=console, get_renderable=lambda: make_table(rows, ANSWER, width=console.width)):
            _read_all(rows, read)
    else:
        _read_all(rows, read)
        print_rows([{**row, "text": repr(row["text"])} for row in rows], ANSWER, nothing="")
    for refusal in sorted(refusals):
        typer.echo(refusal, err=True)
    if refusals:
        raise typer.Exit(1)


def _read_all(rows: list[AnswerRow], read: Callable[[AnswerRow], None]) -> None:
    with ThreadPoolExecutor(MAX_AT_ONCE) as pool:
        list(pool.map(read, rows))
