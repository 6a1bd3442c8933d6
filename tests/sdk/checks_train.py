"""Training through the SDK: losses, steps, checkpoints, and policies that never touch each other."""

from __future__ import annotations

import time
from functools import partial
from typing import Any

import tinker
from recorder import Absent, Recorder, done
from tinker import types

BASE = "mint/tiny"
RANK = 8
RATE = 1e-2
LOSSES = ("importance_sampling", "ppo", "cispo", "dro", "gspo")
CONFIGS = {"ppo": {"clip_low_threshold": 0.8, "clip_high_threshold": 1.2}, "dro": {"beta": 0.1}}


def make_data(count: int = 4, *, length: int = 16, salt: int = 0) -> list[Any]:
    """Return sequences that a small model learns quickly: each counts on by its own stride."""
    data = []
    for row in range(count):
        tokens = [20 + (salt + 7 * row + 3 * at) % 200 for at in range(length + 1)]
        data.append(make_datum(tokens))
    return data


def make_datum(tokens: list[int], **inputs: list[float]) -> Any:
    """Return a datum that predicts each next token; without inputs, with weights of one."""
    length = len(tokens) - 1
    floats = inputs or {"weights": [1.0] * length}
    tensors = {
        name: types.TensorData(data=values, dtype="float32", shape=[length])
        for name, values in floats.items()
    }
    targets = types.TensorData(data=tokens[1:], dtype="int64", shape=[length])
    return types.Datum(
        model_input=types.ModelInput.from_ints(tokens[:-1]),
        loss_fn_inputs={"target_tokens": targets, **tensors},
    )


def adam(rate: float = RATE) -> Any:
    """Return the optimizer's parameters."""
    return types.AdamParams(learning_rate=rate)


def logprobs_of(output: Any) -> list[list[float]]:
    """Return the log-probabilities of every datum."""
    return [[float(value) for value in each["logprobs"].data] for each in output.loss_fn_outputs]


def loss_of(output: Any) -> float:
    """Return the loss."""
    return float(output.metrics["loss:sum"])


class Training:
    """The checks of `TrainingClient`."""

    def __init__(self, recorder: Recorder, service: Any) -> None:
        self.recorder = recorder
        self.service = service

    def make(self, seed: int = 1, **options: Any) -> Any:
        """Return a new training client."""
        return self.recorder.call(
            self.service, "create_lora_training_client", BASE, rank=RANK, seed=seed, **options
        )

    def train(self, client: Any, steps: int, data: list[Any] | None = None) -> list[float]:
        """Take steps, each pipelined: both operations are on their way before either is done."""
        losses = []
        for _ in range(steps):
            passed = self.recorder.start(client, "forward_backward", data or make_data(), "cross_entropy")
            stepped = self.recorder.start(client, "optim_step", adam())
            losses.append(loss_of(done(passed)))
            done(stepped)
        self.recorder.note_works("TrainingClient.forward_backward", "TrainingClient.optim_step")
        return losses

    def logprobs(self, client: Any, data: list[Any] | None = None) -> list[list[float]]:
        """Return the log-probabilities of the training data now."""
        return logprobs_of(self.recorder.call(client, "forward", data or make_data(), "cross_entropy"))

    def run(self) -> None:
        """Run them all."""
        for name, check in (
            ("a training client is created and described", self.created),
            ("loss falls over pipelined steps", self.loss_falls),
            ("forward leaves weights and gradients alone", self.forward_only),
            ("gradients of several passes add up", self.gradients_add),
            ("many datums are split into chunks and answered in order", self.chunks),
            *((f"loss {name}", partial(self.loss, name)) for name in LOSSES),
            ("a custom loss equals the built-in one", self.custom_loss),
            ("a restored run with its optimizer repeats losses exactly", self.restored_with_optimizer),
            ("a restored run without its optimizer repeats losses exactly", self.restored_without_optimizer),
            ("state is loaded in place", self.loaded_in_place),
            ("two policies trained together never touch each other", self.two_together),
            ("a bad datum is refused at once and the next operation works", self.bad_datum),
            ("modules are chosen by LoraConfig", self.chosen_modules),
        ):
            self.recorder.check(name, check)

    def created(self) -> None:
        """Create a client, ask about it, load its tokenizer."""
        client = self.make(seed=3, user_metadata={"made": "by a check"})
        self.recorder.call_async(self.service, "create_lora_training_client", BASE, rank=RANK)
        info = self.recorder.both(client, "get_info")
        assert info.model_data.model_name == BASE, info
        tokenizer = self.recorder.call(client, "get_tokenizer")
        assert tokenizer.decode(tokenizer.encode("one two")).strip().endswith("two")
        if hasattr(client, "get_console_url"):
            self.recorder.call(client, "get_console_url")

    def loss_falls(self) -> None:
        """Train a little."""
        client = self.make()
        losses = self.train(client, 12)
        assert losses[-1] < 0.7 * losses[0], losses
        self.recorder.call_async(client, "forward_backward", make_data(), "cross_entropy")
        self.recorder.call_async(client, "optim_step", adam())

    def forward_only(self) -> None:
        """A forward between pass and step changes nothing of the step."""
        with_forward, without = self.make(seed=5), self.make(seed=5)
        for client in (with_forward, without):
            done(client.forward_backward(make_data(), "cross_entropy"))
            if client is with_forward:
                self.recorder.both(client, "forward", make_data(salt=3), "cross_entropy")
            done(client.optim_step(adam()))
        assert self.logprobs(with_forward) == self.logprobs(without)

    def gradients_add(self) -> None:
        """Two passes and a step are one pass over both and a step."""
        apart, together = self.make(seed=6), self.make(seed=6)
        first, second = make_data(2), make_data(2, salt=50)
        done(apart.forward_backward(first, "cross_entropy"))
        done(apart.forward_backward(second, "cross_entropy"))
        done(together.forward_backward(first + second, "cross_entropy"))
        for client in (apart, together):
            done(client.optim_step(adam()))
        assert close(self.logprobs(apart), self.logprobs(together), 1e-3)

    def chunks(self) -> None:
        """More datums than one request holds come back whole and in order."""
        client = self.make(seed=7)
        data = make_data(1100, length=3)
        output = done(client.forward_backward(data, "cross_entropy"))
        assert len(output.loss_fn_outputs) == len(data)
        some = [0, 500, 1023, 1024, 1099]
        alone = self.logprobs(client, [data[at] for at in some])
        assert close([logprobs_of(output)[at] for at in some], alone, 1e-4)

    def loss(self, name: str) -> None:
        """A policy-gradient loss begins where its arithmetic says."""
        client = self.make(seed=8)
        tokens = [30 + 2 * at for at in range(9)]
        old = self.logprobs(client, [make_datum(tokens)])[0]
        extra = {"sequence_ratio_mask": [1.0] * 8} if name == "gspo" else {}
        datum = make_datum(tokens, logprobs=old, advantages=[1.0] * 8, **extra)
        try:
            output = done(client.forward_backward([datum], name, CONFIGS.get(name)))
        except ValueError as refused:  # the client checks the name against those that it knows
            raise Absent(f"loss {name}") from refused
        expected = -sum(old) if name in {"cispo", "dro"} else -8.0
        assert abs(loss_of(output) - expected) < 1e-2, (loss_of(output), expected)

    def custom_loss(self) -> None:
        """Cross-entropy written by hand moves the weights as the built-in one does."""
        import torch

        def cross_entropy(data: list[Any], logprobs: list[Any]) -> tuple[Any, dict[str, float]]:
            loss = -torch.stack([each.sum() for each in logprobs]).sum()
            return loss, {"mine": float(loss)}

        custom, built_in = self.make(seed=9), self.make(seed=9)
        told = self.recorder.call(custom, "forward_backward_custom", make_data(), cross_entropy)
        assert "mine" in told.metrics, told.metrics
        done(built_in.forward_backward(make_data(), "cross_entropy"))
        for client in (custom, built_in):
            done(client.optim_step(adam()))
        assert self.logprobs(custom) == self.logprobs(built_in)
        self.recorder.call_async(custom, "forward_backward_custom", make_data(), cross_entropy)
        if hasattr(self.service, "create_custom_loss"):
            ranks = {"logprobs": 1, "weights": 1}
            handle = self.recorder.call(
                self.service,
                "create_custom_loss",
                lambda logprobs, weights: (-(logprobs * weights).sum(), {}),
                ranks,
            )
            done(custom.forward_backward_custom(make_data(), handle))

    def restored_with_optimizer(self) -> None:
        """Losses after a checkpoint are the same bits in a run restored from it."""
        client = self.make(seed=10)
        self.train(client, 3)
        path = self.recorder.call(client, "save_state", "with-optimizer").path
        goes_on = self.train(client, 4)
        maker = "create_training_client_from_state_with_optimizer"
        assert self.train(self.recorder.call(self.service, maker, path), 4) == goes_on
        self.recorder.call_async(self.service, maker, path)
        self.recorder.call_async(client, "save_state", "with-optimizer-async")

    def restored_without_optimizer(self) -> None:
        """Weights alone: the first loss is the run's, and two such runs are equal."""
        client = self.make(seed=11)
        self.train(client, 3)
        path = done(client.save_state("weights-only", ttl_seconds=3600)).path
        goes_on = self.train(client, 3)
        maker = "create_training_client_from_state"
        restored = [self.train(self.recorder.call(self.service, maker, path), 3) for _ in range(2)]
        assert restored[0] == restored[1]
        assert restored[0][0] == goes_on[0]
        assert restored[0][2] != goes_on[2], "the optimizer's moments were taken over"
        self.recorder.call_async(self.service, maker, path)

    def loaded_in_place(self) -> None:
        """A client goes back to where it was."""
        client = self.make(seed=12)
        self.train(client, 2)
        path = done(client.save_state("place")).path
        goes_on = self.train(client, 3)
        self.recorder.both(client, "load_state_with_optimizer", path)
        assert self.train(client, 3) == goes_on
        self.recorder.both(client, "load_state", path)
        assert self.train(client, 1) == goes_on[:1]

    def two_together(self) -> None:
        """Interleaved, two runs have the losses that each has alone."""
        plans = [(13, make_data()), (14, make_data(salt=90))]
        alone = [self.train(self.make(seed), 5, data) for seed, data in plans]
        clients = [self.make(seed) for seed, _ in plans]
        futures: list[list[Any]] = [[], []]
        for _ in range(5):
            for at, client in enumerate(clients):
                futures[at].append(client.forward_backward(plans[at][1], "cross_entropy"))
                client.optim_step(adam())
        together = [[loss_of(done(future)) for future in each] for each in futures]
        assert close(together, alone, 1e-4), (together, alone)

    def bad_datum(self) -> None:
        """An operation that cannot be is refused within seconds; nothing of the run is lost."""
        client = self.make(seed=15)
        before = self.logprobs(client)
        began = time.monotonic()
        try:
            done(client.forward_backward([make_datum([5, 6, 10_000_000])], "cross_entropy"))
        except tinker.TinkerError as error:
            status = getattr(error, "status_code", 400)
        else:
            raise AssertionError("a token outside the vocabulary was accepted")
        assert 400 <= status < 500
        assert status not in {408, 409, 429}
        assert time.monotonic() - began < 3
        assert self.logprobs(client) == before
        assert time.monotonic() - began < 15
        self.train(client, 2)

    def chosen_modules(self) -> None:
        """Attention alone and MLP alone are two different runs."""
        first, second = (
            self.make(seed=16, train_mlp=not attention, train_attn=attention) for attention in (True, False)
        )
        assert self.train(first, 2)[1] != self.train(second, 2)[1]


def close(left: list[list[float]], right: list[list[float]], tolerance: float) -> bool:
    """Return whether two tables are equal, relatively and absolutely, to a tolerance."""
    return len(left) == len(right) and all(
        len(ours) == len(theirs)
        and all(
            abs(one - other) <= tolerance * max(1.0, abs(other))
            for one, other in zip(ours, theirs, strict=True)
        )
        for ours, theirs in zip(left, right, strict=True)
    )
