"""Sampling through the SDK: seeds, stops, log-probabilities, old checkpoints, clients in other processes."""

from __future__ import annotations

import inspect
import pickle
import time
from typing import Any

import tinker
from checks_train import BASE, Training, adam, close, logprobs_of, make_data, make_datum
from recorder import Absent, Recorder, done
from tinker import types

PROMPT = [40, 43, 46, 49, 52]


def prompt_of(tokens: list[int]) -> Any:
    """Return a prompt."""
    return types.ModelInput.from_ints(tokens)


def params(**changes: Any) -> Any:
    """Return sampling parameters with a seed, and without an end but their length."""
    return types.SamplingParams(**{"max_tokens": 8, "seed": 5, "temperature": 1.0, "stop": [], **changes})


def tokens_of(response: Any) -> list[list[int]]:
    """Return the tokens of every sequence."""
    return [[int(token) for token in each.tokens] for each in response.sequences]


class Sampling:
    """The checks of `SamplingClient`."""

    def __init__(self, recorder: Recorder, service: Any, training: Training, *, key: str) -> None:
        self.recorder = recorder
        self.key = key
        self.service = service
        self.training = training

    def run(self) -> None:
        """Run them all."""
        self.client = self.training.make(seed=21)
        self.training.train(self.client, 6)
        self.sampler = self.recorder.call(self.client, "save_weights_and_get_sampling_client")
        for name, check in (
            ("weights become samplers in every way", self.made),
            ("a seed repeats a sample", self.seeds),
            ("several samples differ, greedy ones agree", self.several),
            ("stop tokens are included", self.stop_tokens),
            ("stop strings end the text that holds them", self.stop_strings),
            ("stop=[] switches the end-of-sequence token off", self.no_stop),
            ("sampled log-probabilities are the trainer's", self.parity),
            ("prompts are scored", self.prompts),
            ("the most likely tokens are listed", self.likeliest),
            ("a bad sample is refused at once", self.refused),
            ("sampling an old checkpoint leaves training bit-equal", self.old_checkpoint),
            ("64 samples at once", self.many),
            ("a sampler is taken to another process", self.elsewhere),
            ("inflight samplers move on", self.inflight),
        ):
            self.recorder.check(name, check)

    def sample(
        self, sampler: Any = None, tokens: list[int] | None = None, count: int = 1, **changes: Any
    ) -> Any:
        """Return a sample's response."""
        options = {name: changes.pop(name) for name in list(changes) if "logprobs" in name}
        wanted = prompt_of(tokens or PROMPT)
        return self.recorder.call(
            sampler or self.sampler, "sample", wanted, count, params(**changes), **options
        )

    def made(self) -> None:
        """Every way to a sampler gives the same sample."""
        expected = tokens_of(self.sample())
        call = self.recorder.call
        path = call(self.client, "save_weights_for_sampler", "ways").path
        self.recorder.call_async(self.client, "save_weights_for_sampler", "ways-async")
        self.recorder.call_async(self.client, "save_weights_and_get_sampling_client")
        samplers = [
            call(self.service, "create_sampling_client", model_path=path),
            self.recorder.call_async(self.service, "create_sampling_client", model_path=path),
            call(self.client, "create_sampling_client", path),
            self.recorder.call_async(self.client, "create_sampling_client", path),
            call(type(self.sampler), "create", self.sampler.holder, model_path=path),
        ]
        self.recorder.note_works("SamplingClient.create")
        submit = "save_weights_and_get_sampling_client_submit"
        if hasattr(self.client, submit):
            samplers.append(call(self.client, submit))
        for sampler in samplers:
            assert tokens_of(self.sample(sampler)) == expected
            if hasattr(sampler, "get_base_model"):
                assert self.recorder.both(sampler, "get_base_model") == BASE
        base = call(self.service, "create_sampling_client", base_model=BASE)
        assert tokens_of(self.sample(base)) != expected
        assert call(base, "get_tokenizer").decode([40])

    def seeds(self) -> None:
        """A seed repeats, another one does not."""
        first = tokens_of(self.sample(max_tokens=16))
        assert tokens_of(self.sample(max_tokens=16)) == first
        assert tokens_of(self.sample(max_tokens=16, seed=6)) != first
        self.recorder.call_async(self.sampler, "sample", prompt_of(PROMPT), 1, params())

    def several(self) -> None:
        """As many samples come as are wanted."""
        sampled = tokens_of(self.sample(count=4, max_tokens=16))
        assert len(sampled) == 4
        assert len({tuple(each) for each in sampled}) > 1
        greedy = tokens_of(self.sample(count=3, temperature=0.0))
        assert greedy[0] == greedy[1] == greedy[2]

    def stop_tokens(self) -> None:
        """A stop token is the last token, with its log-probability."""
        free = tokens_of(self.sample(max_tokens=12))[0]
        end = free.index(free[6]) + 1
        stopped = self.sample(max_tokens=12, stop=[free[6]]).sequences[0]
        assert [int(token) for token in stopped.tokens] == free[:end]
        assert len(stopped.logprobs) == end
        assert str(stopped.stop_reason) == "stop"
        assert str(self.sample().sequences[0].stop_reason) == "length"

    def stop_strings(self) -> None:
        """A stop string ends at the token that completes it."""
        tokenizer = self.client.get_tokenizer()
        for seed in range(100):
            free = tokens_of(self.sample(max_tokens=12, seed=seed))[0]
            texts = [tokenizer.decode(free[: at + 1]) for at in range(len(free))]
            stop = texts[7][-2:]
            if texts[7].isascii() and stop.isprintable():
                break
        stopped = tokens_of(self.sample(max_tokens=12, seed=seed, stop=[stop]))[0]
        end = next(at for at, text in enumerate(texts) if stop in text) + 1
        assert stopped == free[:end], (stopped, free, stop)

    def no_stop(self) -> None:
        """Without stops a sample goes on to its length; by default it ends at the end-of-sequence token."""
        eos = self.client.get_tokenizer().eos_token_id
        hot = {"temperature": 2.0, "max_tokens": 200}
        base = done(self.service.create_sampling_client(base_model=BASE))
        free = tokens_of(self.sample(base, count=8, stop=[], **hot))
        assert all(len(each) == 200 for each in free)
        assert any(eos in each for each in free), "no sample had an end to go beyond"
        ended = tokens_of(self.sample(base, count=8, stop=None, **hot))
        assert [each[: each.index(eos) + 1] if eos in each else each for each in free] == ended

    def parity(self) -> None:
        """What the sampler says of its tokens the trainer says too."""
        sampler = self.recorder.call(self.client, "save_weights_and_get_sampling_client")
        sampled = self.sample(sampler, max_tokens=16).sequences[0]
        whole = PROMPT + [int(token) for token in sampled.tokens]
        trained = self.training.logprobs(self.client, [make_datum(whole)])[0][len(PROMPT) - 1 :]
        difference = max(abs(one - other) for one, other in zip(trained, sampled.logprobs, strict=True))
        assert difference < 1e-4, difference

    def prompts(self) -> None:
        """A prompt's log-probabilities come by themselves and beside a sample."""
        scored = self.recorder.call(self.sampler, "compute_logprobs", prompt_of(PROMPT))
        self.recorder.call_async(self.sampler, "compute_logprobs", prompt_of(PROMPT))
        beside = self.sample(include_prompt_logprobs=True).prompt_logprobs
        trained = self.training.logprobs(self.client, [make_datum(PROMPT)])[0]
        assert scored[0] is None
        assert close([scored[1:], beside[1:]], [trained, trained], 1e-4), (scored, beside, trained)
        if "prompt_logprobs_last_n" in inspect.signature(self.sampler.compute_logprobs).parameters:
            last = done(self.sampler.compute_logprobs(prompt_of(PROMPT), prompt_logprobs_last_n=2))
            assert last[:3] == [None] * 3
            assert close([last[3:]], [scored[3:]], 1e-6)

    def likeliest(self) -> None:
        """The likeliest tokens of the prompt, and where a version can ask for them, of the sample."""
        response = self.sample(include_prompt_logprobs=True, topk_prompt_logprobs=3)
        rows = response.topk_prompt_logprobs
        assert rows[0] is None
        assert all(len(row) == 3 and row[0][1] >= row[1][1] >= row[2][1] for row in rows[1:])
        if "topk_sample_logprobs" in inspect.signature(self.sampler.sample).parameters:
            sequence = self.sample(topk_sample_logprobs=2, temperature=0.0).sequences[0]
            assert [row[0][0] for row in sequence.topk_logprobs] == [int(token) for token in sequence.tokens]

    def refused(self) -> None:
        """What cannot be sampled is the user's error, said at once."""
        for tokens, changes in (([10_000_000], {}), (PROMPT, {"max_tokens": 10_000_000})):
            began = time.monotonic()
            try:
                self.sample(tokens=tokens, **changes)
            except tinker.APIStatusError as error:
                status = error.status_code
            else:
                raise AssertionError("it was accepted")
            assert 400 <= status < 500
            assert time.monotonic() - began < 3

    def old_checkpoint(self) -> None:
        """A run that is sampled at an old checkpoint trains on as one that is not."""
        watched, alone = self.training.make(seed=22), self.training.make(seed=22)
        self.training.train(watched, 2)
        self.training.train(alone, 2)
        path = done(watched.save_weights_for_sampler("old")).path
        old = done(self.service.create_sampling_client(model_path=path))
        first = tokens_of(self.sample(old))
        self.training.train(watched, 2)
        self.training.train(alone, 2)
        done(watched.forward_backward(make_data(), "cross_entropy"))
        assert tokens_of(self.sample(old)) == first
        done(watched.optim_step(adam()))
        self.training.train(alone, 1)
        assert self.training.logprobs(watched) == self.training.logprobs(alone)

    def many(self) -> None:
        """64 at once give what each gives alone."""
        wanted = [params(seed=seed) for seed in range(64)]
        futures = [self.sampler.sample(prompt_of(PROMPT), 1, each) for each in wanted]
        together = [tokens_of(done(future)) for future in futures]
        assert together[:4] == [tokens_of(self.sample(seed=seed)) for seed in range(4)]

    def elsewhere(self) -> None:
        """A sampler survives pickling, and newer versions hand out handles."""
        try:
            copy = pickle.loads(pickle.dumps(self.sampler))
        except TypeError as error:
            raise Absent(f"pickling: {error}") from error
        expected = tokens_of(self.sample())
        assert tokens_of(self.sample(copy)) == expected
        if hasattr(self.sampler, "get_sampler_handle"):
            handle = self.recorder.call(self.sampler, "get_sampler_handle")
            other = self.recorder.call(type(self.sampler), "from_sampler_handle", handle, api_key=self.key)
            self.recorder.note_works("SamplingClient.from_sampler_handle")
            assert tokens_of(self.sample(other)) == expected

    def inflight(self) -> None:
        """An older inflight sampler samples from the newest weights."""
        maker = "save_weights_and_get_sampling_client"
        if "kind" not in inspect.signature(self.client.save_weights_and_get_sampling_client).parameters:
            raise Absent("kind=inflight")
        client = self.training.make(seed=23)
        older = self.recorder.call(client, maker, kind="inflight")
        before = tokens_of(self.sample(older, temperature=0.0))
        self.training.train(client, 6)
        newer = self.recorder.call(client, maker, kind="inflight")
        assert tokens_of(self.sample(older, temperature=0.0)) == tokens_of(
            self.sample(newer, temperature=0.0)
        )
        scored = logprobs_of(done(client.forward([make_datum(PROMPT)], "cross_entropy")))
        assert scored
        assert before != tokens_of(self.sample(newer, temperature=0.0))
