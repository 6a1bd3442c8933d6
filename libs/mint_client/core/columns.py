"""The columns of every table: fields of the gateway's JSON, how each reads, what narrow terminals drop."""

from dataclasses import dataclass


@dataclass(frozen=True, slots=True, kw_only=True)
class Column:
    """A column's title and where its value is: a dotted path; ``kind`` says how it reads.

    A table that is too wide loses the columns with the highest ``drop`` first; those with 0 stay. An ``id``
    is never broken; ``lines`` are below each other on a terminal.
    """

    title: str
    path: str
    kind: str = "text"
    drop: int = 0


POLICY = (
    Column(title="policy", path="name"),
    Column(title="base", path="base", drop=3),
    Column(title="rank", path="lora.rank", drop=2),
    Column(title="alpha", path="lora.alpha", kind="number", drop=4),
    Column(title="targets", path="lora.targets", kind="list", drop=7),
    Column(title="latest", path="latest.number"),
    Column(title="digest", path="latest.digest", kind="digest", drop=5),
    Column(title="made", path="created_at", kind="time", drop=6),
)
REVISION = (
    Column(title="revision", path="number"),
    Column(title="state", path="state", kind="state", drop=3),
    Column(title="step", path="step", drop=2),
    Column(title="reward", path="reward", kind="score", drop=4),
    Column(title="scores", path="scores", kind="lines", drop=1),
    Column(title="aliases", path="aliases", kind="lines", drop=1),
    Column(title="parent", path="parent", kind="digest", drop=6),
    Column(title="digest", path="digest", kind="digest", drop=5),
    Column(title="made", path="created_at", kind="time", drop=7),
)
FOUND = (
    Column(title="policy", path="policy"),
    Column(title="revision", path="revision.number"),
    Column(title="base", path="base", drop=1),
    Column(title="digest", path="revision.digest", kind="digest", drop=2),
)
ALIAS = (
    Column(title="alias", path="alias"),
    Column(title="revision", path="revision.number"),
    Column(title="moves", path="sequence", drop=2),
    Column(title="protected", path="protected", kind="flag", drop=1),
    Column(title="frozen", path="frozen", kind="flag", drop=1),
    Column(title="moved by", path="moved_by", kind="list", drop=3),
    Column(title="digest", path="revision.digest", kind="digest", drop=5),
)
ENVIRONMENT = (
    Column(title="environment", path="name"),
    Column(title="kind", path="kind"),
    Column(title="package", path="requirement"),
    Column(title="python", path="python", drop=2),
    Column(title="packages", path="packages", kind="number", drop=1),
    Column(title="sha256", path="sha256", kind="digest", drop=3),
)
FILE = (
    Column(title="file", path="id"),
    Column(title="name", path="filename"),
    Column(title="purpose", path="purpose", drop=1),
    Column(title="MiB", path="bytes", kind="mib", drop=2),
    Column(title="created", path="created_at", kind="time", drop=3),
)
MOVE = (
    Column(title="move", path="sequence"),
    Column(title="revision", path="number"),
    Column(title="who", path="actor", drop=3),
    Column(title="why", path="reason"),
    Column(title="when", path="at", kind="time", drop=4),
)
EVALUATION = (
    Column(title="revision", path="number"),
    Column(title="suite", path="suite"),
    Column(title="metric", path="metric"),
    Column(title="value", path="value", kind="number"),
    Column(title="n", path="n"),
    Column(title="+-", path="stderr", kind="number"),
    Column(title="seed", path="seeds", kind="list", drop=1),
    Column(title="who", path="actor", drop=3),
    Column(title="when", path="created_at", kind="time", drop=4),
)
EVALUATION_RUN = (
    Column(title="base", path="base", drop=4),
    Column(title="policy", path="policy"),
    Column(title="revision", path="revision.number"),
    Column(title="suite", path="suite"),
    Column(title="state", path="state", kind="state", drop=1),
    Column(title="metric", path="metric", drop=3),
    Column(title="score", path="value", kind="score"),
    Column(title="+-", path="stderr", kind="score"),
    Column(title="scored", path="scored", drop=1),
    Column(title="n", path="n"),
    Column(title="seed", path="seed", drop=5),
    Column(title="run", path="run_id", drop=2),
    Column(title="reason", path="reason", drop=3),
)
COMPARISON = (
    Column(title="model", path="model"),
    Column(title="score", path="run.value", kind="score"),
    Column(title="against", path="against"),
    Column(title="score", path="baseline.value", kind="score"),
    Column(title="difference", path="comparison.difference", kind="score"),
    Column(title="from", path="comparison.interval.low", kind="score"),
    Column(title="to", path="comparison.interval.high", kind="score"),
    Column(title="wins", path="comparison.wins", drop=1),
    Column(title="losses", path="comparison.losses", drop=1),
    Column(title="ties", path="comparison.ties", drop=1),
    Column(title="n", path="comparison.n"),
)
EVALUATED_ROW = (
    Column(title="row", path="row"),
    Column(title="score", path="score", kind="score"),
    Column(title="error", path="fault", drop=1),
    Column(title="answer", path="answer", kind="foreign"),
)
COLLECTION = (
    Column(title="kind", path="kind"),
    Column(title="what", path="what"),
    Column(title="tenant", path="tenant_id"),
)
NODE = (
    Column(title="revision", path="number"),
    Column(title="step", path="step"),
    Column(title="parent", path="parent", kind="digest", drop=4),
    Column(title="digest", path="digest", kind="digest", drop=5),
    Column(title="aliases", path="aliases", kind="list"),
    Column(title="wave", path="wave_id", drop=6),
)
CHANGE = (
    Column(title="what", path="name"),
    Column(title="before", path="before", kind="number"),
    Column(title="after", path="after", kind="number"),
    Column(title="change", path="change"),
)
RULE = (
    Column(title="rule", path="rule_id", kind="id"),
    Column(title="alias", path="alias"),
    Column(title="score", path="when", kind="lines"),
    Column(title="takes", path="choose", drop=2),
    Column(title="paused", path="paused", kind="flag", drop=1),
    Column(title="who", path="actor", drop=3),
)
TENANT = (
    Column(title="tenant", path="tenant_id"),
    Column(title="name", path="name"),
    Column(title="made", path="created_at", kind="time", drop=6),
)
AUDIT = (
    Column(title="place", path="place"),
    Column(title="when", path="at", kind="time", drop=4),
    Column(title="who", path="actor", drop=3),
    Column(title="what", path="method"),
    Column(title="where", path="path"),
    Column(title="object", path="object", drop=2),
    Column(title="outcome", path="status"),
)
KEY = (
    Column(title="key", path="key_id"),
    Column(title="name", path="name"),
    Column(title="begins", path="shown", drop=1),
    Column(title="scopes", path="scopes", kind="list", drop=2),
    Column(title="last used", path="last_used_at", kind="time", drop=3),
    Column(title="revoked", path="revoked_at", kind="time", drop=4),
)
WEBHOOK = (
    Column(title="webhook", path="webhook_id"),
    Column(title="state", path="state", kind="state"),
    Column(title="url", path="url"),
    Column(title="events", path="event_types", kind="list", drop=4),
    Column(title="reason", path="reason", drop=3),
    Column(title="made", path="created_at", kind="time", drop=6),
)
DELIVERY = (
    Column(title="delivery", path="delivery_id"),
    Column(title="event", path="event_type"),
    Column(title="state", path="state", kind="state"),
    Column(title="tries", path="tries", drop=1),
    Column(title="made", path="created_at", kind="time", drop=6),
    Column(title="next try", path="due_at", kind="time", drop=5),
)
JOB = (
    Column(title="job", path="job_id"),
    Column(title="policy", path="policy"),
    Column(title="trains on", path="source", drop=3),
    Column(title="state", path="state", kind="state"),
    Column(title="step", path="step", drop=1),
    Column(title="reward", path="reward", kind="score", drop=2),
    Column(title="best", path="best.number", drop=3),
    Column(title="took", path="took", drop=4),
    Column(title="reason", path="reason", drop=5),
)
STEP = (
    Column(title="step", path="step"),
    Column(title="sampled", path="sampled"),
    Column(title="reward", path="reward", kind="score"),
    Column(title="", path="bar", kind="bar", drop=1),
    Column(title="revision", path="revision"),
    Column(title="digest", path="digest", kind="digest", drop=3),
    Column(title="tier", path="tier", kind="state", drop=2),
)
STALENESS = (
    Column(title="steps behind", path="staleness"),
    Column(title="steps", path="steps"),
    Column(title="tokens", path="tokens"),
    Column(title="effective share", path="effective_sample_share", kind="score"),
    Column(title="KL", path="kl", kind="rate"),
    Column(title="masked share", path="masked_share", kind="score"),
)
MEASURED_STEP = (*STEP[:3], Column(title="valid reward", path="valid_reward_mean", kind="score"), *STEP[3:])
FILE_STEP = (
    Column(title="step", path="step"),
    Column(title="epoch", path="epoch", kind="epoch", drop=5),
    Column(title="loss", path="loss", kind="score", drop=1),
    Column(title="accuracy", path="mean_token_accuracy", kind="score", drop=3),
    Column(title="sampled", path="sampled", drop=1),
    Column(title="reward", path="reward", kind="score", drop=1),
    Column(title="margin", path="preference_margin", kind="score", drop=2),
    Column(title="valid loss", path="valid_loss", kind="score", drop=1),
    Column(title="valid accuracy", path="valid_mean_token_accuracy", kind="score", drop=4),
    Column(title="valid reward", path="valid_reward_mean", kind="score", drop=1),
    Column(title="valid margin", path="valid_reward_margin", kind="score", drop=2),
    Column(title="rate", path="learning_rate", kind="rate", drop=6),
    Column(title="revision", path="revision"),
    Column(title="digest", path="digest", kind="digest", drop=8),
    Column(title="tier", path="tier", kind="state", drop=7),
)
PROBLEM = (
    Column(title="line", path="line"),
    Column(title="problem", path="code", drop=1),
    Column(title="what is wrong", path="message"),
)
TASK = (
    Column(title="task", path="name"),
    Column(title="steps", path="defaults.steps", drop=2),
    Column(title="rank", path="defaults.rank", drop=2),
    Column(title="description", path="description", drop=1),
)
FIELD = (
    Column(title="what", path="name"),
    Column(title="value", path="value", kind="number"),
)
ANSWER = (
    Column(title="model", path="model"),
    Column(title="answer", path="text"),
    Column(title="revision", path="revision", drop=1),
)
PART = (
    Column(title="part", path="name"),
    Column(title="state", path="state", kind="state"),
    Column(title="pid", path="pid", drop=2),
    Column(title="port", path="port", drop=1),
    Column(title="restarts", path="restarts"),
)
SHARE = (
    Column(title="part", path="part"),
    Column(title="devices", path="devices", kind="number"),
    Column(title="layout", path="layout", drop=1),
    Column(title="weights", path="weights"),
    Column(title="adapters", path="adapters"),
    Column(title="activations or KV", path="moving", drop=2),
    Column(title="a device", path="total"),
)
HOLDING = (
    Column(title="part", path="part"),
    Column(title="device", path="device"),
    Column(title="weights", path="weights"),
    Column(title="KV cache", path="kv_cache"),
    Column(title="slots", path="slots", drop=2),
    Column(title="staged", path="staged", drop=3),
    Column(title="policies", path="policies"),
    Column(title="activations", path="activations", drop=1),
    Column(title="runtime", path="runtime", drop=4),
    Column(title="total", path="total"),
)
BASE = (
    Column(title="base", path="name"),
    Column(title="architecture", path="architecture", drop=1),
    Column(title="digest", path="digest", kind="digest", drop=4),
    Column(title="max rank", path="max_rank"),
    Column(title="context", path="max_context", drop=2),
    Column(title="MiB", path="size_bytes", kind="mib", drop=3),
)
ENGINE = (
    Column(title="engine", path="engine_id"),
    Column(title="state", path="away", drop=1),
    Column(title="base", path="base", drop=3),
    Column(title="requests", path="load.requests", kind="known"),
    Column(title="slots", path="used.slots", kind="known"),
    Column(title="host", path="used.host", kind="known", drop=2),
    Column(title="host MiB", path="used.mib", kind="known", drop=4),
    Column(title="loading", path="load.loads_running", kind="known", drop=2),
    Column(title="queued", path="load.loads_waiting", kind="known", drop=2),
)
TRAINER = (
    Column(title="trainer", path="trainer_id"),
    Column(title="state", path="state", kind="state", drop=2),
    Column(title="base", path="base", drop=1),
    Column(title="policies", path="full", drop=3),
    Column(title="yours", path="names", kind="list"),
)
ADAPTER = (
    Column(title="revision", path="revision"),
    Column(title="engine", path="engine_id", drop=4),
    Column(title="tier", path="tier"),
    Column(title="state", path="readiness", kind="state"),
    Column(title="MiB", path="size_bytes", kind="mib", drop=5),
    Column(title="in use", path="in_flight", kind="count", drop=2),
    Column(title="pinned", path="pinned", kind="flag", drop=1),
    Column(title="last use", path="last_use", drop=3),
    Column(title="digest", path="digest", kind="digest", drop=6),
)
