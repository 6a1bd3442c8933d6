"""Promotion rules: every recorded score is evaluated against the rules of its policy.

Invariant: a rule acts by an ordinary move of actor ``rule:<id>``, at most once for each score and rule, and
only if the alias still points where it pointed at the decision.
"""

import logging
from collections.abc import Sequence
from dataclasses import dataclass

from mint_common.catalog import EvaluationRecord, PolicyRecord, RuleRecord
from mint_common.claims import RevisionRef
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
from mint_common.ids import derive_id
from mint_common.runtime.clock import Clock
from services.registry import metrics
from services.registry.core.rules import Promote, RollBack, plan_action
from services.registry.ports.aliases import Aliases, Mover
from services.registry.ports.catalog import Catalog
from services.registry.ports.evaluations import Evaluations, Rules

_log = logging.getLogger(__name__)
_UNMOVABLE = (InvalidField, RevisionLostError, RevisionQuarantinedError, RevisionRetiredError)


@dataclass(frozen=True, slots=True, kw_only=True)
class RuleHandler:
    """Moves aliases by rule."""

    catalog: Catalog
    aliases: Aliases
    evaluations: Evaluations
    rules: Rules
    clock: Clock

    async def on_evaluation_recorded(self, event: EvaluationRecorded) -> Sequence[Event]:
        """Apply the rules of the score's policy; each move emits its own event."""
        rules = await self.rules.list(event.policy_id)
        if rules:
            policy = await self.catalog.policy(event.tenant_id, event.policy_id)
            score = await self.evaluations.get(event.policy_id, event.evaluation_id)
            for rule in rules:
                await self._follow(policy, rule, score, cause=derive_id("rule", event.id, rule.rule_id))
        return ()

    async def _follow(
        self, policy: PolicyRecord, rule: RuleRecord, score: EvaluationRecord, *, cause: str
    ) -> None:
        while True:
            live, value = await self._live(policy, rule)
            action = plan_action(rule, score, live=live, live_value=value)
            if action is None:
                return
            mover = Mover(
                actor=f"rule:{rule.rule_id}", reason=action.reason, at=self.clock.now(), cause=cause
            )
            try:
                await self._act(policy, rule, score, action, mover)
            except PreconditionFailed:
                continue  # the alias was moved concurrently: decide again
            except AlreadyHandled:
                return
            except _UNMOVABLE as error:
                metrics.RULE_MOVES.labels("refused").inc()
                _log.warning("rule not followed", extra={"rule_id": rule.rule_id, "problem": str(error)})
                return
            metrics.RULE_MOVES.labels("rolled_back" if isinstance(action, RollBack) else "promoted").inc()
            _log.info("rule followed", extra={"rule_id": rule.rule_id, "reason": action.reason})
            return

    async def _live(self, policy: PolicyRecord, rule: RuleRecord) -> tuple[RevisionRef | None, float | None]:
        try:
            live = (await self.aliases.alias(policy.policy_id, rule.alias)).revision
        except NotFound:
            return None, None
        value = await self.evaluations.newest(
            policy.policy_id, live.number, suite=rule.suite, metric=rule.metric
        )
        return live, value

    async def _act(
        self,
        policy: PolicyRecord,
        rule: RuleRecord,
        score: EvaluationRecord,
        action: Promote | RollBack,
        mover: Mover,
    ) -> None:
        if isinstance(action, RollBack):
            await self.aliases.roll_back(policy, rule.alias, mover, expected=action.expected)
        else:
            target = (await self.catalog.revision(policy.policy_id, score.number)).ref
            await self.aliases.move(policy, rule.alias, target, mover, expected=action.expected)
