"""`mint up`: start a stack and keep it running."""

import asyncio
import os
import signal
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console

from mint_client.adapters.public_api import PublicApi
from mint_client.commands.options import FolderOption
from mint_client.core.refusals import LocalFailureError
from mint_common.errors import MintError, SettingInvalid
from mint_common.waiting import cancel_all
from services.standalone.adapters.bases import TINY, ensure_base, list_bases
from services.standalone.adapters.memory import check_memory
from services.standalone.adapters.stack_file import load_stack_file
from services.standalone.adapters.state_folder import StateFolder
from services.standalone.app import Stack, gateway_port, open_stack
from services.standalone.commands.detached import HINT, up_detached
from services.standalone.commands.options import DTypeOption, state_folder
from services.standalone.commands.replay import replay, told_of
from services.standalone.core.findings import Verdict, examine_disk, examine_filesystem
from services.standalone.core.plan import SHARED_PARTS, BaseAt, BasePlan, TrackerPlan, parts_of, plan_alike
from services.standalone.core.refusals import StackRunningError
from services.standalone.core.state import DEFAULT_GATEWAY_PORT
from services.standalone.settings import read_standalone_settings
from services.standalone.views.parts import PartsView


def up(  # noqa: PLR0917  # typer passes them by name
    base: Annotated[
        list[str] | None,
        typer.Option(
            metavar="BASE",
            help="Base to serve and train: one added with `mint base add`, or tiny, smollm2, a folder, or "
            "ORG/NAME of a hub, which are added automatically. Repeatable. Default: the bases of the "
            "last start, else all of the state folder, else tiny.",
        ),
    ] = None,
    engines: Annotated[
        int,
        typer.Option(
            metavar="N",
            help="Number of engines per base. A request goes to an engine that has its adapter ready, if "
            "there is one.",
            min=1,
            max=64,
        ),
    ] = 1,
    dtype: DTypeOption = "auto",
    file: Annotated[
        Path | None,
        typer.Option(
            "--file",
            "-f",
            metavar="FILE",
            help="mint.yaml with the bases, the devices, dtype and settings of each engine and trainer "
            "(docs/operate/gpu.md), and trackers (docs/guides/trackers.md). Replaces --base, --engines and "
            "--dtype.",
        ),
    ] = None,
    folder: FolderOption = None,
    port: Annotated[
        int | None,
        typer.Option(
            metavar="N",
            help=f"The gateway's port on 127.0.0.1. Default: the last one, else {DEFAULT_GATEWAY_PORT}.",
            min=1,
            max=65535,
        ),
    ] = None,
    *,
    demo: Annotated[
        bool,
        typer.Option(
            "--demo",
            help="Fill a new stack with a recorded run over the base tiny, to look at in the console: "
            "policies with revisions, scores and alias moves, ended jobs with their rollouts, evaluation "
            "runs. Refused on a stack that has data.",
        ),
    ] = False,
    detach: Annotated[
        bool,
        typer.Option(
            "--detach", "-d", help="Return when the stack is up; it runs until `mint down` or a restart."
        ),
    ] = False,
) -> None:
    """Start Postgres, NATS and all services on this machine, and keep them running until Ctrl-C.

    Each part starts when the parts that it needs are ready; a part that ends is restarted. Bases that are
    ready answer while others still load. To use an external database, bus or object store, set
    MINT_POSTGRES_DSN, MINT_NATS_URL or MINT_BLOBS_URL; that part is then not started here.

    Example: mint up --base smollm2
    """
    console = Console()
    state = state_folder(folder)
    pid = state.running_pid()
    if pid is not None:
        raise StackRunningError(folder=str(state.root), pid=pid)
    state.create()
    _check_disk(state, console)
    if detach:
        up_detached(state)
        return
    if file is None:
        gateway_port(state, port)  # a taken one is found before a base is added
        names = [*(base or _usual_bases(state)), *([TINY] if demo else [])]
        places = _places(state, dict.fromkeys(names, plan_alike(engines=engines, dtype=dtype)), console)
        asyncio.run(_serve(state, places, port, console, recorded=_replayed(state, places, is_asked=demo)))
        return
    if base or engines != 1 or dtype != "auto":
        raise typer.BadParameter("says all that --base, --engines and --dtype would say", param_hint="--file")
    asked = load_stack_file(file)
    gateway_port(state, port or asked.port)
    try:
        places = _places(state, asked.bases, console)
        recorded = _replayed(state, places, is_asked=demo)
        asyncio.run(_serve(state, places, port or asked.port, console, asked.trackers, recorded=recorded))
    except SettingInvalid as error:
        raise asked.located(error) from error


def _check_disk(state: StateFolder, console: Console) -> None:
    """Refuse a disk that `mint doctor` would fail, and pass on its warnings. Raises LocalFailureError."""
    disk = examine_disk(state.free_bytes(), str(state.root))
    if disk.verdict is Verdict.FAIL:
        raise LocalFailureError(what=disk.subject, problem=f"{disk.found}: {disk.advice}")
    for each in (disk, *examine_filesystem(state.filesystem(), str(state.root))):
        if each.verdict is Verdict.WARN:
            console.print(f"{each.subject}: {each.found}: {each.advice}", markup=False, highlight=False)


def _places(state: StateFolder, plans: Mapping[str, BasePlan], console: Console) -> list[BaseAt]:
    return [
        replace(ensure_base(state.bases, name, report=console.print, probes=True), plan=plan)
        for name, plan in plans.items()
    ]


def _usual_bases(state: StateFolder) -> list[str]:
    remembered = list(state.read_state().bases)
    return remembered or [facts.name for _, facts in list_bases(state.bases)] or [TINY]


def _replayed(state: StateFolder, places: Sequence[BaseAt], *, is_asked: bool) -> Sequence[str]:
    """Fill a new stack with the recorded run, if asked; return what to say of it."""
    return [told_of(replay(state, places))] if is_asked else []


async def _serve(
    state: StateFolder,
    bases: list[BaseAt],
    port: int | None,
    console: Console,
    trackers: Sequence[TrackerPlan] = (),
    *,
    recorded: Sequence[str] = (),
) -> None:
    settings = read_standalone_settings(os.environ)
    check_memory(bases, settings.overrides)
    view = PartsView(console)
    opening = open_stack(state, bases, port=port, settings=settings, observers=(view,), trackers=trackers)
    reminding = asyncio.create_task(view.remind())
    try:
        async with opening as stack:
            for number in (signal.SIGINT, signal.SIGTERM):
                asyncio.get_running_loop().add_signal_handler(number, stack.supervisor.stop)
            with view.live():
                await stack.supervisor.any_ready([(*SHARED_PARTS, *parts_of(base)) for base in bases])
            await asyncio.to_thread(_welcome, view, state, stack, bases, recorded)
            await stack.supervisor.ended()
            view.say("stopping")
    finally:
        await cancel_all(reminding)
    view.say("stopped")


def _welcome(
    view: PartsView, state: StateFolder, stack: Stack, bases: list[BaseAt], recorded: Sequence[str]
) -> None:
    """Say how to use the stack, and which bases do not answer yet or are not started."""
    starting = [base.name for base in bases if not view.are_ready(parts_of(base))]
    up = ", ".join(base.name for base in bases if base.name not in starting)
    lines = [
        f"\nMinT is up: {stack.gateway_url} with {up}",
        f"  the console: {stack.gateway_url}/console",
        *recorded,
        *([f"  still loading: {', '.join(starting)}"] if starting else []),
        *not_started(_known_bases(state, stack), bases),
        f"  the API key is in {state.api_key_file}; logs are in {state.logs}\n",
        f"  export MINT_URL={stack.gateway_url} MINT_API_KEY=$(cat {state.api_key_file})",
        '  curl -H "Authorization: Bearer $MINT_API_KEY" $MINT_URL/v1/models\n',
        HINT,
    ]
    view.say("\n".join(lines))


def _known_bases(state: StateFolder, stack: Stack) -> dict[str, bool]:
    """Return the bases that the folder or the registry has, and whether the folder does."""
    here = {facts.name for _, facts in list_bases(state.bases)}
    registered = set[str]()
    with suppress(MintError), PublicApi(stack.gateway_url, stack.api_key) as api:
        registered = {base["name"] for base in api.get("/bases")}
    return {name: name in here for name in sorted(here | registered)}


def not_started(known: Mapping[str, bool], bases: Sequence[BaseAt]) -> list[str]:
    """Return what to say of known bases that are not started: nothing of theirs answers or trains."""
    started = [base.name for base in bases]
    others = [name for name in known if name not in started]
    if not others:
        return []
    command = " ".join(["mint up", *(f"--base {name}" for name in (*started, *others))])
    lost = "".join(f"; `mint base add` brings {name} back first" for name in others if not known[name])
    return [f"  not started: {', '.join(others)} (`{command}` starts all{lost})"]
