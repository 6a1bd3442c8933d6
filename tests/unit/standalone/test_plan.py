"""Which services run, and what they are told."""

from collections.abc import Collection
from dataclasses import replace

import pytest

from mint_common.errors import SettingInvalid
from services.standalone.core.lifecycle import PartState, PartStatus
from services.standalone.core.parts import may_start, start_levels, stop_levels
from services.standalone.core.plan import (
    SERVICES,
    Addresses,
    BaseAt,
    BasePlan,
    ServicePart,
    StackSecrets,
    check_overrides,
    plan_alike,
    plan_services,
    port_names,
    start_in_turn,
)
from services.standalone.settings import read_standalone_settings

BASES = (BaseAt(name="tiny", folder="/b/tiny"), BaseAt(name="smollm2", folder="/b/smollm2"))
PORTS = {name: 9000 + index for index, name in enumerate(port_names(BASES))}


def plan(
    overrides: dict[str, str] | None = None,
    services: Collection[str] = SERVICES,
    bases: tuple[BaseAt, ...] = BASES,
) -> dict[str, ServicePart]:
    """Return the planned services of two bases by name."""
    addresses = Addresses(
        postgres_dsn="postgresql://p", nats_url="nats://n", blobs={"MINT_BLOBS_URL": "file:///s"}, embedded=()
    )
    planned = plan_services(
        bases,
        addresses,
        StackSecrets(internal_token="t", api_key="tml-k"),
        ports={name: 9000 + index for index, name in enumerate(port_names(bases))},
        cache_folder="/c",
        environments_folder="/e",
        overrides=overrides or {},
        services=services,
    )
    return {each.name: each for each in planned}


def test_every_base_has_a_trainer_and_a_loader_of_its_own() -> None:
    planned = plan()
    assert planned["trainer-tiny"].env["MINT_TRAINER_BASE_DIR"] == "/b/tiny"
    assert planned["loader-smollm2"].env["MINT_LOADER_BASE_DIR"] == "/b/smollm2"
    assert (
        planned["loader-tiny"].env["MINT_LOADER_CACHE_DIR"]
        != planned["loader-smollm2"].env["MINT_LOADER_CACHE_DIR"]
    )
    assert set(planned) == {
        *("registry", "rollout", "gateway"),
        *("trainer-tiny", "loader-tiny", "trainer-smollm2", "loader-smollm2"),
    }


def test_a_quantized_base_has_a_loader_and_no_trainer() -> None:
    bases = (BASES[0], BaseAt(name="fp8", folder="/b/fp8", trainable=False))
    planned = plan(bases=bases)
    assert {"trainer-tiny", "loader-tiny", "loader-fp8"} < set(planned)
    assert "trainer-fp8" not in planned
    assert planned["gateway"].env["MINT_PEERS_TRAINER_URLS"].count("http") == 1
    assert "trainer-fp8" not in planned["gateway"].calls
    with_settings = replace(bases[1], plan=BasePlan(trainers=({"MINT_TRAINER_THREADS": "2"},)))
    with pytest.raises(SettingInvalid, match=r"MINT_TRAINER_THREADS: the base fp8 is not trained"):
        plan(bases=(with_settings,))


def test_a_base_that_is_only_trained_has_a_trainer_and_no_loader() -> None:
    bases = (BASES[0], BaseAt(name="gpt2", folder="/b/gpt2", served=False))
    planned = plan(bases=bases)
    assert {"trainer-tiny", "loader-tiny", "trainer-gpt2"} < set(planned)
    assert "loader-gpt2" not in planned
    assert planned["gateway"].env["MINT_PEERS_LOADER_URLS"].count("http") == 1
    assert plan(bases=bases[1:])["gateway"].env["MINT_PEERS_LOADER_URLS"] == ""
    with_settings = replace(bases[1], plan=BasePlan(engines=({"MINT_LOADER_SLOTS": "2"},)))
    with pytest.raises(SettingInvalid, match=r"MINT_LOADER_SLOTS: the base gpt2 is only trained"):
        plan(bases=(with_settings,))


def test_a_base_may_have_several_trainers_each_with_its_settings() -> None:
    several = BasePlan(trainers=({"MINT_TRAINER_THREADS": "2"}, {}))
    planned = plan(bases=(replace(BASES[0], plan=several),))
    assert planned["trainer-tiny"].env["MINT_TRAINER_THREADS"] == "2"
    assert "MINT_TRAINER_THREADS" not in planned["trainer-tiny-2"].env
    assert len(planned["gateway"].env["MINT_PEERS_TRAINER_URLS"].split(",")) == 2
    assert {"trainer-tiny", "trainer-tiny-2"} <= set(planned["gateway"].calls)


def test_a_base_may_have_several_engines_each_with_a_loader_of_its_own() -> None:
    planned = plan(bases=tuple(replace(base, plan=plan_alike(engines=2)) for base in BASES))
    first, second = planned["loader-tiny"].env, planned["loader-tiny-2"].env
    assert (first["MINT_LOADER_ENGINE_ID"], second["MINT_LOADER_ENGINE_ID"]) == (
        "engine-tiny",
        "engine-tiny-2",
    )
    assert first["MINT_LOADER_CACHE_DIR"] != second["MINT_LOADER_CACHE_DIR"]
    assert len(planned["gateway"].env["MINT_PEERS_LOADER_URLS"].split(",")) == 4
    assert {"loader-tiny-2", "loader-smollm2-2"} <= set(planned["gateway"].calls)


def test_a_dtype_is_that_of_the_trainer_and_every_engine() -> None:
    base = replace(BASES[0], plan=plan_alike(engines=2, dtype="bfloat16"))
    planned = plan(bases=(base,))
    for name in ("loader-tiny", "loader-tiny-2"):
        assert planned[name].env["MINT_LOADER_DTYPE"] == "bfloat16"
    assert planned["trainer-tiny"].env["MINT_TRAINER_DTYPE"] == "bfloat16"
    assert not any("DTYPE" in name for one in plan().values() for name in one.env)
    with pytest.raises(SettingInvalid, match="MINT_TRAINER_DTYPE"):
        plan({"MINT_TRAINER_DTYPE": "float32"}, bases=(base,))


def test_a_stack_may_leave_services_out_and_nothing_waits_for_them() -> None:
    planned = plan(services=("registry", "loader", "gateway"))
    assert set(planned) == {"registry", "gateway", "loader-tiny", "loader-smollm2"}
    assert planned["gateway"].needs == ("registry",)
    assert set(planned["gateway"].calls) == {"loader-tiny", "loader-smollm2"}


def test_the_gateway_waits_for_no_engine_and_stops_before_all_of_them() -> None:
    parts = list(plan().values())
    assert start_levels(parts)[0] == ("registry",)
    assert plan()["gateway"].needs == ("registry", "rollout")
    assert stop_levels(parts)[0] == ("gateway",)
    assert set(stop_levels(parts)[1]) == {
        *("rollout", "trainer-tiny", "loader-tiny", "trainer-smollm2", "loader-smollm2")
    }


def test_services_find_each_other_through_their_peers() -> None:
    env = plan()["rollout"].env
    assert env["MINT_PEERS_REGISTRY_URL"] == f"http://127.0.0.1:{PORTS['registry']}"
    assert env["MINT_PEERS_LOADER_URLS"].split(",") == [
        f"http://127.0.0.1:{PORTS[name]}" for name in ("loader-tiny", "loader-smollm2")
    ]
    assert "MINT_REGISTRY_BOOTSTRAP_KEY" not in env


def test_a_users_setting_reaches_the_service_that_it_names_and_no_other() -> None:
    shared = {"MINT_TELEMETRY_LOG_LEVEL": "DEBUG", "MINT_ALGORITHMS_CUSTOM": "own.ipo:ALGORITHM"}
    planned = plan({"MINT_TRAINER_THREADS": "4", **shared})
    assert planned["trainer-tiny"].env["MINT_TRAINER_THREADS"] == "4"
    assert "MINT_TRAINER_THREADS" not in planned["gateway"].env
    for part in ("gateway", "rollout", "trainer-tiny"):
        assert shared.items() <= planned[part].env.items()


@pytest.mark.parametrize("name", ["MINT_GATEWAY_HTTP_PORT", "MINT_INTERNAL_TOKEN", "MINT_LOADER_BASE_DIR"])
def test_a_setting_that_the_stack_decides_itself_is_refused(name: str) -> None:
    with pytest.raises(SettingInvalid, match=name):
        plan({name: "1"})


def test_a_setting_that_nothing_reads_is_refused() -> None:
    with pytest.raises(SettingInvalid, match=r"MINT_TRAINR_THREADS: .*\(the nearest: MINT_TRAINER_\.\.\.\)"):
        check_overrides({"MINT_TRAINR_THREADS": "1"})
    with pytest.raises(SettingInvalid, match=r"MINT_POSTGRES_DNS: .*\(the nearest: MINT_POSTGRES_DSN\)"):
        check_overrides({"MINT_POSTGRES_DNS": "postgresql://x/y"})
    with pytest.raises(SettingInvalid, match=r"MINT_BLOB: .*\(the nearest: MINT_BLOBS_URL\)"):
        check_overrides({"MINT_BLOB": "file:///x"})
    with pytest.raises(
        SettingInvalid, match=r"MINT_X: no part of the stack reads it; correct it, or unset it$"
    ):
        check_overrides({"MINT_X": "1"})


def test_the_environment_is_split_and_quiet_defaults_give_way() -> None:
    client = {"MINT_URL": "http://other:8321", "MINT_API_KEY": "tml-other"}
    environ = {"PATH": "/bin", "OMP_NUM_THREADS": "2", "MINT_NATS_URL": "nats://x"}
    settings = read_standalone_settings({**environ, **client})
    assert settings.inherited["OMP_NUM_THREADS"] == "2"
    assert settings.inherited["HF_HUB_OFFLINE"] == "1"
    assert "MINT_NATS_URL" not in settings.inherited
    assert settings.external("MINT_NATS_URL") == "nats://x"
    assert settings.external("MINT_POSTGRES_DSN") == ""


def test_parts_that_share_a_gpu_start_one_after_another_engines_first() -> None:
    shared = BaseAt(name="tiny", folder="/b/tiny", plan=plan_alike(engines=3))
    parts = tuple(plan(bases=(shared,)).values())
    names = ("loader-tiny", "loader-tiny-2", "loader-tiny-3", "trainer-tiny")
    gpus = dict(zip(names, ((0,), (0, 1), (2,), (0, 2)), strict=True))
    turns = {part.name: part for part in start_in_turn(parts, gpus)}
    assert {name: turns[name].follows for name in names} == {
        "loader-tiny": (),
        "loader-tiny-2": ("loader-tiny",),
        "loader-tiny-3": (),
        "trainer-tiny": ("loader-tiny-2", "loader-tiny-3"),
    }
    statuses = {name: PartStatus(state=PartState.READY, was_ready=True) for name in turns}
    assert may_start(turns["trainer-tiny"], statuses)
    waiting = {**statuses, "loader-tiny-3": PartStatus()}
    assert not may_start(turns["trainer-tiny"], waiting), "the last one that shares a GPU with it"
    assert may_start(turns["loader-tiny-2"], waiting)
    assert start_in_turn(parts, dict.fromkeys(names, ())) == parts, "parts on a CPU start at once"
