"""Reads runs back by a tracker's own client; runs in that client's environment. Prints JSON."""

import json
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

Points = dict[str, list[tuple[int, float]]]


def read_mlflow(url: str, policy: str, job_id: str) -> dict[str, Any]:
    from mlflow import MlflowClient

    client = MlflowClient(url)
    experiment = client.get_experiment_by_name("mint")
    assert experiment is not None
    runs = client.search_runs([experiment.experiment_id], f"tags.`mint.job_id` = '{job_id}'")
    (run,) = runs
    model = client.get_registered_model(policy)
    versions = client.search_model_versions(f"name='{policy}'")
    return {
        "points": {
            key: [(each.step, each.value) for each in client.get_metric_history(run.info.run_id, key)]
            for key in run.data.metrics
        },
        "config": dict(run.data.params),
        "tags": dict(run.data.tags),
        "status": run.info.status,
        "versions": {each.tags["mint.revision"]: each.version for each in versions},
        "aliases": dict(model.aliases),
        "adapters": sorted(each.tags["mint.adapter"] for each in versions),
    }


def read_trackio(_folder: str, _policy: str, job_id: str) -> dict[str, Any]:
    import trackio
    from trackio.sqlite_storage import SQLiteStorage

    (run,) = (each for each in trackio.Api().runs("mint") if each.id == job_id)
    points: Points = {}
    for row in SQLiteStorage.get_logs("mint", run.name, run_id=run.id):
        for name, value in row.items():
            if name not in ("step", "timestamp"):
                points.setdefault(name, []).append((row["step"], value))
    return {"points": points, "config": run.config}


def read_tensorboard(folder: str, policy: str, job_id: str) -> dict[str, Any]:
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    found = EventAccumulator(f"{folder}/{policy}/{job_id}").Reload()
    tags = found.Tags()["scalars"]
    return {"points": {tag: [(each.step, each.value) for each in found.Scalars(tag)] for tag in tags}}


def read_wandb(folder: str, _policy: str, job_id: str) -> dict[str, Any]:
    from wandb.proto import wandb_internal_pb2
    from wandb.sdk.internal.datastore import DataStore

    points: Points = {}
    aliases: dict[str, list[str]] = {}
    number = ""
    for file in Path(folder).glob(f"wandb/offline-run-*-{job_id}/*.wandb"):
        store = DataStore()
        store.open_for_scan(str(file))
        while (data := store.scan_data()) is not None:
            record = wandb_internal_pb2.Record()
            record.ParseFromString(data)
            row = {each.key or "/".join(each.nested_key): each.value_json for each in record.history.item}
            for name, value in row.items():
                if not name.startswith("_") and name != "train/global_step":
                    step = int(json.loads(row["train/global_step"]))
                    points.setdefault(name, []).append((step, json.loads(value)))
            if record.request.log_artifact.artifact.name or record.artifact.name:
                artifact = record.artifact if record.artifact.name else record.request.log_artifact.artifact
                number = str(json.loads(artifact.metadata)["number"])
                aliases[number] = list(artifact.aliases)
    return {"points": points, "aliases": aliases, "latest": number}


READERS: Mapping[str, Callable[[str, str, str], dict[str, Any]]] = {
    "mlflow": read_mlflow,
    "trackio": read_trackio,
    "tensorboard": read_tensorboard,
    "wandb": read_wandb,
}

if __name__ == "__main__":
    tracker, place, policy, job_id = sys.argv[1:]
    sys.stdout.write("\n" + json.dumps(READERS[tracker](place, policy, job_id)))
