"""Comparisons of revisions: made once, and cached up to a number of modules."""

import asyncio
from types import SimpleNamespace
from typing import ClassVar

import pytest

from mint_common.errors import RevisionLostError
from services.registry.handlers import diffs
from services.registry.handlers.diffs import DiffHandler

POLICY = SimpleNamespace(policy_id="p", name="p", tenant_id="t", base="tiny")


class Counted(DiffHandler):
    """Counts comparisons; each has two modules."""

    compared: ClassVar[list[tuple[str, str]]]

    async def _compare(self, policy, before, after):
        self.compared.append((before.digest, after.digest))
        await asyncio.sleep(0)
        return (({}, {}), ("module", "module"))


class Scores:
    async def scores(self, policy_id, number):
        return []


def revision(number: int, **changes: object) -> SimpleNamespace:
    return SimpleNamespace(digest=f"d{number}", number=number, fault=None, **changes)


@pytest.fixture
def handler(monkeypatch):
    monkeypatch.setattr(diffs, "MAX_MODULES", 4)
    monkeypatch.setattr(diffs, "RevisionDiff", SimpleNamespace)
    for name in ("changed_config", "changed_numbers", "training_numbers", "scores_by_name"):
        monkeypatch.setattr(diffs, name, lambda *_: ())
    monkeypatch.setattr(Counted, "compared", [], raising=False)
    return Counted(catalog=None, evaluations=Scores(), blobs=None)


async def test_the_pairs_asked_for_last_are_not_compared_again(handler):
    for before, after in ((1, 2), (1, 3), (1, 2), (1, 4), (1, 2), (1, 3)):
        await handler.diff(POLICY, revision(before), revision(after))
    assert handler.compared == [("d1", "d2"), ("d1", "d3"), ("d1", "d4"), ("d1", "d3")]


async def test_two_callers_at_once_wait_for_one_comparison(handler):
    both = (handler.diff(POLICY, revision(1), revision(2)) for _ in range(2))
    assert len(await asyncio.gather(*both)) == 2
    assert handler.compared == [("d1", "d2")]


async def test_another_tenant_s_comparison_is_its_own(handler):
    for tenant in ("t", "u", "t"):
        policy = SimpleNamespace(**{**vars(POLICY), "tenant_id": tenant})
        await handler.diff(policy, revision(1), revision(2))
    assert len(handler.compared) == 2


async def test_a_lost_revision_is_told_even_if_it_was_compared_before(handler):
    await handler.diff(POLICY, revision(1), revision(2))
    lost = SimpleNamespace(**{**vars(revision(2)), "fault": "lost"})
    with pytest.raises(RevisionLostError):
        await handler.diff(POLICY, revision(1), lost)
