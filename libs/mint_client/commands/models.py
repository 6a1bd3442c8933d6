"""`mint ask`: what models answer, streamed; several side by side."""

import sys
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Annotated

import typer
from rich.console import Console
from rich.live import Live

from mint_client.adapters.public_api import PublicApi, path_of
from mint_client.commands.api import api_command
from mint_client.commands.names import with_near_names
from mint_client.commands.options import JsonOption
from mint_client.core.columns import ANSWER
from mint_client.views.terminal import make_table, print_json, print_rows
from mint_common.errors import Forbidden, MintError, NotFound

MAX_AT_ONCE = 16
STDIN = "-"

Stream = Callable[[str], Iterator[tuple[str, str]]]
"""Asks a model: yields (piece of the answer, digest of the revision)."""
AnswerRow = dict[str, str | None]


@api_command
def ask(
    api: PublicApi,
    models: Annotated[
        list[str],
        typer.Argument(
            metavar="MODEL...",
            help="Base, POLICY, or POLICY@REV with a number, digest, alias, latest or best.",
        ),
    ],
    prompt: Annotated[
        str, typer.Argument(metavar="PROMPT", help="Text to complete, one argument; - reads it from stdin.")
    ],
    *,
    max_tokens: Annotated[int, typer.Option(metavar="N", min=1, help="At most.")] = 64,
    temperature: Annotated[float, typer.Option(min=0.0, help="Sampling temperature; 0 is greedy.")] = 0.0,
    chat: Annotated[bool, typer.Option("--chat", help="Use the base's chat template.")] = False,
    as_json: JsonOption = False,
) -> None:
    """Send a prompt to one or more models and print their answers as they are generated.

    Example: mint ask smollm2 counter@1 counter "14, 19, 24, " --max-tokens 4
    """
    text = sys.stdin.read() if prompt == STDIN else prompt
    options = {"max_tokens": max_tokens, "temperature": temperature}

    def stream(model: str) -> Iterator[tuple[str, str]]:
        return api.stream(model, text, options, chat=chat)

    if as_json:
        answers = [_begun(model) for model in models]
        _at_once(answers, lambda answer: _read(answer, stream))
        print_json([{**answer, "by": name_of(api, answer)} for answer in answers])
    elif len(models) > 1:
        _compare(models, prompt, stream, api)
    else:
        answer = _begun(models[0])
        for piece in _pieces(answer, stream):
            typer.echo(piece, nl=False)
        typer.echo("")
        typer.echo(f"by {name_of(api, answer)}", err=True)


def _begun(model: str) -> AnswerRow:
    return {"model": model, "text": "", "revision": None}


def _pieces(answer: AnswerRow, stream: Stream) -> Iterator[str]:
    """Yield the pieces of an answer, which is filled in meanwhile."""
    for piece, revision in stream(str(answer["model"])):
        answer.update(text=f"{answer['text']}{piece}", revision=revision)
        yield piece


def _read(answer: AnswerRow, stream: Stream) -> None:
    """Fill in an answer. Raises MintError for a refusal."""
    for _ in _pieces(answer, stream):
        pass


def name_of(api: PublicApi, answer: AnswerRow) -> str:
    """Return POLICY@NUMBER of the revision that answered; its digest where the key may not look it up."""
    digest, policy = str(answer["revision"]), str(answer["model"]).partition("@")[0]
    if not digest.startswith("sha256:"):
        return digest
    try:
        found = api.get(path_of("policies", policy, "revisions", digest))
    except (Forbidden, NotFound):
        return digest
    return f"{policy}@{found['number']}"


def _compare(models: list[str], prompt: str, stream: Stream, api: PublicApi) -> None:
    """Ask all at once. Refusals are printed last, and the exit code is 1 then."""
    refusals: dict[str, MintError] = {}
    rows = [_begun(model) for model in models]
    console = Console()

    def read(row: AnswerRow) -> None:
        try:
            _read(row, stream)
            row["revision"] = name_of(api, row)
        except MintError as error:
            told = with_near_names(error, api, {}) if isinstance(error, NotFound) else error
            refusals[str(row["model"])] = told

    if console.is_terminal:
        with Live(console=console, get_renderable=lambda: make_table(rows, ANSWER, width=console.width)):
            _at_once(rows, read)
    else:
        _at_once(rows, read)
        print_rows([{**row, "text": repr(row["text"])} for row in rows], ANSWER, nothing="")
    for model, refusal in sorted(refusals.items()):
        typer.echo(f"{model}: {refusal}", err=True)
    words = [*(model for model in models[1:] if _is_no_name(refusals.get(model))), prompt]
    if len(words) > 1:
        typer.echo(f'mint: a prompt is one argument: mint ask {models[0]} "{" ".join(words)}"', err=True)
    if refusals:
        raise typer.Exit(1)


def _is_no_name(refusal: MintError | None) -> bool:
    return type(refusal) is NotFound and refusal.kind == "model" and "near" not in refusal.fields


def _at_once(rows: list[AnswerRow], read: Callable[[AnswerRow], None]) -> None:
    """Read all answers at once. Raises the first error of a read."""
    with ThreadPoolExecutor(MAX_AT_ONCE) as pool:
        list(pool.map(read, rows))
