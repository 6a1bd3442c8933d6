"""Runs, checkpoints and sessions through the SDK's REST client; what this server leaves out, it says."""

from __future__ import annotations

import datetime as dt
import inspect
import json
import urllib.request
from typing import Any

import tinker
from checks_sample import Sampling, tokens_of
from checks_train import BASE, Training
from recorder import BROKEN, REFUSED, Absent, Broken, Recorder, Refused, done


class Rest:
    """The checks of `RestClient`, of closing, and of what survives."""

    def __init__(
        self, recorder: Recorder, service: Any, training: Training, sampling: Sampling, *, url: str, key: str
    ) -> None:
        self.recorder = recorder
        self.service = service
        self.training = training
        self.sampling = sampling
        self.url = url
        self.key = key
        self.kept: dict[str, Any] = {}

    def run(self) -> None:
        """Run them all."""
        self.rest = self.recorder.call(self.service, "create_rest_client")
        self.client = self.training.make(seed=31)
        self.training.train(self.client, 2)
        self.run_id = str(done(self.client.get_info()).model_id)
        self.state = done(self.client.save_state("kept")).path
        self.weights = done(self.client.save_weights_for_sampler("kept")).path
        for name, check in (
            ("the server says what it serves", self.capabilities),
            ("training runs are listed", self.runs),
            ("checkpoints are listed and described", self.checkpoints),
            ("sessions and samplers are described", self.sessions),
            ("checkpoints are published and taken back", self.published),
            ("checkpoints get and lose an end", self.lifetimes),
            ("checkpoints are copied", self.copied),
            ("checkpoints are deleted", self.deleted),
            ("checkpoints are handed out as archives", self.archived),
            ("what is left out is refused at once", self.left_out),
            ("checkpoints answer after their run is unloaded", self.unloaded),
            ("MinT's own interpolation", self.interpolated),
            ("MinT's own reverse KL", self.distilled),
        ):
            self.recorder.check(name, check)

    def capabilities(self) -> None:
        """The base is among the models."""
        told = self.recorder.both(self.service, "get_server_capabilities")
        assert BASE in {model.model_name for model in told.supported_models}, told
        if hasattr(self.rest, "get_server_capabilities"):
            self.recorder.call(self.rest, "get_server_capabilities")

    def runs(self) -> None:
        """This run is the newest one, and is found by each of its names."""
        listed = self.recorder.both(self.rest, "list_training_runs", limit=5)
        assert self.run_id in {run.training_run_id for run in listed.training_runs}
        run = self.recorder.both(self.rest, "get_training_run", self.run_id)
        assert (run.base_model, run.is_lora, run.lora_rank) == (BASE, True, 8), run
        found = self.recorder.both(self.rest, "get_training_run_by_tinker_path", self.weights)
        assert found.training_run_id == self.run_id

    def checkpoints(self) -> None:
        """Both checkpoints of the run are there."""
        listed = self.recorder.both(self.rest, "list_checkpoints", self.run_id)
        assert {each.tinker_path for each in listed.checkpoints} == {self.state, self.weights}
        mine = self.recorder.both(self.rest, "list_user_checkpoints", limit=100)
        assert {self.state, self.weights} <= {each.tinker_path for each in mine.checkpoints}
        if hasattr(self.rest, "get_weights_info_by_tinker_path"):
            info = self.recorder.call(self.rest, "get_weights_info_by_tinker_path", self.state)
            assert (info.base_model, info.lora_rank) == (BASE, 8), info

    def sessions(self) -> None:
        """The session knows its runs and samplers."""
        session_id = self.run_id.partition(":")[0]
        assert session_id in self.recorder.both(self.rest, "list_sessions", limit=50).sessions
        session = self.recorder.both(self.rest, "get_session", session_id)
        assert self.run_id in session.training_run_ids
        assert session.sampler_ids
        if hasattr(self.rest, "get_sampler"):
            sampler = self.recorder.both(self.rest, "get_sampler", session.sampler_ids[-1])
            assert sampler.base_model == BASE, sampler
        if hasattr(self.rest, "assign_session_project"):
            self.recorder.both(self.rest, "assign_session_project", session_id, "a-project")
        if hasattr(self.rest, "search_sessions"):
            from tinker import types

            found = self.recorder.both(self.rest, "search_sessions", types.SessionSearchRequest())
            assert found.sessions

    def published(self) -> None:
        """A public checkpoint says so."""
        for verb, expected in (("publish", True), ("unpublish", False)):
            self.recorder.both(self.rest, f"{verb}_checkpoint_from_tinker_path", self.weights)
            listed = done(self.rest.list_checkpoints(self.run_id)).checkpoints
            assert {each.public for each in listed if each.tinker_path == self.weights} == {expected}

    def lifetimes(self) -> None:
        """An end is set and taken away."""
        for seconds, has_end in ((86_400, True), (None, False)):
            self.recorder.both(self.rest, "set_checkpoint_ttl_from_tinker_path", self.state, seconds)
            listed = done(self.rest.list_checkpoints(self.run_id)).checkpoints
            ends = {each.expires_at is not None for each in listed if each.tinker_path == self.state}
            assert ends == {has_end}

    def copied(self) -> None:
        """A copy can be loaded."""
        if not hasattr(self.rest, "copy_weights") and not hasattr(self.service, "copy_weights"):
            raise Absent("copy_weights")
        copies = []
        for target in (self.rest, self.service):
            if hasattr(target, "copy_weights"):
                known = inspect.signature(target.copy_weights).parameters
                options = {"destination_project_id": "copies"} if "destination_project_id" in known else {}
                copies.append(self.recorder.both(target, "copy_weights", self.state, **options))
        for path in copies:
            restored = done(self.service.create_training_client_from_state_with_optimizer(path))
            assert self.training.logprobs(restored) == self.training.logprobs(self.client)

    def deleted(self) -> None:
        """A deleted checkpoint is gone, by whichever name it was deleted."""
        names = [f"gone-{at}" for at in range(4)]
        paths = [done(self.client.save_state(name)).path for name in names]
        self.recorder.call(self.rest, "delete_checkpoint", self.run_id, f"weights/{names[0]}")
        self.recorder.call_async(self.rest, "delete_checkpoint", self.run_id, f"weights/{names[1]}")
        self.recorder.call(self.rest, "delete_checkpoint_from_tinker_path", paths[2])
        self.recorder.call_async(self.rest, "delete_checkpoint_from_tinker_path", paths[3])
        left = {each.tinker_path for each in done(self.rest.list_checkpoints(self.run_id)).checkpoints}
        assert not left & set(paths)
        assert self.state in left

    def archived(self) -> None:
        """An archive's address leads to an archive."""
        if not hasattr(self.rest, "get_checkpoint_archive_url"):
            raise Absent("archives")
        kind_and_name = self.weights.removeprefix(f"tinker://{self.run_id}/")
        try:
            told = self.recorder.both(self.rest, "get_checkpoint_archive_url", self.run_id, kind_and_name)
        except TypeError as error:  # 0.22.0 asks its own client for a type that this one does not take
            for name in [name for name in self.recorder.methods if "archive_url" in name]:
                self.recorder.methods[name] = BROKEN
            raise Broken(str(error)) from error
        assert told.url.startswith("http"), told
        self.recorder.both(self.rest, "get_checkpoint_archive_url_from_tinker_path", self.weights)
        with urllib.request.urlopen(told.url, timeout=20) as archive:
            assert len(archive.read()) > 10_000

    def left_out(self) -> None:
        """Billing, audit, traces and external weights are refused, not tried again for minutes."""
        now = dt.datetime.now(dt.UTC)
        session_id = self.run_id.partition(":")[0]
        targets = [self.rest]
        if "AdminClient" in self.recorder.classes:
            targets.append(self.recorder.classes["AdminClient"](self.rest.holder))
        for target in targets:
            self.recorder.refuse(target, "get_audit_log")
            self.recorder.refuse(target, "get_billing_usage", now - dt.timedelta(days=1), now)
            self.recorder.refuse(target, "get_current_checkpoint_storage_usage")
        self.recorder.refuse(self.rest, "export_session_trace", session_id)
        external = f"tinker://{self.run_id}/external_weights/external"
        self.recorder.refuse(self.rest, "get_external_weights_urls", external)
        self.recorder.refuse(self.client, "save_weights_external", "external")
        if hasattr(self.rest, "whoami"):
            try:
                done(self.rest.whoami())
            except RuntimeError:  # its own word: it reads a token that no server needs to issue
                self.recorder.methods["RestClient.whoami"] = REFUSED

    def unloaded(self) -> None:
        """Weights outlive the run that they were saved from."""
        sampler = done(self.service.create_sampling_client(model_path=self.weights))
        before = tokens_of(self.sampling.sample(sampler))
        self._post("unload_model", {"model_id": self.run_id, "type": "unload_model"})
        again = done(self.service.create_sampling_client(model_path=self.weights))
        assert tokens_of(self.sampling.sample(again)) == tokens_of(self.sampling.sample(sampler)) == before
        restored = done(self.service.create_training_client_from_state_with_optimizer(self.state))
        self.kept = {
            "weights": self.weights,
            "state": self.state,
            "tokens": before,
            "losses": self.training.train(restored, 2),
        }

    def survived(self, kept: dict[str, Any]) -> None:
        """After a restart of the server, what was kept is what it was."""
        sampler = done(self.service.create_sampling_client(model_path=kept["weights"]))
        assert tokens_of(self.sampling.sample(sampler)) == kept["tokens"]
        restored = done(self.service.create_training_client_from_state_with_optimizer(kept["state"]))
        assert self.training.train(restored, 2) == kept["losses"]

    def closed(self) -> None:
        """A session ends."""
        if not hasattr(self.service, "close"):
            raise Absent("close")
        self.recorder.call(self.service, "get_console_url")
        self.recorder.call(self.service, "close", "success")

    def interpolated(self) -> None:
        """MinT's own package mixes two runs' weights; all of one is that one."""
        mint, _, other = self._mint()
        sources = [self.weights, other]
        mixed = mint.interpolate_checkpoints(self.service, source_paths=sources, coefficients=[0.5, 0.5])
        assert (mixed.checkpoint_type, mixed.source_paths) == ("sampler", sources), mixed
        sampler = done(self.service.create_sampling_client(model_path=mixed.path))
        assert len(tokens_of(self.sampling.sample(sampler))[0]) == 8
        same = mint.interpolate_checkpoints(
            self.service, source_paths=sources, coefficients=[1.0, 0.0], output_path="same"
        )
        assert same.path.endswith("/sampler_weights/same"), same
        samplers = [
            done(self.service.create_sampling_client(model_path=path)) for path in (same.path, self.weights)
        ]
        tokens = [tokens_of(self.sampling.sample(sampler)) for sampler in samplers]
        assert tokens[0] == tokens[1], tokens
        try:
            mint.interpolate_checkpoints(self.service, source_paths=sources, coefficients=[0.5, 0.6])
        except tinker.UnprocessableEntityError:
            return
        raise AssertionError("coefficients that add up to 1.1 were accepted")

    def distilled(self) -> None:
        """MinT's own package measures the distance to another checkpoint."""
        mint, client, other = self._mint()
        try:
            told = self._reverse_kl(mint, client, other)
        except tinker.NotFoundError as error:
            raise Refused("forward_backward_reverse_kl") from error
        assert abs(sum(told.outputs[0].loss.data)) < 1e-3, "a policy is at no distance from itself"
        assert self._reverse_kl(mint, client, self.weights).outputs[0].loss.data != told.outputs[0].loss.data

    def _mint(self) -> tuple[Any, Any, str]:
        """Return MinT's own package, and a run with a sampler checkpoint."""
        try:
            from mint import mint
        except ImportError as missing:
            raise Absent("mindlab-toolkit") from missing
        client = self.training.make(seed=32)
        self.training.train(client, 2)
        return mint, client, done(client.save_weights_for_sampler("other")).path

    def _reverse_kl(self, mint: Any, client: Any, path: str) -> Any:
        from tinker import types

        tokens = [40 + 2 * at for at in range(9)]
        prompt = types.ModelInput.from_ints(tokens[:-1])
        datum = mint.ReverseKLDatum(
            student_input=prompt,
            reference_input=prompt,
            target_tokens=types.TensorData(data=tokens[1:], dtype="int64", shape=[8]),
            weights=types.TensorData(data=[1.0] * 8, dtype="float32", shape=[8]),
        )
        return mint.forward_backward_reverse_kl(client, reference_model_path=path, data=[datum])

    def _post(self, route: str, body: dict[str, Any]) -> Any:
        request = urllib.request.Request(
            f"{self.url}/api/v1/{route}",
            data=json.dumps(body).encode(),
            headers={"X-API-Key": self.key, "Content-Type": "application/json"},
        )
        with urllib.request.urlopen(request, timeout=30) as answer:
            told = json.load(answer)
        if "request_id" in told and route != "retrieve_future":
            return self._wait(told["request_id"])
        return told

    def _wait(self, request_id: str) -> Any:
        while True:
            told = self._post("retrieve_future", {"request_id": request_id})
            if told.get("type") != "try_again":
                return told
