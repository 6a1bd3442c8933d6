"""`mint adapter`: adapter folders between PEFT's layouts and MinT's packed one, without a stack."""

from collections.abc import Callable, Sequence
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import Annotated, Literal, get_args

import typer
from rich.console import Console
from rich.progress import BarColumn, DownloadColumn, Progress, TaskID, TextColumn, TimeRemainingColumn

from mint_client.commands.options import FolderOption
from mint_common.adapters_format import (
    DENSE,
    FUSED,
    MANIFEST_FILE,
    PACKED,
    WEIGHTS_FILE,
    BaseFacts,
    convert_adapter,
    read_base_facts,
    read_manifest,
)
from mint_common.adapters_format.check import check_values
from mint_common.adapters_format.merge import merge_adapter
from mint_common.adapters_format.origin import base_name_of, read_origin
from mint_common.errors import InvalidField, MintError
from services.standalone.adapters.bases import find_base
from services.standalone.commands.options import state_folder

adapter_app = typer.Typer(
    help="Check, merge, pack or unpack adapter folders.\n\nAn adapter is a folder with "
    "adapter_model.safetensors and adapter_config.json, exported by MinT or saved by PEFT. Adapters of "
    "experts are packed for serving and unpacked for PEFT. See docs/reference/adapter-format.md.",
    no_args_is_help=True,
    rich_markup_mode=None,
)

Tell = Callable[[int, int], None]
"""Told (bytes done, bytes in all)."""
UnpackedLayout = Literal["per-expert", "fused"]
"""PEFT's two layouts for experts."""

PathsArgument = Annotated[list[Path], typer.Argument(metavar="PATH", help="Adapter folders.")]
BaseOption = Annotated[
    str,
    typer.Option(
        metavar="BASE",
        help="The base: a name in the state folder, or a folder with mint_base.json. Default: the base that "
        "the adapter names.",
    ),
]
OutOption = Annotated[
    Path | None,
    typer.Option(
        metavar="DIR",
        help="Write to DIR/<name of the folder>. Default: next to each folder, with the layout appended to "
        "its name.",
    ),
]


@adapter_app.command(short_help="Pack PEFT adapters for serving.")
def pack(
    paths: PathsArgument,
    base: BaseOption = "",
    out: OutOption = None,
    folder: FolderOption = None,
) -> None:
    """Pack adapters of experts for serving: the experts of a projection become one tensor, and alpha is
    folded into B.

    The input is PEFT's per-expert or fused (`target_parameters`) layout. An adapter without experts is
    written in the layout dense/1. Each adapter is checked against its base; if one is refused, the others are
    still packed and the exit code is 1.

    Example: mint adapter pack ./my-adapter --base mixtral
    """
    _convert_all(paths, layout=PACKED, word="packed", base=base, out=out, folder=folder)


@adapter_app.command(short_help="Convert packed adapters to a layout that PEFT reads.")
def unpack(
    paths: PathsArgument,
    layout: Annotated[
        UnpackedLayout,
        typer.Option(
            "--as",
            help="per-expert: one tensor per expert, which most tools read; fused: PEFT's layout of "
            "target_parameters, only for adapters whose gate and up projections share A.",
        ),
    ] = "per-expert",
    base: BaseOption = "",
    out: OutOption = None,
    folder: FolderOption = None,
) -> None:
    """Convert packed adapters to a layout that PEFT reads. Packing the result gives the same adapter.

    Example: mint adapter unpack ./my-adapter-packed --as fused
    """
    chosen = DENSE if layout == "per-expert" else FUSED
    _convert_all(paths, layout=chosen, word=layout, base=base, out=out, folder=folder)


@adapter_app.command(short_help="Check adapters against their base.")
def check(paths: PathsArgument, base: BaseOption = "", folder: FolderOption = None) -> None:
    """Check adapters against their base and print what they are: layout, rank, dtype, size and targets. The
    exit code is 1 if an adapter is refused.

    Example: mint adapter check ./my-adapter
    """

    def examine(path: Path, tell: Tell) -> str:
        origin = read_origin(_facts(path, base, folder), path)
        size_bytes = (path / WEIGHTS_FILE).stat().st_size
        if not (path / MANIFEST_FILE).is_file():
            check_values(path / WEIGHTS_FILE, origin.dtype)
        tell(size_bytes, size_bytes)
        return (
            f"ok: {path}: {origin.layout}, rank {origin.rank}, {origin.dtype}, {len(origin.specs)} tensors, "
            f"{size_bytes / 1e6:.1f} MB, {' '.join(origin.targets)}, {_digest(path)}"
        )

    _for_each(paths, examine)


@adapter_app.command(short_help="Merge an adapter into its base and write the whole model.")
def merge(
    path: Annotated[Path, typer.Argument(metavar="PATH", help="The adapter's folder.")],
    out: Annotated[Path, typer.Option(metavar="DIR", help="New folder; it must not exist yet.")],
    base: BaseOption = "",
    folder: FolderOption = None,
) -> None:
    """Merge an adapter into its base and write the whole model, for servers that cannot load adapters.

    The new folder is as large as the base; memory use is bounded. MinT itself serves adapters without merging
    them. To serve or train a merged model as a new base, add it with `mint base add`.

    Example: mint adapter merge ./my-adapter --out ./merged
    """
    found = _base_folder(path, base, folder)

    def act(source: Path, tell: Tell) -> str:
        target = out.expanduser().absolute()
        size_bytes = merge_adapter(read_base_facts(found), found, source, target, progress=tell)
        return f"{out}: {size_bytes / 1e6:.1f} MB of weights"

    _for_each([path.expanduser().absolute()], act)


def _digest(path: Path) -> str:
    if not (path / MANIFEST_FILE).is_file():
        return "no manifest"
    return read_manifest((path / MANIFEST_FILE).read_bytes()).digest


def _convert_all(
    paths: Sequence[Path], *, layout: str, word: str, base: str, out: Path | None, folder: Path | None
) -> None:
    def convert(path: Path, tell: Tell) -> str:
        source = path.expanduser().absolute()
        target = out.expanduser().absolute() / source.name if out else _beside(source, word)
        manifest = convert_adapter(_facts(source, base, folder), source, target, layout=layout, progress=tell)
        return f"{target}: {manifest.layout}, rank {manifest.rank}, {manifest.digest}"

    _for_each(paths, convert)


def _beside(source: Path, word: str) -> Path:
    """Return the neighbour's name: `a` and `a-packed` unpack to `a-per-expert`, never to `a` itself."""
    stem = source.name
    for ending in ("packed", *get_args(UnpackedLayout)):
        stem = stem.removesuffix(f"-{ending}")
    return source.with_name(f"{stem}-{word}")


def _for_each(paths: Sequence[Path], act: Callable[[Path, Tell], str]) -> None:
    """Act on each path under progress bars on stderr, then print what was done and what was refused.

    If anything was refused, the exit code is 1.
    """
    done: list[str] = []
    refused: list[str] = []
    columns = TextColumn("{task.description}"), BarColumn(), DownloadColumn(), TimeRemainingColumn()
    console = Console(stderr=True)
    with Progress(*columns, console=console, transient=True, disable=not console.is_terminal) as progress:
        for path in paths:
            try:
                done.append(act(path, partial(_tell, progress, progress.add_task(path.name, total=None))))
            except (MintError, OSError) as error:
                refused.append(f"refused: {path}: {error}")
    for line in done:
        typer.echo(line)
    for line in refused:
        typer.echo(line, err=True)
    if refused:
        raise typer.Exit(1)


def _tell(progress: Progress, task: TaskID, done: int, total: int) -> None:
    progress.update(task, completed=done, total=total)


def _facts(path: Path, base: str, folder: Path | None) -> BaseFacts:
    return read_base_facts(_base_folder(path, base, folder))


def _base_folder(path: Path, base: str, folder: Path | None) -> Path:
    name = base or base_name_of(path)
    with suppress(OSError):  # a name too long for a path
        if base and Path(base).expanduser().is_dir():
            return Path(base).expanduser()
    state = state_folder(folder)
    if not name or "/" in name or name.startswith("."):
        problem = f"the adapter names {name!r}, which is no base of a state folder; say which with --base"
        raise InvalidField(field="base_model_name_or_path", problem=problem)
    return Path(find_base(state.bases, name).folder)
