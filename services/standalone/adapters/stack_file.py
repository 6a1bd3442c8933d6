"""Reads `mint.yaml` with the line number of each value."""

from pathlib import Path

import yaml  # type: ignore[import-untyped]

from services.standalone.core import stack_file
from services.standalone.core.refusals import StackFileInvalidError
from services.standalone.core.stack_file import RawFile, StackFile, read_stack_file
from services.standalone.settings import setting_keys

_MAX_BYTES = 1 << 20


def load_stack_file(file: Path) -> StackFile:
    """Return the content of a stack file. Raises StackFileInvalidError for the first error."""
    settings = {name: setting_keys(name) for name in ("loader", "trainer")}
    return read_stack_file(load_yaml(file), settings=settings)


def load_yaml(file: Path) -> RawFile:
    """Return a file's content. Raises StackFileInvalidError, OSError."""
    data = file.read_bytes()
    if len(data) > _MAX_BYTES:
        raise _refusal(file, 1, f"has {len(data)} bytes; {_MAX_BYTES} are the most")
    try:
        node = yaml.compose(data, Loader=yaml.SafeLoader)
        lines: dict[stack_file.Path, int] = {}
        _note(node, (), lines, file)
        content = yaml.safe_load(data)
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark
        raise _refusal(file, mark.line + 1 if mark else 1, error.problem or str(error)) from error
    except RecursionError as error:
        raise _refusal(file, 1, "refers to itself") from error
    except yaml.YAMLError as error:
        raise _refusal(file, 1, str(error)) from error
    return RawFile(name=str(file), content=content, lines=lines)


def _note(
    node: yaml.Node | None, path: stack_file.Path, lines: dict[stack_file.Path, int], file: Path
) -> None:
    if node is None:
        return
    lines.setdefault(path, node.start_mark.line + 1)
    if isinstance(node, yaml.MappingNode):
        for key, value in node.value:
            inner = (*path, str(key.value))
            if inner in lines:
                raise _refusal(file, key.start_mark.line + 1, f"{key.value} is given twice")
            lines[inner] = key.start_mark.line + 1
            _note(value, inner, lines, file)
    elif isinstance(node, yaml.SequenceNode):
        for index, value in enumerate(node.value):
            _note(value, (*path, index), lines, file)


def _refusal(file: Path, line: int, problem: str) -> StackFileInvalidError:
    return StackFileInvalidError(file=str(file), line=line, field="the file", problem=problem)
