"""Fetches the files of a base from a model hub into its cache, through huggingface_hub.

Invariants: everything is of one commit, which the revision is resolved to once; a file whose content is not
what the hub's listing says is removed from the cache and refused. HF_ENDPOINT, HF_TOKEN, HF_HOME and
HF_HUB_OFFLINE mean what they mean to that library. It continues a download that breaks; one that it gives up
is tried again, and files that are complete are kept between two runs.
"""

import contextlib
import hashlib
import threading
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, Self

from huggingface_hub import HfApi, constants, hf_hub_download, try_to_load_from_cache
from huggingface_hub.errors import (  # type: ignore[attr-defined]  # HTTPError: of its own HTTP client
    GatedRepoError,
    HfHubHTTPError,
    HTTPError,
    LocalEntryNotFoundError,
    OfflineModeIsEnabled,
    RepositoryNotFoundError,
    RevisionNotFoundError,
    RevisionResolutionError,
)
from huggingface_hub.hf_api import RepoFile

from mint_client.core.tables import shown_bytes
from mint_common.errors import MintError
from services.standalone.core.base_sources import HubSource
from services.standalone.core.refusals import HubRefusedError, HubUnreachableError

_CONNECTIONS = 4
_ATTEMPTS = 3
_PARTS = 20
_SHOW_TOKEN = "set HF_TOKEN to a token that may read it"  # noqa: S105  # a sentence

Report = Callable[[str], None]


@dataclass(frozen=True, slots=True, kw_only=True)
class HubFile:
    """A file of a commit. ``sha256`` is known of large files, ``git_sha1`` of others, neither offline."""

    size_bytes: int
    sha256: str = ""
    git_sha1: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class HubModel:
    """A model of a hub at one commit, and its files by name."""

    source: HubSource
    commit: str
    files: Mapping[str, HubFile]

    def missing_bytes(self, names: Collection[str]) -> int:
        """Return how many bytes of some files are still to be downloaded."""
        cached = partial(try_to_load_from_cache, self.source.repo, revision=self.commit)
        return sum(self.files[name].size_bytes for name in names if not isinstance(cached(name), str))


def find_model(source: HubSource) -> HubModel:
    """Resolve a revision to its commit and list the files at its top. Raises what `_told` says."""
    offline = constants.is_offline_mode()
    with _told(source):
        api = HfApi()
        revision = api.resolve_revision(
            source.repo, revision=source.revision, local_files_only=offline
        ).resolved
        if offline:
            return HubModel(source=source, commit=revision, files=_cached_files(source, revision))
        entries = api.list_repo_tree(source.repo, revision=revision)
        files = {entry.path: _hub_file(entry) for entry in entries if isinstance(entry, RepoFile)}
    return HubModel(source=source, commit=revision, files=files)


def cache_folder() -> Path:
    """Return where downloads are kept."""
    return Path(constants.HF_HUB_CACHE)


def fetch(model: HubModel, names: Sequence[str], *, report: Report) -> Path:
    """Download files that are not cached, and return the folder that has them all.

    Raises HubUnreachableError when it breaks each time, HubRefusedError for a file that is not as listed.
    """
    progress = _Progress(model.missing_bytes(names), report)
    for attempt in range(1, _ATTEMPTS + 1):
        try:
            with _told(model.source):
                folder = _fetch(model, names, progress)
            break
        except HubUnreachableError as error:
            if attempt == _ATTEMPTS:
                raise
            report(f"{error} Trying again.")
    for name in names:
        _verify(model, name, folder / name)
    return folder


def _fetch(model: HubModel, names: Sequence[str], progress: "_Progress") -> Path:
    def one(name: str) -> Path:
        bar: Any = progress  # the library wants a class of tqdm's shape
        return Path(hf_hub_download(model.source.repo, name, revision=model.commit, tqdm_class=bar))

    with ThreadPoolExecutor(_CONNECTIONS) as pool:
        places = list(pool.map(one, names))
    return places[0].parent


def _hub_file(entry: RepoFile) -> HubFile:
    if entry.lfs is not None:
        return HubFile(size_bytes=entry.lfs.size, sha256=entry.lfs.sha256)
    return HubFile(size_bytes=entry.size, git_sha1=entry.blob_id)


def _cached_files(source: HubSource, commit: str) -> dict[str, HubFile]:
    config = try_to_load_from_cache(source.repo, "config.json", revision=commit)
    if not isinstance(config, str):
        raise LocalEntryNotFoundError(f"no config.json of {commit}")
    return {
        path.name: HubFile(size_bytes=path.stat().st_size)
        for path in Path(config).parent.iterdir()
        if path.is_file()
    }


def _verify(model: HubModel, name: str, path: Path) -> None:
    """Refuse a file that is not what the listing says, and remove it from the cache."""
    listed = model.files[name]
    if not (listed.sha256 or listed.git_sha1):
        return
    git_head = f"blob {path.stat().st_size}\0".encode()
    begin = hashlib.sha256 if listed.sha256 else partial(hashlib.sha1, git_head, usedforsecurity=False)
    with path.open("rb") as file:
        found = hashlib.file_digest(file, begin).hexdigest()
    expected = listed.sha256 or listed.git_sha1
    if found != expected:
        path.resolve().unlink()
        path.unlink(missing_ok=True)
        problem = (
            f"{name} has the digest {found}, but {expected} is listed. It is removed from the"
            " cache: try again. If that ends the same, the hub, or a proxy before it, serves wrong content"
        )
        raise _refused(model.source, problem)


class _Progress:
    """Tells of every twentieth of the bytes that are written, from whatever thread.

    To huggingface_hub it is the class of progress bars and each of them: it has the methods that are called.
    """

    def __init__(self, total_bytes: int, report: Report) -> None:
        self._total = total_bytes
        self._report = report
        self._count = 0
        self._told = 0
        self._lock = threading.Lock()

    def __call__(self, **_options: object) -> Self:
        return self

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_error: object) -> None:
        pass

    def update(self, n: float | None = 1) -> None:
        """Count bytes that are written; fewer than none when a file begins again."""
        with self._lock:
            self._count += int(n or 0)
            part = min(_PARTS, self._count * _PARTS // max(self._total, 1))
            if part > self._told:
                self._told = part
                self._report(f"downloaded {shown_bytes(self._count)} of {shown_bytes(self._total)}")

    def update_transfer(self, n: float | None = 1) -> None:
        """Ignore bytes that have arrived but are not written."""

    def set_postfix_str(self, postfix: str, refresh: bool = False) -> None:  # noqa: FBT001, FBT002  # tqdm's
        """Ignore a file's rate."""

    set_transfer_postfix_str = set_postfix_str

    def close(self) -> None:
        """End."""


@contextlib.contextmanager
def _told(source: HubSource) -> Iterator[None]:
    """Turn the library's errors into HubRefusedError, or HubUnreachableError: another try may mend that."""
    try:
        yield
    except HfHubHTTPError as error:
        raise _answered(source, error) from error
    except (LocalEntryNotFoundError, RevisionResolutionError, OfflineModeIsEnabled) as error:
        if constants.is_offline_mode():
            problem = "is not in the cache, and HF_HUB_OFFLINE forbids to download it: unset it"
            raise _refused(source, problem) from error
        raise _unreachable(error.__cause__ or error) from error
    except (HTTPError, OSError) as error:
        raise _unreachable(error) from error


def _answered(source: HubSource, error: HfHubHTTPError) -> MintError:
    """Return what is told of a hub's answer."""
    status = error.response.status_code
    if isinstance(error, GatedRepoError):
        page = f"{constants.ENDPOINT}/{source.repo}"
        return _refused(source, f"is gated: accept its terms at {page}, then {_SHOW_TOKEN}")
    if isinstance(error, RevisionNotFoundError):
        return _refused(source, f"it has no branch, tag or commit {source.revision!r}")
    if status == 401 or isinstance(error, RepositoryNotFoundError):
        problem = f"there is no such model, nor such a folder here; if it is private, {_SHOW_TOKEN}"
        return _refused(source, problem)
    if status == 403:
        problem = f"access is refused (403): accept its terms if it has any, and {_SHOW_TOKEN}"
        return _refused(source, problem)
    if status == 429 or status >= 500:
        return _unreachable(error)
    return _refused(source, f"the hub answered {status}: {_first_line(error)}")


def _refused(source: HubSource, problem: str) -> HubRefusedError:
    return HubRefusedError(repo=source.repo, endpoint=constants.ENDPOINT, problem=problem)


def _unreachable(error: BaseException) -> HubUnreachableError:
    return HubUnreachableError(
        endpoint=constants.ENDPOINT, problem=f"{type(error).__name__}: {_first_line(error)}"
    )


def _first_line(error: BaseException) -> str:
    return str(error).strip().partition("\n")[0]
