"""Follows a gateway's events, and records what they are about at a tracker.

Nothing here reaches a job: a tracker that is away, slow or broken only makes this process wait.
"""

import contextlib
import json
import queue
import threading
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import msgspec

from mint_client.adapters.public_api import PublicApi, path_of
from mint_client.adapters.trackers.tracker import Tracker
from mint_client.core.state import decode_state
from mint_client.core.track_backlog import (
    ALL_JOBS,
    OPEN_JOBS,
    TrackBacklog,
    TrackScope,
    Unit,
    UnitKind,
    units_of,
)
from mint_client.core.tracking import NOT_STARTED, PolicyFacts, model_of, run_of
from mint_common.errors import EventsExpired, Forbidden, MintError, NotFound, Unauthorized
from mint_common.names import MAX_LIMIT
from mint_common.new_folder import replace_file

RECONNECT_SECONDS = 2.0
"""Delay before a lost event stream is opened again."""
GATHER_SECONDS = 1.0
"""Delay after recording: fast steps of a job are recorded together."""

Note = tuple[str, tuple[Unit, ...]] | MintError
"""A place and the units that its event is about, or why the stream ended."""


def read_backlog(file: Path) -> TrackBacklog | None:
    """Return the stored state of an earlier run; None: there is none. Raises InvalidField."""
    return decode_state(file.read_bytes(), TrackBacklog, file=str(file)) if file.exists() else None


class Subscriber:
    """Records until it is stopped, or until the job of its scope has ended."""

    def __init__(
        self,
        api: PublicApi,
        tracker: Tracker,
        file: Path,
        scope: TrackScope,
        *,
        backlog: TrackBacklog,
        say: Callable[[str], None],
    ) -> None:
        """Continue from a state; ``file`` stores the new ones. ``say`` reports to people."""
        self._api = api
        self._tracker = tracker
        self._file = file
        self._scope = scope
        self._backlog = backlog
        self._say = say
        self._notes: queue.Queue[Note] = queue.Queue()
        self._catalog = _Catalog(api)
        self._problems: tuple[str, ...] = ()
        self._has_ended = False
        self._left = threading.Event()
        self._told: set[str] = set()

    def run(self) -> None:
        """Follow and record. Raises what the gateway says of a key that it does not accept."""
        threading.Thread(target=self._read, args=(self._backlog.place,), daemon=True).start()
        try:
            while not self._has_ended or self._backlog.waiting:
                self._take_notes(self._seconds_to_wait())
                self._record_due()
                time.sleep(GATHER_SECONDS)
        finally:
            self._left.set()

    def _read(self, place: str | None) -> None:
        """Turn the stream into notes, in a thread of its own."""
        unseen: tuple[Unit, ...] = (OPEN_JOBS if place else ALL_JOBS,)
        while not self._left.is_set():
            try:
                for reached, envelope in self._api.events(after=place):
                    place = reached
                    units = units_of(json.loads(envelope), self._scope) if envelope else unseen
                    unseen = ()
                    self._notes.put((reached, units))
            except EventsExpired as error:
                place, unseen = None, (ALL_JOBS,)
                self._notes.put(error)
            except MintError as error:
                self._notes.put(error)
            self._left.wait(RECONNECT_SECONDS)

    def _unseen(self, which: Unit) -> list[Unit]:
        """Return the jobs that may have changed while no event was read, oldest first, and their policies."""
        found = []
        for job in reversed(self._api.get("/jobs", {"limit": MAX_LIMIT})):
            ended_at = job["finished_at"]
            is_new = ended_at is None or (which == ALL_JOBS and ended_at > self._backlog.since)
            if is_new and self._scope.has(job):
                found += [
                    Unit(kind=UnitKind.JOB, of=job["job_id"]),
                    Unit(kind=UnitKind.POLICY, of=job["policy_id"]),
                ]
        return found

    def _seconds_to_wait(self) -> float | None:
        due_at = self._backlog.next_at()
        return None if due_at is None else max(0.0, due_at - time.time())

    def _take_notes(self, seconds: float | None) -> None:
        """Wait for the next note, and take those that are there."""
        backlog, timeout = self._backlog, seconds
        with contextlib.suppress(queue.Empty):
            while True:
                note = self._notes.get(timeout=timeout)
                timeout = 0.0
                if isinstance(note, tuple):
                    backlog = backlog.noted(note[1], place=note[0])
                elif backlog.place is None or isinstance(note, Unauthorized | Forbidden):
                    raise note
                else:
                    self._say(f"{note} Trying again.")
        if backlog is not self._backlog:
            self._store(backlog)

    def _record_due(self) -> None:
        for unit in self._backlog.due(now=time.time()):
            self._store(self._after(unit))
            if self._backlog.pause.problem:
                return

    def _after(self, unit: Unit) -> TrackBacklog:
        """Record a unit; return the state after that."""
        found: Sequence[Unit] = ()
        try:
            found = self._record(unit)
        except (Unauthorized, Forbidden):
            raise
        except NotFound:
            pass  # removed since
        except MintError as error:
            if error.retryable:
                return self._backlog.paused(str(error), now=time.time())
            return self._backlog.refused(unit, str(error), now=time.time())
        except Exception as error:  # noqa: BLE001  # of a tracker's package: the other jobs go on
            return self._backlog.refused(unit, f"{type(error).__name__}: {error}", now=time.time())
        return self._backlog.done(unit).noted(found)

    def _record(self, unit: Unit) -> Sequence[Unit]:
        """Record a unit; return those that were found by it."""
        match unit.kind:
            case UnitKind.JOBS:
                return self._unseen(unit)
            case UnitKind.JOB:
                self._record_job(unit.of)
            case UnitKind.POLICY:
                self._register(unit.of)
            case UnitKind.REVISION:
                revision = self._api.get(path_of("policies", unit.of, "revisions", unit.digest))
                if revision["job_id"] and self._scope.has(revision):
                    self._record_job(revision["job_id"])
        return ()

    def _record_job(self, job_id: str) -> None:
        job = self._api.get(path_of("jobs", job_id))
        if job["state"] == NOT_STARTED:
            return
        run = run_of(job, self._catalog.facts(job["policy_id"], job["base"]))
        self._tracker.record(run)
        if run.is_ended:
            if job_id not in self._told:
                self._told.add(job_id)
                self._say(f"{run.name}: {run.state}, all of its {len(run.versions)} steps are recorded")
            if job_id == self._scope.job_id:
                # Its last events may not have been read yet.
                self._register(job["policy_id"])
                self._has_ended = True

    def _register(self, policy_id: str) -> None:
        policy = self._api.get(path_of("policies", policy_id))
        facts = self._catalog.facts(policy_id, policy["base"])
        self._tracker.register(model_of(policy, self._catalog.revisions(policy_id), facts))

    def _store(self, backlog: TrackBacklog) -> None:
        """Keep a state, durably, and report what is new in its problems."""
        self._backlog = backlog
        replace_file(self._file, msgspec.json.encode(backlog))
        problems = backlog.problems
        for problem in problems:
            if problem not in self._problems:
                self._say(problem)
        if self._problems and not problems:
            self._say("all is recorded again")
        self._problems = problems


class _Catalog:
    """Reads bases, revisions, scores and aliases from the gateway; of growing lists only what is new."""

    def __init__(self, api: PublicApi) -> None:
        self._api = api
        self._lists: dict[str, list[Any]] = {}

    def facts(self, policy_id: str, base: str) -> PolicyFacts:
        policy = path_of("policies", policy_id)
        try:
            described = self._api.get(path_of("bases", base))
        except NotFound:
            described = {}
        return PolicyFacts(
            url=self._api.url,
            base=described,
            scores=self._grown(f"{policy}/evaluations", "evaluation_id"),
            aliases=self._api.get(f"{policy}/aliases"),
        )

    def revisions(self, policy_id: str) -> Sequence[Any]:
        return self._grown(f"{path_of('policies', policy_id)}/revisions", "number")

    def _grown(self, path: str, cursor: str) -> list[Any]:  # the gateway's JSON
        known = self._lists.setdefault(path, [])
        known += self._api.rows(path, {"after": known[-1][cursor] if known else None}, by=cursor)
        return known
