"""Many adapters in one place: below a folder, or below a prefix of an S3 bucket."""

from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, Protocol

from mint_client.adapters.adapter_sources import ADAPTER_FILES, adapter_folder
from mint_client.core.importing import Listed
from mint_client.core.refusals import ExtraMissingError, LocalFailureError
from mint_common.model_files import CONFIG_FILE, WEIGHTS_FILE

S3 = "s3://"
_TAR = ".tar"


class Collection(Protocol):
    """Adapters in one place: folders with an adapter_config.json, and tars."""

    def adapters(self) -> Iterator[Listed]:
        """Yield them by path."""
        ...

    def folder(self, adapter: Listed) -> AbstractContextManager[Path]:
        """Yield a local folder with one. Raises LocalFailureError, OSError."""
        ...


def collection_at(place: str) -> Collection:
    """Return the adapters at a place. Raises LocalFailureError, ExtraMissingError."""
    if place.startswith(S3):
        return _Bucket(place)
    root = Path(place).expanduser()
    if not root.is_dir():
        raise LocalFailureError(what=place, problem="there is no such folder")
    return _Folder(root)


class _Folder:
    def __init__(self, root: Path) -> None:
        self._root = root

    def adapters(self) -> Iterator[Listed]:
        found = [*self._root.rglob(f"*/{CONFIG_FILE}"), *self._root.rglob(f"*{_TAR}")]
        for path in sorted(found):
            place = path.parent if path.name == CONFIG_FILE else path
            yield Listed(path=place.relative_to(self._root).as_posix(), version=_version(path))

    def folder(self, adapter: Listed) -> AbstractContextManager[Path]:
        return adapter_folder(str(self._root / adapter.path))


def _version(path: Path) -> str:
    files = [path] if path.suffix == _TAR else [path, path.with_name(WEIGHTS_FILE)]
    return ",".join(f"{(stat := each.stat()).st_size}-{stat.st_mtime_ns}" for each in files if each.exists())


class _Bucket:
    """Adapters in S3, as boto3 finds its region, its keys and AWS_ENDPOINT_URL."""

    def __init__(self, place: str) -> None:
        try:
            import boto3
            from boto3.exceptions import Boto3Error
            from botocore.exceptions import BotoCoreError, ClientError
        except ImportError as error:
            raise ExtraMissingError(option=S3, package="boto3") from error
        self._place = place
        self._bucket, _, prefix = place.removeprefix(S3).partition("/")
        self._prefix = prefix.rstrip("/") + "/" if prefix.strip("/") else ""
        self._client: Any = boto3.client("s3")  # which has no types
        self._errors = (Boto3Error, BotoCoreError, ClientError)
        self._keys = frozenset[str]()

    def adapters(self) -> Iterator[Listed]:
        versions: dict[str, str] = {}
        with self._told(self._place):
            pages = self._client.get_paginator("list_objects_v2")
            for page in pages.paginate(Bucket=self._bucket, Prefix=self._prefix):
                for item in page.get("Contents", ()):
                    versions[item["Key"].removeprefix(self._prefix)] = item["ETag"].strip('"')
        self._keys = frozenset(versions)
        for key in sorted(versions):
            folder, _, name = key.rpartition("/")
            if folder and name == CONFIG_FILE:
                weights = versions.get(f"{folder}/{WEIGHTS_FILE}", "")
                yield Listed(path=folder, version=f"{versions[key]},{weights}")
            elif key.endswith(_TAR):
                yield Listed(path=key, version=versions[key])

    @contextmanager
    def folder(self, adapter: Listed) -> Iterator[Path]:
        with TemporaryDirectory(prefix="mint-adapter-") as place:
            target = Path(place)
            if adapter.path.endswith(_TAR):
                target = target / f"adapter{_TAR}"
                self._fetch(adapter.path, target)
            for name in ADAPTER_FILES:
                if (key := f"{adapter.path}/{name}") in self._keys:
                    self._fetch(key, target / name)
            with adapter_folder(str(target), shown=self._named(adapter.path)) as folder:
                yield folder

    def _named(self, key: str) -> str:
        return f"{self._place.rstrip('/')}/{key}"

    def _fetch(self, key: str, path: Path) -> None:
        with self._told(self._named(key)):
            self._client.download_file(self._bucket, self._prefix + key, str(path))

    @contextmanager
    def _told(self, what: str) -> Iterator[None]:
        try:
            yield
        except self._errors as error:
            raise LocalFailureError(what=what, problem=str(error)) from error
