"""The Python files of vLLM releases: the installed one, and others that are fetched and never installed."""

import ast
import subprocess
import sys
import tempfile
import zipfile
from collections.abc import Iterator
from functools import cache
from importlib.util import find_spec
from pathlib import Path

CACHE = Path(__file__).parents[1] / "out" / "vllm"


class Release:
    """The Python files of one vLLM."""

    def __init__(self, root: Path) -> None:
        self.root = root
        """The folder that holds the package's own."""

    @cache  # noqa: B019  # two of them in a process that ends
    def tree(self, module: str) -> ast.Module | None:
        """Return a module's source."""
        place = self.root.joinpath(*module.split("."))
        for file in (place.with_suffix(".py"), place / "__init__.py"):
            if file.exists():
                return ast.parse(file.read_text())
        return None

    def find(self, module: str, name: str, *, seen: frozenset[str] = frozenset()) -> ast.AST | str | None:
        """Return where a name of a module is defined, or the name of the module that it is."""
        if self.tree(f"{module}.{name}") is not None:
            return f"{module}.{name}"
        tree = self.tree(module)
        if tree is None or module in seen:
            return None
        for node in ast.walk(tree):
            if _defines(node, name):
                return node
        for source, original in _origins(tree, module, name):
            if source.split(".")[0] != "vllm":
                return tree  # another package's
            found = self.find(source, original, seen=seen | {module})
            if found is not None:
                return found
        return None

    def member(self, module: str, cls: ast.ClassDef, name: str, depth: int = 0) -> ast.AST | None:
        """Return what defines a member of a class, in it or in a base of it; the class for what it inherits
        from elsewhere, and so nobody knows."""
        for node in ast.walk(cls):
            if _defines(node, name) or _is_set_on_self(node, name):
                return node
        home = self._home(module, cls.name)
        unknown = None
        for base in cls.bases:
            base_name = base.id if isinstance(base, ast.Name) else None
            found = self.find(home, base_name) if base_name and depth < 8 else None
            if isinstance(found, ast.ClassDef):
                inherited = self.member(home, found, name, depth + 1)
                if inherited is not None:
                    return inherited
            elif base_name not in {"object", "ABC", "Protocol", "Generic"}:
                unknown = cls
        return unknown

    def _home(self, module: str, cls: str) -> str:
        """Return the module that defines a class which another one may only import."""
        tree = self.tree(module)
        for node in ast.walk(tree) if tree else ():
            if isinstance(node, ast.ClassDef) and node.name == cls:
                return module
        for node in ast.walk(tree) if tree else ():
            if isinstance(node, ast.ImportFrom) and node.module and node.module.startswith("vllm"):
                for alias in node.names:
                    if (alias.asname or alias.name) == cls:
                        return self._home(node.module, alias.name)
        return module

    @cache  # noqa: B019
    def identifiers(self) -> frozenset[str]:
        """Return every name that the files define, assign or have as an attribute."""
        names: set[str] = set()
        for part in (
            "lora",
            "v1",
            "model_executor/layers",
            "config",
            "engine",
            "platforms",
            "distributed",
            "utils",
        ):
            for file in (self.root / "vllm" / part).rglob("*.py"):
                for node in ast.walk(ast.parse(file.read_text())):
                    match node:
                        case ast.FunctionDef(name=name) | ast.AsyncFunctionDef(name=name):
                            names.add(name)
                        case ast.Attribute(attr=name) | ast.Name(id=name) | ast.arg(arg=name):
                            names.add(name)
        return frozenset(names)


def _defines(node: ast.AST, name: str) -> bool:
    match node:
        case ast.ClassDef() | ast.FunctionDef() | ast.AsyncFunctionDef():
            return node.name == name
        case ast.AnnAssign(target=ast.Name(id=target)):
            return target == name
        case ast.Assign():
            return any(isinstance(target, ast.Name) and target.id == name for target in node.targets)
    return False


def _is_set_on_self(node: ast.AST, name: str) -> bool:
    match node:
        case ast.Attribute(value=ast.Name(id="self"), attr=attr, ctx=ast.Store()):
            return attr == name
    return False


def _origins(tree: ast.Module, module: str, name: str) -> Iterator[tuple[str, str]]:
    """Yield from where a module imports a name, at once or when it is first asked for."""
    for node in ast.walk(tree):
        match node:
            case ast.ImportFrom(module=str(source)):
                yield from ((source, a.name) for a in node.names if (a.asname or a.name) == name)
            case ast.Dict():
                for key, value in zip(node.keys, node.values, strict=True):
                    match key, value:
                        case ast.Constant(value=str(at)), ast.Constant(value=str(to)) if (
                            at == name and ":" in to
                        ):
                            source, _, original = to.partition(":")
                            yield (module + source if source.startswith(".") else source), original


def installed() -> Release:
    """Return the vLLM of this environment."""
    spec = find_spec("vllm")
    assert spec is not None
    assert spec.origin is not None
    return Release(Path(spec.origin).parents[1])


def fetched(version: str, *, cache_folder: Path = CACHE) -> Release:
    """Return the Python files of the official wheel of a version, fetched once. Raises OSError."""
    folder = cache_folder / version
    if not (folder / "vllm" / "version.py").exists():
        with tempfile.TemporaryDirectory() as scratch:
            command = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "--no-cache-dir"]
            command += ["--only-binary=:all:", f"--dest={scratch}", f"vllm=={version}"]
            done = subprocess.run(command, capture_output=True, text=True, check=False)
            if done.returncode:
                raise OSError(f"pip finds no wheel of vllm {version}: {done.stderr.strip()[-300:]}")
            (wheel,) = Path(scratch).glob("*.whl")
            with zipfile.ZipFile(wheel) as archive:
                names = [n for n in archive.namelist() if n.startswith("vllm/") and n.endswith(".py")]
                archive.extractall(folder, names)
    return Release(folder)


def newest() -> str:
    """Return the newest version of vLLM that pip finds for this Python. Raises OSError."""
    command = [sys.executable, "-m", "pip", "index", "versions", "vllm"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        raise OSError(f"pip lists no vllm: {done.stderr.strip()[-300:]}")
    return done.stdout.split("(", 1)[1].split(")", 1)[0]
