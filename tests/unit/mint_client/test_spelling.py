"""One spelling of a revision, `POLICY@REV`; two arguments are taken still."""

import pytest

from mint_client.commands.spelling import join_name, split_name
from mint_common.errors import InvalidField


@pytest.mark.parametrize(
    ("name", "others", "extra", "is_last", "joined"),
    [
        ("copier@3", [], [], False, ["copier@3"]),
        ("copier", [], ["3"], False, ["copier@3"]),
        ("copier", [], [], False, ["copier"]),
        ("copier@3", ["hf:a/b"], [], False, ["copier@3", "hf:a/b"]),
        ("copier", ["3"], ["hf:a/b"], False, ["copier@3", "hf:a/b"]),
        ("copier@3", [None], [], False, ["copier@3", None]),
        ("copier", ["3"], [], False, ["copier@3", None]),
        ("copier", ["3"], ["4"], False, ["copier@3", "4"]),
        ("copier@3", ["prod"], [], True, ["copier@3", "prod"]),
        ("copier", ["prod"], ["3"], True, ["copier@3", "prod"]),
        ("copier", ["3", "suite", "reward"], ["0.5"], False, ["copier@3", "suite", "reward", "0.5"]),
    ],
)
def test_two_arguments_are_joined(
    name: str, others: list[str | None], extra: list[str], is_last: bool, joined: list[str | None]
) -> None:
    assert join_name(name, others, extra, is_last=is_last) == joined


def test_one_argument_too_many_is_refused() -> None:
    with pytest.raises(InvalidField, match="'4': is one argument too many for copier@3"):
        join_name("copier", [], ["3", "4"], is_last=False)
    with pytest.raises(InvalidField, match="too many"):
        join_name("copier@3", [], ["4"], is_last=False)


def test_a_name_without_a_revision_is_refused() -> None:
    with pytest.raises(InvalidField, match="'copier' is not POLICY@REV"):
        split_name("copier")
