"""Every pod is started as its service wants, and may do nothing beside it."""

import math
import re
from collections.abc import Iterator, Mapping
from typing import Any
from urllib.parse import urlsplit

import pytest
from chart.rendering import Answer, Case, Pods, example, of_kind, pods_of, render

from mint_common.settings import HttpSettings, describe_settings, read_settings
from mint_common.settings.read import FILE
from services.standalone.commands.migrate import MigrationSettings
from services.standalone.settings import READ_BY
from services.trainer.settings import TrainerSettings, read_process_rank

pytestmark = [pytest.mark.slow]

SECRETS = {"MINT_NATS_URL": "nats://token@nats:4222", "MINT_POSTGRES_DSN": "postgresql://mint@postgres/mint"}
WRITABLE = {"/tmp", "/var/lib/mint", "/dev/shm"}
MARGIN_SECONDS = 20
"""What a service needs after its drain: 5 s to tell whose requests are cut off, and to give work back."""


def of_services(answer: Answer) -> Iterator[Pods]:
    """Yield the pods that run a service of ours: not the test."""
    for pods in pods_of(answer.objects):
        if pods.service in READ_BY:
            yield pods


def container_of(pods: Pods) -> Mapping[str, Any]:
    (container,) = pods.spec["containers"]
    return dict(container)


def migrations_of(answer: Answer) -> dict[str, Pods]:
    """Return the Jobs' pods, by the services whose tables they migrate."""
    return {container_of(pods)["command"][-1]: pods for pods in pods_of(answer.objects) if pods.kind == "Job"}


def environment_of(pods: Pods) -> dict[str, str]:
    """Return what the container reads, with something for each secret and field; files are read already."""
    listed = container_of(pods).get("env", [])
    names = [one["name"].removesuffix(FILE) for one in listed]
    assert len(set(names)) == len(names), "of two variables of a name one takes no effect"
    return {name: _value(name, one, pods) for name, one in zip(names, listed, strict=True)}


def secret_files(pods: Pods) -> dict[str, tuple[str, str]]:
    """Return name and key of the secret that each file of the container has."""
    found = {}
    for mount in container_of(pods).get("volumeMounts", []):
        for volume in pods.spec["volumes"]:
            if volume["name"] == mount["name"]:
                for source in volume.get("projected", {}).get("sources", []):
                    for item in source["secret"]["items"]:
                        found[f"{mount['mountPath']}/{item['path']}"] = source["secret"]["name"], item["key"]
    return found


def secrets_of(pods: Pods) -> dict[str, tuple[str, str]]:
    """Return the secrets that a container is given, by the settings that read them."""
    files, found = secret_files(pods), {}
    for one in container_of(pods).get("env", []):
        of = one.get("valueFrom", {}).get("secretKeyRef")
        if of:
            found[one["name"]] = of["name"], of["key"]
        elif one["name"].startswith("MINT_") and one["name"].endswith(FILE):
            found[one["name"].removesuffix(FILE)] = files.pop(one["value"])
    assert files == {}, "a file that nothing reads"
    return found


def _value(name: str, one: Mapping[str, Any], pods: Pods) -> str:
    source = one.get("valueFrom", {})
    if "secretKeyRef" in source or one["name"] != name:
        return SECRETS.get(name, "secret-of-a-sensible-length")
    field = source.get("fieldRef", {}).get("fieldPath")
    return {"metadata.name": f"{pods.owner}-0"}.get(field) or str(one["value"])


def test_services_accept_their_environment_and_read_all_of_it(answer: Answer) -> None:
    seen = set()
    for pods in of_services(answer):
        cls, environ = READ_BY[pods.service], environment_of(pods)
        settings = read_settings(cls, environ, service=pods.service)
        known = {one.variable for one in describe_settings(cls, pods.service)}
        assert {name for name in environ if name.startswith("MINT_")} <= known
        if isinstance(settings, TrainerSettings) and not pods.role:
            read_process_rank(environ, settings)
        seen.add(pods.service)
    assert {"gateway", "registry", "rollout"} <= seen


def test_values_arrive_as_they_were_written(rendered: Mapping[str, Answer]) -> None:
    wanted = {
        "training-mint-loader-qwen3-4b-small": {"host_bytes": 64 << 30, "slots": 16, "dtype": "bfloat16"},
        "training-mint-loader-qwen3-4b-wide": {
            "engine_args": '{"kv_cache_dtype":"fp8","max_num_batched_tokens":8192}',
            "gpu_memory_utilization": 0.85,
            "executor": "mp",
        },
        "training-mint-loader-smollm2-cpu": {"disk_bytes": 4 << 30, "eager": "true", "dtype": "auto"},
        "training-mint-trainer-qwen3-4b": {"ranks": 2, "sharding": "fsdp", "snapshot_seconds": 0.0},
        "training-mint-gateway": {"tokenizers": ("qwen3-4b=Qwen/Qwen3-4B",)},
        "training-mint-rollout": {"file_bytes": 1 << 30},
    }
    for pods in of_services(rendered["gpus"]):
        settings = read_settings(READ_BY[pods.service], environment_of(pods), service=pods.service)
        for name, value in wanted.pop(pods.owner, {}).items():
            assert getattr(settings, name) == value, name
    assert wanted == {}


def test_a_service_gets_the_secrets_that_it_needs_and_no_others(answer: Answer) -> None:
    for pods in pods_of(answer.objects):
        secrets = set(secrets_of(pods))
        if pods.service in READ_BY:
            assert {"MINT_INTERNAL_TOKEN", "MINT_NATS_URL", "MINT_POSTGRES_DSN"} <= secrets
            assert ("MINT_REGISTRY_BOOTSTRAP_KEY" in secrets) == (pods.service == "registry")
        else:
            assert secrets == ({"MINT_POSTGRES_DSN"} if pods.service == "migrate" else set())


def test_each_service_takes_its_own_role_of_postgres(rendered: Mapping[str, Answer]) -> None:
    answer = rendered["nodes"]
    started = [(pods, pods.service) for pods in of_services(answer)]
    migrated = [(pods, service) for service, pods in migrations_of(answer).items()]
    for pods, service in (*started, *migrated):
        assert secrets_of(pods)["MINT_POSTGRES_DSN"] == ("roles", service)


def test_tables_of_each_service_of_the_release_are_migrated_first(rendered: Mapping[str, Answer]) -> None:
    for name, others in (("small", {"loader", "trainer"}), ("served only", {"loader"}), ("no bases", set())):
        jobs = migrations_of(rendered[name])
        assert set(jobs) == {"gateway", "registry", "rollout", *others}
        for pods in jobs.values():
            assert read_settings(MigrationSettings, environment_of(pods), service="migrate")
    for one in of_kind(rendered["small"].objects, "Job"):
        assert one["metadata"]["annotations"]["helm.sh/hook"] == "pre-install,pre-upgrade"


def test_a_migration_runs_where_and_as_its_service_does(rendered: Mapping[str, Answer]) -> None:
    answer = rendered["every part placed"]
    placed = ("nodeSelector", "tolerations", "affinity", "priorityClassName")
    of_service = {pods.service: pods for pods in of_services(answer)}
    for service, job in migrations_of(answer).items():
        pods = of_service[service if service in {"gateway", "rollout"} else "registry"]
        assert {key: job.spec[key] for key in placed} == {key: pods.spec[key] for key in placed}
        assert job.labels["team"] == "models"
        assert job.template["metadata"]["annotations"] == {"note": "yes"}
        assert environment_of(job)["TZ"] == "UTC"
        assert container_of(job)["resources"] == container_of(pods)["resources"]


def test_a_migration_has_an_account_that_is_there_before_it() -> None:
    theirs = {"serviceAccount": {"create": False, "name": "theirs"}}
    cases = [
        Case(values=example("small", **values), is_upgrade=is_upgrade)
        for values, is_upgrade in (({}, False), ({}, True), (theirs, False), (theirs, True))
    ]
    accounts = [
        {job.spec["serviceAccountName"] for job in migrations_of(each).values()} for each in render(cases)
    ]
    assert accounts == [{"default"}, {"mint"}, {"theirs"}, {"theirs"}]


def test_secrets_are_those_of_the_values(rendered: Mapping[str, Answer]) -> None:
    registry = next(pods for pods in of_services(rendered["gpus"]) if pods.service == "registry")
    assert secrets_of(registry) == {
        "MINT_INTERNAL_TOKEN": ("mint", "internal-token"),
        "MINT_NATS_URL": ("nats", "url"),
        "MINT_POSTGRES_DSN": ("postgres", "dsn"),
        "MINT_REGISTRY_BOOTSTRAP_KEY": ("mint", "api-key"),
        "MINT_BLOBS_S3_ACCESS_KEY": ("bucket", "access"),
        "MINT_BLOBS_S3_SECRET_KEY": ("bucket", "secret"),
    }


def test_pods_fit_the_restricted_standard_and_write_only_where_they_must(answer: Answer) -> None:
    for pods in pods_of(answer.objects):
        spec, container = pods.spec, container_of(pods)
        security = spec["securityContext"]
        assert security["runAsNonRoot"] is True
        assert security["runAsUser"] > 0
        assert security["seccompProfile"] == {"type": "RuntimeDefault"}
        confines = "MINT_ROLLOUT_ENVIRONMENTS_DIR" in {one["name"] for one in container.get("env", [])}
        assert container["securityContext"] == {
            "allowPrivilegeEscalation": False,
            "readOnlyRootFilesystem": True,
            "capabilities": {"drop": ["ALL"]},
            **({"seccompProfile": {"type": "Unconfined"}} if confines else {}),
        }
        assert not {"hostNetwork", "hostPID", "hostIPC", "initContainers"} & spec.keys()
        assert all(
            set(volume) <= {"name", "emptyDir", "persistentVolumeClaim", "projected"}
            for volume in spec.get("volumes", [])
        )
        writable = {
            mount["mountPath"] for mount in container.get("volumeMounts", []) if not mount.get("readOnly")
        }
        assert writable <= WRITABLE
        assert (spec["automountServiceAccountToken"], spec["enableServiceLinks"]) == (False, False)
        assert all("hostPort" not in port for port in container.get("ports", []))


def test_rollout_reads_environments_from_a_claim_and_confines_them_only_if_asked() -> None:
    claims = [{"claim": "envs"}, {"claim": "envs", "namespaces": True}, {"namespaces": True}, {}]
    cases = [Case(values=example("small", rollout__environments=each)) for each in claims]
    read, confined, wrong, none = render(cases)
    assert "rollout.environments.namespaces: without a claim" in wrong.error
    for answer, has_claim, is_unconfined in (
        (read, True, False),
        (confined, True, True),
        (none, False, False),
    ):
        (pods,) = [each for each in pods_of(answer.objects) if each.service == "rollout"]
        mounts = {mount["name"]: mount for mount in container_of(pods)["volumeMounts"]}
        assert ("environments" in mounts) == has_claim
        assert ("seccompProfile" in container_of(pods)["securityContext"]) == is_unconfined
        profile = "container.apparmor.security.beta.kubernetes.io/rollout"
        assert pods.template["metadata"].get("annotations", {}).get(profile) == (
            "unconfined" if is_unconfined else None
        )
        assert ("MINT_ROLLOUT_ENVIRONMENTS_DIR" in environment_of(pods)) == has_claim
        if has_claim:
            mounted = mounts["environments"]
            assert mounted["readOnly"]
            folder = environment_of(pods)["MINT_ROLLOUT_ENVIRONMENTS_DIR"]
            assert folder == f"{mounted['mountPath']}/envs"
            (volume,) = [one for one in pods.spec["volumes"] if one["name"] == "environments"]
            assert volume["persistentVolumeClaim"] == {"claimName": "envs", "readOnly": True}


def test_mounts_are_of_volumes_and_claims_that_are_there(answer: Answer) -> None:
    claims = {
        claim["metadata"]["name"]
        for one in answer.objects
        for spec in (one.get("spec", {}), one.get("spec", {}).get("leaderWorkerTemplate", {}))
        for claim in spec.get("volumeClaimTemplates", [])
    }
    for pods in pods_of(answer.objects):
        container = container_of(pods)
        volumes = {volume["name"] for volume in pods.spec.get("volumes", [])} | claims
        mounts = {mount["name"]: mount["mountPath"] for mount in container.get("volumeMounts", [])}
        assert set(mounts) <= volumes
        environ = environment_of(pods)
        if "MINT_LOADER_CACHE_DIR" in environ:
            assert environ["MINT_LOADER_CACHE_DIR"].startswith(f"{mounts['cache']}/")
        for name in ("MINT_LOADER_BASE_DIR", "MINT_TRAINER_BASE_DIR"):
            if name in environ and "bases" in mounts:
                assert environ[name].startswith(f"{mounts['bases']}/")


def test_probes_ask_where_the_service_answers(answer: Answer) -> None:
    for pods in pods_of(answer.objects):
        container = container_of(pods)
        if pods.service not in READ_BY or pods.role == "worker":
            assert not {"startupProbe", "readinessProbe", "livenessProbe", "ports"} & container.keys()
            continue
        (port,) = container["ports"]
        environ = environment_of(pods)
        assert environ[f"MINT_{pods.service.upper()}_HTTP_PORT"] == str(port["containerPort"])
        assert environ[f"MINT_{pods.service.upper()}_HTTP_HOST"] == "0.0.0.0"
        paths = {
            kind: container[kind]["httpGet"]["path"]
            for kind in ("startupProbe", "readinessProbe", "livenessProbe")
        }
        assert paths == {"startupProbe": "/readyz", "readinessProbe": "/readyz", "livenessProbe": "/healthz"}
        assert all(container[kind]["httpGet"]["port"] == port["name"] for kind in paths)


def test_a_pod_has_the_time_that_its_service_takes_to_drain(answer: Answer) -> None:
    for pods in of_services(answer):
        cls = READ_BY[pods.service]
        http: HttpSettings = read_settings(cls, environment_of(pods), service=pods.service).http
        wanted = math.ceil(http.accept_seconds) + math.ceil(http.drain_seconds) + MARGIN_SECONDS
        assert pods.spec["terminationGracePeriodSeconds"] == wanted


def test_addresses_of_peers_are_those_of_services(answer: Answer) -> None:
    services = {
        one["metadata"]["name"]: (one["spec"]["selector"]["app.kubernetes.io/component"], port["port"])
        for one in of_kind(answer.objects, "Service")
        for port in one["spec"]["ports"]
    }
    # The controller of a LeaderWorkerSet makes a headless Service of its name.
    for pods in pods_of(answer.objects):
        if pods.role == "leader":
            services[pods.owner] = (pods.service, container_of(pods)["ports"][0]["containerPort"])
    asked = {"REGISTRY": "registry", "ROLLOUT": "rollout", "TRAINER": "trainer", "LOADER": "loader"}
    for pods in of_services(answer):
        for name, value in environment_of(pods).items():
            found = re.fullmatch(r"MINT_PEERS_([A-Z]+)_URLS?", name)
            for url in value.split(",") if found and value else ():
                parts = urlsplit(url)
                host = str(parts.hostname)
                pod, _, service = host.rpartition(".")
                assert services[service or host] == (asked[found[1]], parts.port) if found else False
                assert not pod or pod.rpartition("-")[0] == service


@pytest.mark.parametrize("scaling", [False, True])
def test_callers_have_one_seed_of_a_group_however_many_engines_it_has(scaling: bool) -> None:
    """Engines announce themselves under their pods' names, so scaling restarts no caller."""
    most = {"replicas": 3, "scaling": {"enabled": scaling, "minReplicas": 1, "maxReplicas": 5}}
    values = example(
        "small", bases__tiny__engines={"cpu": most}, observability={"prometheusUrl": "http://prometheus"}
    )
    (answer,) = render([Case(values=values)])
    for pods in of_services(answer):
        if pods.service in {"gateway", "rollout"}:
            urls = environment_of(pods)["MINT_PEERS_LOADER_URLS"].split(",")
            assert urls == ["http://mint-loader-tiny-cpu-0.mint-loader-tiny-cpu:8104"]
        elif pods.service == "loader":
            (own_name,) = (
                each for each in container_of(pods)["env"] if each["name"] == "MINT_LOADER_ENGINE_ID"
            )
            assert own_name["valueFrom"] == {"fieldRef": {"fieldPath": "metadata.name"}}
            assert "MINT_LOADER_ADVERTISE_URL" not in environment_of(pods), "it is the pod's own address"
