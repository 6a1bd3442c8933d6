"""Services of the former release work on beside the next one's tables: nothing that they read goes away."""

import re

import pytest

from mint_common.runtime.migration import LEDGER_PACKAGE, Migration, read_migrations
from services.standalone.core.plan import SERVICES

PACKAGES = (LEDGER_PACKAGE, *(f"services.{service}.adapters.migrations" for service in SERVICES))
REMOVAL = re.compile(
    r"\bDROP\s+(COLUMN|TABLE|VIEW|SCHEMA|FUNCTION)\b|\bRENAME\b"
    r"|\bALTER\s+COLUMN\s+\w+\s+(SET\s+DATA\s+)?TYPE\b",
    re.IGNORECASE,
)
RELEASED = {"0026_submissions_without_hash.sql", "0004_waves_are_operations.sql"}
"""Of 0.2.0 and before. A column may go, and be listed here, once no release before reads it."""


def _removes(sql: str) -> bool:
    return REMOVAL.search(re.sub(r"--[^\n]*", "", sql)) is not None


def test_no_migration_removes_what_services_of_the_release_before_read() -> None:
    migrations: list[Migration] = [each for package in PACKAGES for each in read_migrations(package)]
    assert {each.name for each in migrations if _removes(each.sql)} == RELEASED


@pytest.mark.parametrize(
    ("sql", "removes"),
    [
        ("ALTER TABLE jobs RENAME COLUMN a TO b", True),
        ("ALTER TABLE jobs\n    DROP COLUMN a", True),
        ("DROP TABLE jobs", True),
        ("ALTER TABLE jobs ALTER COLUMN a TYPE bigint", True),
        ("ALTER TABLE jobs ADD COLUMN a text -- DROP COLUMN b", False),
        ("DROP INDEX jobs_open", False),
        ("ALTER TABLE jobs ALTER COLUMN a DROP NOT NULL", False),
    ],
)
def test_a_removal_is_known(sql: str, removes: bool) -> None:
    assert _removes(sql) == removes
