"""Compare what the loader uses of vLLM with another release of it, without installing that one.

``python -m tools.check_seams 0.33.0`` fetches the Python files of the official wheel by name and prints a
table of the differences from the installed vLLM that the loader's code would meet. What it uses is read from
its source: imported names, attributes of imported classes and modules, methods that it replaces or overrides,
keywords of calls, environment variables, and the names of attributes whose class cannot be told. Of functions
whose very statements the loader counts on (`COUNTED_ON`) the bodies are compared too.
"""

import argparse
import ast
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from pathlib import Path

from tools.vllm_releases import Release, fetched, installed, newest

ROOT = Path(__file__).parents[1]
LOADER = ROOT / "services" / "loader"

_LAYERS = "vllm.lora.layers"
_LINEAR = ("ColumnParallel", "MergedColumnParallel", "QKVParallel", "MergedQKVParallel", "RowParallel")
COUNTED_ON = (
    *(("vllm.lora.model_manager", f"LoRAModelManager.{name}") for name in (
        "_create_merged_loras_inplace", "_get_lora_layer_weights", "deactivate_adapter", "activate_adapter",
    )),
    *((_LAYERS, f"{kind}LinearWithLoRA.{name}") for kind in _LINEAR for name in (
        "set_lora", "reset_lora", "slice_lora_a", "slice_lora_b",
    )),
    *((_LAYERS, f"FusedMoEWithLoRA.{name}") for name in (
        "set_lora", "reset_lora", "_slice_w13_a", "_slice_w13_b", "_slice_w2_a", "_slice_w2_b",
    )),
    ("vllm.v1.core.sched.scheduler", "Scheduler._preempt_request"),
    ("vllm.v1.core.sched.scheduler", "Scheduler.finish_requests"),
)  # fmt: skip


@dataclass(frozen=True, slots=True, order=True)
class Difference:
    """One thing that another release does otherwise: ``what`` the loader uses, and where."""

    kind: str
    what: str
    where: str
    problem: str


@dataclass(frozen=True, slots=True)
class Use:
    """Something of vLLM that the loader's source names."""

    module: str
    path: tuple[str, ...]
    where: str


@dataclass(frozen=True, slots=True)
class Source:
    """What the loader's code names of vLLM, and where."""

    uses: tuple[Use, ...]
    keywords: tuple[tuple[Use, str], ...]
    overridden: tuple[Use, ...]
    variables: tuple[tuple[str, str], ...]
    attributes: tuple[tuple[str, str], ...]


def read_source(folder: Path = LOADER) -> Source:
    """Collect what a folder's Python files use of vLLM."""
    uses: list[Use] = []
    keywords: list[tuple[Use, str]] = []
    overridden: list[Use] = []
    variables: list[tuple[str, str]] = []
    attributes: list[tuple[str, str]] = []
    for file in sorted(folder.rglob("*.py")):
        tree, where = ast.parse(file.read_text()), str(file.relative_to(ROOT))
        names = dict(_imported(tree))
        uses += [Use(module, path, where) for module, path in names.values()]
        for node in ast.walk(tree):
            match node:
                case ast.Attribute(value=ast.Name(id=name), attr=attr) if name in names:
                    module, path = names[name]
                    uses.append(Use(module, (*path, attr), f"{where}:{node.lineno}"))
                case ast.Call(func=ast.Name(id=name)) if name in names:
                    use = Use(*names[name], f"{where}:{node.lineno}")
                    keywords += [(use, word.arg) for word in node.keywords if word.arg]
                case ast.ClassDef():
                    bases = [
                        names[base.id]
                        for base in node.bases
                        if isinstance(base, ast.Name) and base.id in names
                    ]
                    overridden += [
                        Use(module, (*path, one.name), f"{where}:{one.lineno}")
                        for module, path in bases
                        for one in node.body
                        if isinstance(one, ast.FunctionDef)
                    ]
                case ast.keyword(arg=str(name)) if name.startswith("VLLM_"):
                    variables.append((name, where))
                case ast.Constant(value=str(name)) if name.startswith("VLLM_") and name.isupper():
                    variables.append((name, where))
            if names and isinstance(node, ast.Attribute):
                attributes.append((node.attr, f"{where}:{node.lineno}"))
    return Source(
        *(tuple(dict.fromkeys(each)) for each in (uses, keywords, overridden, variables, attributes))
    )


def _imported(tree: ast.Module) -> Iterator[tuple[str, tuple[str, tuple[str, ...]]]]:
    for node in ast.walk(tree):
        if isinstance(node, ast.ImportFrom) and (node.module or "").split(".")[0] == "vllm":
            for alias in node.names:
                yield alias.asname or alias.name, (str(node.module), (alias.name,))
        elif isinstance(node, ast.Import):
            for alias in node.names:
                if alias.name.split(".")[0] == "vllm":
                    yield alias.asname or alias.name.split(".")[0], (alias.name, ())


def compare(source: Source, installed: Release, other: Release) -> list[Difference]:
    """Return what another release does otherwise than the installed one, of what the source uses."""
    found: set[Difference] = set()
    for use in (*source.uses, *source.overridden):
        found.update(_compared(use, installed, other))
    for use, word in source.keywords:
        parameters = _parameters(other, use)
        if parameters is not None and word not in parameters:
            found.add(Difference("keyword", f"{_shown(use)}({word}=)", use.where, "is not taken"))
    for name, where in source.variables:
        if name not in _variables(other) and name in _variables(installed):
            found.add(Difference("variable", name, where, "is not read"))
    for name, where in source.attributes:
        if name in installed.identifiers() and name not in other.identifiers():
            found.add(Difference("attribute", name, where, "no code has it"))
    for module, path in COUNTED_ON:
        use = Use(module, tuple(path.split(".")), "tools/check_seams.py")
        bodies = [_body(release, use) for release in (installed, other)]
        if bodies[0] != bodies[1]:
            found.add(Difference("body", _shown(use), "COUNTED_ON", "has other statements"))
    return sorted(found)


def _compared(use: Use, installed: Release, other: Release) -> Iterator[Difference]:
    before, after = (_definition(release, use) for release in (installed, other))
    if before is None:
        return  # ours, or set when it runs
    if after is None:
        yield Difference("name", _shown(use), use.where, "is not there")
    elif (one := _signature(before)) != (two := _signature(after)):
        yield Difference("signature", _shown(use), use.where, f"({one}) -> ({two})")


def _definition(release: Release, use: Use) -> ast.AST | str | None:
    """Return what defines a use: a node, or the name of a module."""
    if not use.path:
        return use.module if release.tree(use.module) is not None else None
    found: ast.AST | str | None = release.find(use.module, use.path[0])
    for name in use.path[1:]:
        match found:
            case str():
                found = release.find(found, name)
            case ast.ClassDef():
                found = release.member(use.module, found, name)
            case _:
                return found
    return found


def _signature(node: ast.AST | str) -> str:
    match node:
        case ast.FunctionDef() | ast.AsyncFunctionDef():
            return ast.unparse(node.args)
        case ast.ClassDef():
            for one in node.body:
                if isinstance(one, ast.FunctionDef) and one.name == "__init__":
                    return ast.unparse(one.args)
    return ""


def _parameters(release: Release, use: Use) -> frozenset[str] | None:
    """Return what a call of it takes; None where that cannot be told."""
    match _definition(release, use):
        case ast.FunctionDef() | ast.AsyncFunctionDef() as function:
            arguments = function.args
        case ast.ClassDef() as cls:
            made = release.member(use.module, cls, "__init__")
            if not isinstance(made, ast.FunctionDef):
                return _fields(release, use.module, cls)
            arguments = made.args
        case _:
            return None
    if arguments.kwarg is not None:
        return None
    return frozenset(each.arg for each in (*arguments.posonlyargs, *arguments.args, *arguments.kwonlyargs))


def _fields(release: Release, module: str, cls: ast.ClassDef) -> frozenset[str]:
    own = {
        one.target.id
        for one in cls.body
        if isinstance(one, ast.AnnAssign) and isinstance(one.target, ast.Name)
    }
    for base in cls.bases:
        found = release.find(module, base.id) if isinstance(base, ast.Name) else None
        if isinstance(found, ast.ClassDef):
            own |= _fields(release, module, found)
    return frozenset(own)


def _body(release: Release, use: Use) -> str:
    node = _definition(release, use)
    if not isinstance(node, ast.FunctionDef):
        return "none"
    has_docstring = ast.get_docstring(node) is not None
    return "\n".join(ast.unparse(one) for one in node.body[has_docstring:])


@cache
def _variables(release: Release) -> frozenset[str]:
    tree = release.tree("vllm.envs")
    assert tree is not None
    return frozenset(
        node.value
        for node in ast.walk(tree)
        if isinstance(node, ast.Constant) and isinstance(node.value, str)
    )


def _shown(use: Use) -> str:
    return ".".join((use.module, *use.path))


def table(differences: list[Difference]) -> str:
    """Return the differences, one a line."""
    rows = [
        ("kind", "what", "where", "problem"),
        *((d.kind, d.what, d.where, d.problem) for d in differences),
    ]
    widths = [max(len(row[at]) for row in rows) for at in range(3)]
    return "\n".join(
        "  ".join([*(cell.ljust(w) for cell, w in zip(row, widths, strict=False)), row[3]]) for row in rows
    )


def main() -> int:
    """Compare; exit 1 when there are differences."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("versions", nargs="*", help="versions of vLLM; none: the newest")
    differences = 0
    for version in parser.parse_args().versions or [newest()]:
        found = compare(read_source(), installed(), fetched(version))
        print(f"vllm {version}: {len(found)} differences\n{table(found)}\n")
        differences += len(found)
    return 1 if differences else 0


if __name__ == "__main__":
    sys.exit(main())
