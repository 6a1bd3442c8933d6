"""Promotion rules: every recorded score is evaluated against the rules of its policy.

Invariants: a rule acts by an ordinary move of actor ``rule:<id>``, at most once for each score and rule, and
only if the alias still points where it pointed at the decision. A score that a newer one of its revision has
replaced counts as the newer one, in whatever order the events arrive.
"""

import logging
from collections.abc import Sequence
from dataclasses import dataclass, replace

from mint_common.catalog import AliasRecord, EvaluationRecord, PolicyRecord, RuleRecord
from mint_common.errors import (
    AlreadyHandled,
    InvalidField,
    NotFound,
    PreconditionFailed,
    RevisionLostError,
    RevisionQuarantinedError,
    RevisionRetiredError,
)
from mint_common.events import EvaluationRecorded, Event
from mint_common.ids import EvaluationId, PolicyId, derive_id
from mint_common.names import RULE_ACTOR
from mint_common.runtime.clock import Clock
from mint_common.runtime.periodic import run_periodically
from services.registry import metrics
from services.registry.adapters.aliases_postgres import PostgresAliases
from services.registry.adapters.catalog_postgres import PostgresCatalog
from services.registry.adapters.evaluations_postgres import PostgresEvaluations
from services.registry.adapters.rules_postgres import PostgresRules
from services.registry.core.aliases import Mover
from services.registry.core.evaluations import recorded
from services.registry.core.rules import (
    Promote,
    RollBack,
    RuleRefused,
    cooldown_end,
    plan_action,
    preferred,
)

_log = logging.getLogger(__name__)
_UNMOVABLE = (
    InvalidField,
    RevisionLostError,
    RevisionQuarantinedError,
    RevisionRetiredError,
    RuleRefused,
)
DUE_AT_ONCE = 100
DUE_EVERY_SECONDS = 1.0


@dataclass(frozen=True, slots=True, kw_only=True)
class RuleHandler:
    """Moves aliases by rule."""

    catalog: PostgresCatalog
    aliases: PostgresAliases
    evaluations: PostgresEvaluations
    rules: PostgresRules
    clock: Clock

    async def on_evaluation_recorded(self, event: EvaluationRecorded) -> Sequence[Event]:
        """Apply the rules of the score's policy; each move emits its own event."""
        rules = await self.rules.list(event.policy_id)
        if rules:
            policy = await self.catalog.policy(event.tenant_id, event.policy_id)
            score = await self._current(event.policy_id, event.evaluation_id)
            for rule in rules:
                await self._follow(policy, rule, score)
        return ()

    async def run(self) -> None:
        """Apply due rules until cancelled."""
        await run_periodically(
            self.apply_due, name="due rules", every_seconds=DUE_EVERY_SECONDS, clock=self.clock
        )

    async def apply_due(self) -> None:
        """Apply the rules whose cooldown has ended to the scores that waited."""
        for due in await self.rules.due(now=self.clock.now(), limit=DUE_AT_ONCE):
            policy = await self.catalog.policy(due.tenant_id, due.policy_id)
            score = await self._current(due.policy_id, due.evaluation_id)
            if await self._follow(policy, due.rule, score):
                await self.rules.done(due.rule.rule_id, due.evaluation_id)

    async def _current(self, policy_id: PolicyId, evaluation_id: EvaluationId) -> EvaluationRecord:
        """Return a score with the newest value of its revision."""
        score = await self.evaluations.get(policy_id, evaluation_id)
        value = await self.evaluations.newest(policy_id, score.number, suite=score.suite, metric=score.metric)
        return score if value is None else replace(score, value=value)

    async def _follow(self, policy: PolicyRecord, rule: RuleRecord, score: EvaluationRecord) -> bool:
        """Perform a rule's action after a score; False when the score waits for the end of the cooldown."""
        while True:
            alias = await self._alias(policy, rule)
            action = await self._plan(policy, rule, score, alias)
            if action is None:
                return True
            moved_at = alias.history[-1].at if alias is not None else None
            due_at = cooldown_end(rule, action, moved_at=moved_at)
            if due_at > self.clock.now():
                await self._wait(policy, rule, score, due_at)
                return False
            try:
                await self._act(policy, rule, score, action)
            except PreconditionFailed:
                continue  # the alias was moved concurrently: decide again
            except AlreadyHandled:
                return True
            except _UNMOVABLE as error:
                metrics.RULE_MOVES.labels("refused").inc()
                _log.warning("rule not followed", extra={"rule_id": rule.rule_id, "problem": str(error)})
                return True
            metrics.RULE_MOVES.labels("rolled_back" if isinstance(action, RollBack) else "promoted").inc()
            _log.info("rule followed", extra={"rule_id": rule.rule_id, "reason": action.reason})
            return True

    async def _alias(self, policy: PolicyRecord, rule: RuleRecord) -> AliasRecord | None:
        try:
            return await self.aliases.alias(policy.policy_id, rule.alias)
        except NotFound:
            return None

    async def _plan(
        self, policy: PolicyRecord, rule: RuleRecord, score: EvaluationRecord, alias: AliasRecord | None
    ) -> Promote | RollBack | None:
        if alias is None:
            return plan_action(rule, score, live=None, live_value=None)
        live = alias.revision
        value = await self.evaluations.newest(
            policy.policy_id, live.number, suite=rule.suite, metric=rule.metric
        )
        return plan_action(rule, score, live=live, live_value=value)

    async def _wait(
        self, policy: PolicyRecord, rule: RuleRecord, score: EvaluationRecord, due_at: float
    ) -> None:
        waiting = await self.rules.waiting(rule.rule_id)
        if waiting is not None:
            earlier = await self._current(policy.policy_id, waiting)
            score = preferred(rule, score, earlier)
        await self.rules.wait(rule.rule_id, score.evaluation_id, until=due_at)

    async def _act(
        self, policy: PolicyRecord, rule: RuleRecord, score: EvaluationRecord, action: Promote | RollBack
    ) -> None:
        mover = Mover(
            actor=f"{RULE_ACTOR}{rule.rule_id}",
            reason=action.reason,
            at=self.clock.now(),
            cause=derive_id("rule", recorded(policy, score).id, rule.rule_id),
        )
        if isinstance(action, RollBack):
            await self.aliases.roll_back(policy, rule.alias, mover, expected=action.expected)
        else:
            target = (await self.catalog.revision(policy.policy_id, score.number)).ref
            await self.aliases.move(policy, rule.alias, target, mover, expected=action.expected)
