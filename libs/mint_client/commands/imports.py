"""`mint policy import`: adapters that people have become policies, one or thousands."""

import errno
import time
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from dataclasses import dataclass
from itertools import chain
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from mint_client.adapters.adapter_collections import Collection, collection_at
from mint_client.adapters.adapter_sources import adapter_folder, named_base
from mint_client.adapters.public_api import Json, PublicApi, path_of
from mint_client.commands.api import Listing
from mint_client.core.columns import FIELD, POLICY
from mint_client.core.importing import (
    ImportOutcome,
    Listed,
    base_for,
    by_policy,
    outcome_of,
    report_line,
    taken_before,
)
from mint_client.core.refusals import AdaptersRefusedError
from mint_client.core.tables import field_rows
from mint_client.views.terminal import sending
from mint_common.errors import InvalidField, MintError

AT_ONCE = 8
ATTEMPTS = 6
MAX_SHOWN = 10
"""Refused adapters that are printed; the report has all."""
_OF_ALL = ("unauthorized", "forbidden", "quota_exceeded")
"""Codes of errors that every other adapter would get too."""


def import_policy(
    api: PublicApi,
    name: Annotated[str | None, typer.Argument(metavar="NAME", help="The policy's name.")] = None,
    adapter: Annotated[
        str | None,
        typer.Argument(
            metavar="ADAPTER",
            help="A folder as PEFT saved it, a tar of one, or hf:ORG/NAME[@REVISION] of a model hub.",
        ),
    ] = None,
    *,
    base: Annotated[
        str | None,
        typer.Option(
            metavar="BASE", help="The base. Default: the one that the adapter names, or the only one."
        ),
    ] = None,
    all_of: Annotated[
        str | None,
        typer.Option(
            "--all",
            metavar="FOLDER|s3://BUCKET/PREFIX",
            help="Import all adapters below: folders with an adapter_config.json, and tars. A policy has the "
            "name of its path.",
        ),
    ] = None,
    report: Annotated[
        Path,
        typer.Option(
            metavar="FILE",
            help="Report of --all, a line of JSON for each adapter. Adapters in it are left out if imported.",
        ),
    ] = Path("mint-import.jsonl"),
) -> Listing:
    """Make a policy of an adapter that was trained elsewhere, with its rank, alpha and targets.

    Any plain LoRA of PEFT is taken exactly: ranks and alphas by pattern, some layers only, rsLoRA. If the
    policy exists already, the adapter is its next revision; its rank and targets must have room for it. With
    --all thousands are imported, eight at a time; a refused one does not stop the others, and the exit code
    is 1. The same command again goes on where it stopped.

    Example: mint policy import support hf:my-org/support-lora
    """
    if all_of is not None and name is None:
        return _import_all(api, all_of, base=base, report=report.expanduser())
    if all_of is not None or name is None or adapter is None:
        raise InvalidField(field="ADAPTER", problem="needs NAME and ADAPTER, or --all FOLDER alone")
    with adapter_folder(adapter) as folder:
        chosen = base or base_for(named_base(folder), _bases(api))
        console = Console(stderr=True)
        with sending(console) as progress:
            found = api.upload(path_of("policies", name, "revisions"), folder, {"base": chosen}, progress)
    for warning in found["warnings"]:
        console.print(f"Note: {warning}")
    policy = api.get(path_of("policies", name))
    return Listing(answer={**policy, "revision": found}, rows=[policy], columns=POLICY)


def _bases(api: PublicApi) -> list[str]:
    return [row["name"] for row in api.get("/bases")]


def _import_all(api: PublicApi, place: str, *, base: str | None, report: Path) -> Listing:
    began = time.monotonic()
    collection = collection_at(place)
    chosen, unnamed = by_policy(collection.adapters())
    before = _read_report(report, stack=api.url)
    waiting = {name: each for name, each in chosen.items() if each not in before}
    importer = _Importer(api=api, collection=collection, bases=_bases(api), base=base)
    counts = {"adapters": len(chosen) + len(unnamed), "imported before": len(chosen) - len(waiting)}
    results: list[ImportOutcome] = []
    is_cut = report.exists() and not report.read_bytes().endswith(b"\n")
    with report.open("a", encoding="utf-8") as file:
        if is_cut:  # the command was killed in a line
            file.write("\n")
        for outcome in chain(unnamed, importer.outcomes(waiting)):
            file.write(report_line(outcome, stack=api.url) + "\n")
            file.flush()
            results.append(outcome)
    refused = [each for each in results if each.error]
    taken = len(results) - len(refused)
    if refused:
        _show(refused)
        raise AdaptersRefusedError(refused=len(refused), taken=taken, report=str(report))
    found = {
        **counts,
        "imported": taken,
        "seconds": round(time.monotonic() - began, 1),
        "report": str(report),
    }
    return Listing(answer=found, columns=FIELD, rows=field_rows(found))


def _read_report(report: Path, *, stack: str) -> set[Listed]:
    if not report.exists():
        return set()
    with report.open(encoding="utf-8") as file:
        return taken_before(file, stack=stack)


@dataclass(frozen=True, slots=True, kw_only=True)
class _Importer:
    """Imports the adapters of a collection over a base, or each over the base that it names."""

    api: PublicApi
    collection: Collection
    bases: Sequence[str]
    base: str | None

    def outcomes(self, waiting: Mapping[str, Listed]) -> Iterator[ImportOutcome]:
        """Yield what became of each adapter, by its policy's name. Raises an error that all would get."""
        columns = TextColumn("importing"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn()
        console = Console(stderr=True)
        pool = ThreadPoolExecutor(AT_ONCE)
        with Progress(*columns, console=console, transient=True, disable=not console.is_terminal) as progress:
            task = progress.add_task("", total=len(waiting))
            try:
                for future in as_completed([pool.submit(self._outcome, *each) for each in waiting.items()]):
                    progress.advance(task)
                    yield future.result()
            finally:
                pool.shutdown(cancel_futures=True)

    def _outcome(self, name: str, adapter: Listed) -> ImportOutcome:
        try:
            with self.collection.folder(adapter) as folder:
                chosen = self.base or base_for(named_base(folder), self.bases)
                found = self._sent(name, folder, chosen)
        except (MintError, OSError) as error:
            if isinstance(error, OSError) and error.errno == errno.ENOSPC:
                raise
            outcome = outcome_of(adapter, name, error)
            if outcome.error in _OF_ALL or getattr(error, "retryable", False):
                raise
            return outcome
        return ImportOutcome(
            adapter=adapter.path,
            version=adapter.version,
            policy=name,
            revision=found["number"],
            digest=found["digest"],
            notes=tuple(found["warnings"]),
        )

    def _sent(self, name: str, folder: Path, base: str) -> Json:
        """Upload an adapter; what can be retried is, for a minute."""
        path = path_of("policies", name, "revisions")
        attempt = 1
        while True:
            try:
                return self.api.upload(path, folder, {"base": base}, lambda *_: None)
            except MintError as error:
                if not error.retryable or attempt == ATTEMPTS:
                    raise
                time.sleep(max(2.0**attempt, float(error.fields.get("retry_after_seconds", 0))))
                attempt += 1


def _show(refused: Sequence[ImportOutcome]) -> None:
    for outcome in refused[:MAX_SHOWN]:
        typer.echo(f"{outcome.adapter}: {outcome.problem}", err=True)
    if len(refused) > MAX_SHOWN:
        typer.echo(f"and {len(refused) - MAX_SHOWN} more", err=True)
