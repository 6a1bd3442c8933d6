"""What tables show, and what narrow terminals leave out."""

import io
from collections.abc import Sequence

from rich.console import Console

from mint_client.core.columns import (
    ADAPTER,
    CHANGE,
    ENGINE,
    EVALUATION,
    FIELD,
    REVISION,
    RULE,
    TRAINER,
    Column,
)
from mint_client.core.score_rows import rule_rows, scored_rows, seeded_rows
from mint_client.core.tables import (
    Row,
    adapter_rows,
    cells,
    diff_rows,
    engine_rows,
    field_rows,
    fitting,
    page_hint,
    restart_notes,
    trainer_rows,
    with_restarting,
)
from mint_client.views.terminal import make_table

NOW = 1130.0
DIGEST = "sha256:" + "a" * 64
ADAPTER_ROW = {
    "engine_id": "e",
    "policy": "counter",
    "number": 3,
    "digest": DIGEST,
    "tier": "slot",
    "readiness": "ready",
    "size_bytes": 3 << 20,
    "pinned": True,
    "in_flight": 2,
    "last_used_at": 1000.0,
    "queue_position": None,
}
LOAD = {
    "requests": 5,
    "loads_waiting": 7,
    "loads_running": 2,
    "in_slots": 3,
    "in_host": 9,
    "host_bytes": 64 << 20,
    "host_bytes_capacity": 2 << 30,
}
ENGINE_ROW = {
    "engine_id": "e",
    "base": "tiny",
    "slots": 4,
    "host_capacity": 16,
    "load": LOAD,
    "retry_after_seconds": None,
}


def shown(adapter: dict[str, object]) -> dict[str, str]:
    """Return an adapter's cells by title."""
    (row,) = adapter_rows([adapter], now=NOW)
    return dict(zip((column.title for column in ADAPTER), cells(row, ADAPTER), strict=True))


def test_an_engine_shows_how_full_it_is() -> None:
    away = {**ENGINE_ROW, "load": None, "retry_after_seconds": 12}
    busy, silent, restarting = engine_rows([ENGINE_ROW, {**ENGINE_ROW, "load": None}, away])
    assert cells(busy, ENGINE) == ("e", "", "tiny", "5", "3/4", "9/16", "64/2048", "2", "7")
    assert cells(silent, ENGINE) == ("e", "", "tiny", *"??????")
    assert cells(restarting, ENGINE)[:2] == ("e", "restarts, back in 12 s")
    (vanished,) = engine_rows([{**ENGINE_ROW, "load": None, "state": "silent"}])
    assert cells(vanished, ENGINE)[:2] == ("e", "does not answer")
    assert restart_notes([vanished]) == []


def test_a_trainer_shows_the_policies_that_it_holds() -> None:
    trainer = {
        "trainer_id": "host:1",
        "base": "tiny",
        "state": "draining",
        "held": 3,
        "room": 8,
        "policies": ["policy_1", "policy_2"],
    }
    (row,) = trainer_rows([trainer], [{"policy_id": "policy_1", "name": "counter"}])
    assert cells(row, TRAINER) == ("host:1", "draining", "tiny", "3/8", "counter, policy_2")


def test_an_adapter_shows_its_state_its_use_and_its_position_in_the_queue() -> None:
    found = shown(ADAPTER_ROW)
    assert (found["revision"], found["last use"], found["MiB"]) == ("counter@3", "2 min ago", "3.0")
    assert (found["state"], found["pinned"], found["in use"]) == ("ready", "yes", "2")
    waiting = shown({**ADAPTER_ROW, "readiness": "registered", "queue_position": 0, "last_used_at": 0.0})
    assert (waiting["state"], waiting["last use"]) == ("queued (1.)", "")


def test_the_nearest_and_latest_used_come_first() -> None:
    stored, newer = {**ADAPTER_ROW, "tier": "stored"}, {**ADAPTER_ROW, "last_used_at": 1100.0}
    rows = adapter_rows([stored, ADAPTER_ROW, newer], now=NOW)
    assert [(row["tier"], row["last_used_at"]) for row in rows] == [
        ("slot", 1100.0),
        ("slot", 1000.0),
        ("stored", 1000.0),
    ]


def test_adapters_of_an_engine_that_restarts_stay_until_it_is_back() -> None:
    earlier = adapter_rows([ADAPTER_ROW], now=NOW)
    serving = engine_rows([ENGINE_ROW])
    away = engine_rows([{**ENGINE_ROW, "load": None, "retry_after_seconds": 12}])
    (row,) = with_restarting([], earlier, away)
    assert cells(row, ADAPTER)[:5] == ("counter@3", "e", "", "restarting", "3.0")
    assert with_restarting([], [row], away) == [row]
    assert with_restarting(earlier, [row], away) == earlier
    assert with_restarting([], [row], serving) == []
    assert restart_notes(away) == ["e restarts, back in 12 s: what it held is loaded again then"]
    assert restart_notes(serving) == []


def test_a_narrow_terminal_drops_columns_and_never_a_name() -> None:
    rows = adapter_rows([{**ADAPTER_ROW, "policy": "a-policy-of-some-length"}], now=NOW)
    wide, narrow = (fitting(ADAPTER, rows, width=width) for width in (200, 60))
    assert wide == ADAPTER
    assert [column.title for column in narrow][:3] == ["revision", "tier", "state"]
    assert "digest" not in [column.title for column in narrow]
    assert fitting(ADAPTER, rows, width=1)[0].title == "revision"


def test_a_column_without_anything_in_it_is_left_out() -> None:
    titles = [column.title for column in fitting(REVISION, [{"number": 1, "step": 3}], width=200)]
    assert titles == ["revision", "step"]


def test_a_full_page_says_how_to_see_the_next() -> None:
    rows = [{"name": "a"}, {"name": "b"}]
    assert page_hint(rows, {"limit": 2, "after": None}, page_by="name") == "2 are shown; the next: --after b"
    assert page_hint(rows, {"limit": 2}, page_by="name") == "2 are shown; more: --limit N"
    assert page_hint(rows, {"limit": 3}, page_by="name") == ""


def test_what_is_not_there_is_an_empty_cell() -> None:
    assert cells({"number": 1}, REVISION)[:2] == ("1", "")


def test_a_comparison_begins_with_scores_and_rewards_and_labels_norms() -> None:
    diff = {
        "config": [{"field": "parent", "before": None, "after": DIGEST}],
        "metrics": [
            {"name": "loss", "before": 1.5, "after": 1.25},
            {"name": "reward", "before": 0.5, "after": None},
            {"name": "reward_mean", "before": 0.25, "after": 0.5},
        ],
        "scores": [{"name": "held-out/accuracy", "before": None, "after": 0.75}],
        "modules": [{"module": "q_proj", "before": 0.1, "after": 0.3, "change": 0.35}],
    }
    assert [cells(row, CHANGE) for row in diff_rows(diff)] == [
        ("held-out/accuracy", "", "0.75", ""),
        ("reward", "0.5", "", ""),
        ("reward of its parent", "0.25", "0.5", "+0.25"),
        ("loss", "1.5", "1.25", "-0.25"),
        ("norm of q_proj", "0.1", "0.3", "moved 0.35"),
        ("parent", "", DIGEST[:23], ""),
    ]


def test_a_comparison_shows_the_modules_that_moved_most() -> None:
    modules = [{"module": f"m{at}", "before": 1.0, "after": 1.0, "change": at / 10} for at in range(12)]
    rows = diff_rows({"config": [], "metrics": [], "scores": [], "modules": modules})
    assert [row["name"] for row in rows] == [
        *(f"norm of m{at}" for at in range(11, 3, -1)),
        "4 other modules",
    ]
    assert cells(rows[-1], CHANGE) == ("4 other modules", "", "", "moved less: see --json")


def printed(rows: Sequence[Row], columns: Sequence[Column], *, width: int) -> list[str]:
    """Return the lines of a table on a terminal."""
    console = Console(file=io.StringIO(), width=width, force_terminal=True, color_system=None)
    console.print(make_table(rows, columns, width=width))
    return [line.rstrip() for line in console.file.getvalue().splitlines()]


def test_revisions_have_their_latest_scores_and_their_aliases() -> None:
    scores = [
        {"number": 1, "suite": "held-out", "metric": "accuracy", "value": value, "stderr": stderr, "n": n}
        for value, stderr, n in ((0.2, None, 64), (0.75, 0.05, 32))
    ]
    aliases = [{"alias": "prod", "revision": {"number": 1}}]
    first, second = scored_rows([{"number": 1}, {"number": 2}], scores, aliases)
    assert (first["scores"], first["aliases"]) == (["held-out accuracy 0.750 ± 0.050, n 32"], ["prod"])
    assert (second["scores"], second["aliases"]) == (None, None)


def test_a_revision_of_mint_train_shows_step_scores_and_aliases_at_80_columns() -> None:
    """The suite of a job's own scores is 34 characters long, and its scores are two."""
    revision = {
        "number": 12,
        "state": "published",
        "step": 12,
        "reward": 0.859,
        "parent": DIGEST,
        "digest": DIGEST,
        "created_at": 1000.0,
    }
    scores = [
        {"number": 12, "suite": f"job:job_{'e' * 26}", "metric": metric, "value": 0.5, "n": 1000}
        for metric in ("valid_loss", "valid_mean_token_accuracy")
    ]
    aliases = [{"alias": alias, "revision": {"number": 12}} for alias in ("prod", "canary")]
    rows = scored_rows([revision], scores, aliases)
    assert printed(rows, REVISION, width=80) == [
        "revision  state      step  scores                                   aliases",
        "12        published  12    valid_loss 0.500, n 1000                 prod",
        "                           valid_mean_token_accuracy 0.500, n 1000  canary",
    ]
    assert [column.title for column in fitting(REVISION, rows, width=60)][-2:] == ["scores", "aliases"]


def test_a_rule_keeps_its_id_whole_at_60_columns() -> None:
    rule = {
        "rule_id": "rule_" + "a" * 26,
        "alias": "prod",
        "suite": "held-out",
        "metric": "accuracy",
        "at_least": 0.8,
        "max_drop": None,
        "roll_back_below": 0.5,
        "at_most": None,
        "cooldown_seconds": 0.0,
        "choose": "newest",
        "paused": False,
        "actor": "ci",
    }
    assert printed(rule_rows([rule]), RULE, width=60) == [
        "rule                             alias  score",
        f"rule_{'a' * 26}  prod   held-out accuracy",
        "                                        at least 0.8",
        "                                        back below 0.5",
    ]
    (row,) = rule_rows([{**rule, "suite": "support-held-out.jsonl string_check"}])
    assert any(f"rule_{'a' * 26}" in line for line in printed([row], RULE, width=60))


def test_a_score_has_the_seed_of_the_run_that_measured_it() -> None:
    score = {"digest": DIGEST, "number": 1, "suite": "copy", "metric": "reward", "value": 0.5, "n": 64}
    run = {"revision": {"digest": DIGEST, "number": 1}, "suite": "copy", "metric": "reward"}
    runs = [
        {**run, "value": 0.5, "scored": 64, "seed": 3},
        {**run, "value": 0.25, "scored": 64, "seed": 4},
        {**run, "revision": None, "value": 0.5, "scored": 64, "seed": 5},
    ]
    rows = seeded_rows([score, {**score, "suite": "by hand"}], runs)
    assert [cells(row, EVALUATION)[6] for row in rows] == ["3", ""]


def test_fields_of_nested_objects_are_rows_of_their_own() -> None:
    fields = {"name": "p", "fault": None, "made_at": 0.0, "targets": ["q", "v"], "defaults": {"steps": 30}}
    assert [cells(row, FIELD) for row in field_rows(fields)] == [
        ("name", "p"),
        ("made_at", "1970-01-01 00:00:00"),
        ("targets", "q, v"),
        ("defaults.steps", "30"),
    ]
