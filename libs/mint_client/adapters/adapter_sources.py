"""Adapters where users have them: a folder, a tar, a repository of a model hub."""

import gzip
import json
import lzma
import shutil
import tarfile
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from mint_client.core.refusals import ExtraMissingError, LocalFailureError
from mint_client.core.source_names import HUB
from mint_common.model_files import CONFIG_FILE, MANIFEST_FILE, WEIGHTS_FILE

ADAPTER_FILES = (WEIGHTS_FILE, CONFIG_FILE, MANIFEST_FILE)
_PICKLE = "adapter_model.bin"


@contextmanager
def adapter_folder(source: str, *, shown: str = "") -> Iterator[Path]:
    """Yield a folder with an adapter's files. Errors name the source, or what is ``shown`` for it.

    Raises LocalFailureError, ExtraMissingError, OSError.
    """
    path, shown = Path(source).expanduser(), shown or source
    if source.startswith(HUB):
        yield _complete(_fetched(source), source)
    elif path.is_dir():
        yield _complete(path, shown)
    elif path.is_file():
        with TemporaryDirectory(prefix="mint-adapter-") as folder:
            _unpack(path, Path(folder), shown)
            yield _complete(Path(folder), shown)
    else:
        raise LocalFailureError(what=source, problem="there is no such folder or tar")


def named_base(folder: Path) -> str:
    """Return the base that an adapter's config names, "" for none. Raises LocalFailureError."""
    try:
        config: Any = json.loads((folder / CONFIG_FILE).read_bytes())
    except (ValueError, RecursionError):
        config = None
    if not isinstance(config, dict):
        raise LocalFailureError(what=str(folder / CONFIG_FILE), problem="is not a JSON object")
    return str(config.get("base_model_name_or_path") or "")


def _unpack(path: Path, folder: Path, shown: str) -> None:
    """Write an adapter's files, wherever in a tar, to a folder. Raises LocalFailureError, OSError."""
    try:
        with tarfile.open(path) as archive:
            for member in archive:
                name = member.name.rpartition("/")[2]
                is_wanted = member.isreg() and name in ADAPTER_FILES
                content = archive.extractfile(member) if is_wanted else None
                if content is None:
                    continue
                if (folder / name).exists():
                    raise LocalFailureError(what=shown, problem=f"has two files {name}: one adapter a tar")
                with (folder / name).open("wb") as file:
                    shutil.copyfileobj(content, file)
    except (tarfile.TarError, EOFError, gzip.BadGzipFile, zlib.error, lzma.LZMAError) as error:
        raise LocalFailureError(what=shown, problem="is no tar, or is cut off") from error


def _complete(folder: Path, source: str) -> Path:
    """Return the folder if it has what an adapter needs."""
    missing = [name for name in (CONFIG_FILE, WEIGHTS_FILE) if not (folder / name).is_file()]
    if not missing:
        return folder
    problem = f"has no {' and no '.join(missing)}"
    if missing == [WEIGHTS_FILE] and (folder / _PICKLE).exists():
        problem += f"; {_PICKLE} can run code when it is loaded: save it again with safe_serialization=True"
    elif list(folder.glob(f"*/{CONFIG_FILE}")):
        problem += "; its folders have: name one, or take all of them with --all"
    raise LocalFailureError(what=source, problem=problem)


def _fetched(source: str) -> Path:
    name, _, revision = source.removeprefix(HUB).partition("@")
    hub = hub_of(f"{HUB}ORG/NAME")
    with hub_errors(name):
        return Path(
            hub.snapshot_download(name, revision=revision or None, allow_patterns=[*ADAPTER_FILES, _PICKLE])
        )


def hub_of(what: str) -> Any:  # a module
    """Return huggingface_hub, which is an extra of the client. Raises ExtraMissingError."""
    try:
        import huggingface_hub
    except ImportError as error:
        raise ExtraMissingError(option=what, package="huggingface_hub") from error
    return huggingface_hub


@contextmanager
def hub_errors(name: str) -> Iterator[None]:
    """Turn what a hub answers about a repository into a sentence. Raises LocalFailureError."""
    from huggingface_hub import errors

    token = "set HF_TOKEN to a token that may"  # noqa: S105  # a sentence
    try:
        yield
    except errors.GatedRepoError as error:
        problem = f"is gated: ask for access on its page, then {token} read it"
        raise LocalFailureError(what=name, problem=problem) from error
    except errors.RevisionNotFoundError as error:
        raise LocalFailureError(what=name, problem="has no such revision") from error
    except (errors.HFValidationError, errors.LocalEntryNotFoundError) as error:
        problem = str(error).partition("\n")[0]
        raise LocalFailureError(what=name, problem=problem) from error
    except errors.HfHubHTTPError as error:
        status = error.response.status_code
        if status == 401 or isinstance(error, errors.RepositoryNotFoundError):  # a hub does not say which
            problem = f"is not there, or is private: check the name, or {token} use it"
        else:
            problem = f"the hub answers {status}" + (f": {token} do it" if status == 403 else "")
        raise LocalFailureError(what=name, problem=problem) from error
    except (errors.OfflineModeIsEnabled, errors.HTTPError) as error:  # type: ignore[attr-defined]  # of its client
        raise LocalFailureError(what=name, problem=f"the hub cannot be reached: {error}") from error
