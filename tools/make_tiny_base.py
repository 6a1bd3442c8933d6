"""Make the tiny base that tests and `make demo BASE=tiny` use: `python tools/make_tiny_base.py [FOLDER]`.

A 477k-parameter Qwen3 over bytes learns four functions of a word (copy, rev, rot1, sort), each under its own
tag, and answers the tag `f` with any of the four. RL can therefore only select among skills it has.
Held-out words (`is_held_out`, the rule of the `mode` task) are never trained on; the stop check draws from a
third split. `--check` compares a folder with its committed digests. One torch thread; about 75 CPU seconds.
"""

import argparse
import hashlib
import json
import os
import random
import sys
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path

os.environ.setdefault("OMP_NUM_THREADS", "1")

import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers
from transformers import PreTrainedTokenizerFast, Qwen3Config, Qwen3ForCausalLM

from mint_common.adapters_format import BASE_FILE
from services.standalone.adapters.base_description import describe_base

FOLDER = Path(__file__).resolve().parent.parent / "bases" / "tiny"
SUMS = "SHA256SUMS"
PAD, BOS, EOS = 0, 1, 2
LETTERS = "abcdefghij"
FUNCTIONS: dict[str, Callable[[str], str]] = {
    "copy": lambda word: word,
    "rev": lambda word: word[::-1],
    "rot1": lambda word: "".join(LETTERS[(LETTERS.index(letter) + 1) % len(LETTERS)] for letter in word),
    "sort": lambda word: "".join(sorted(word)),
}
STEPS, FIRST_CHECK, CHECK_EVERY, STOP_ACCURACY = 1400, 300, 50, 0.98
BATCH, LEARNING_RATE, WARMUP, DECAY_FROM, DECAY_STEPS = 64, 3e-3, 50, 600, 400
MIXED_SHARE = 0.4


def is_held_out(word: str) -> bool:
    """Return whether a word is kept for evaluation: about one in ten, by content."""
    return hashlib.sha256(word.encode()).digest()[0] < 26


def is_for_stop_check(word: str) -> bool:
    """Return whether a word is kept for deciding when to stop."""
    return 26 <= hashlib.sha256(word.encode()).digest()[0] < 52


def draw_word(rng: random.Random, keep: Callable[[str], bool]) -> str:
    """Draw words of 3 to 6 letters until one is kept."""
    while True:
        word = "".join(rng.choice(LETTERS) for _ in range(rng.randint(3, 6)))
        if keep(word):
            return word


def make_tokenizer() -> PreTrainedTokenizerFast:
    """Return a tokenizer of single bytes; its chat template joins the contents of the messages."""
    letters = sorted(pre_tokenizers.ByteLevel.alphabet())
    vocab = {"<pad>": PAD, "<bos>": BOS, "<eos>": EOS} | {letter: i + 3 for i, letter in enumerate(letters)}
    tokenizer = Tokenizer(models.BPE(vocab=vocab, merges=[]))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    tokenizer.decoder = decoders.ByteLevel()
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        pad_token="<pad>",  # noqa: S106  # a marker, not a secret
        bos_token="<bos>",  # noqa: S106  # a marker, not a secret
        eos_token="<eos>",  # noqa: S106  # a marker, not a secret
        padding_side="left",
        model_max_length=256,
        clean_up_tokenization_spaces=False,
        chat_template="{% for message in messages %}{{ message['content'] }}{% endfor %}",
    )


def make_model(seed: int) -> Qwen3ForCausalLM:
    """Return the untrained model."""
    torch.manual_seed(seed)
    return Qwen3ForCausalLM(
        Qwen3Config(
            vocab_size=264,
            hidden_size=128,
            intermediate_size=256,
            num_hidden_layers=3,
            num_attention_heads=4,
            num_key_value_heads=2,
            head_dim=32,
            max_position_embeddings=256,
            tie_word_embeddings=True,
            pad_token_id=PAD,
            bos_token_id=BOS,
            eos_token_id=EOS,
            rope_parameters={"rope_type": "default", "rope_theta": 10000.0},
            dtype="float32",
        )
    )


def draw_batch(tokenizer: PreTrainedTokenizerFast, rng: random.Random) -> tuple[torch.Tensor, torch.Tensor]:
    """Return inputs and labels of one step, padded on the right; only answers are labelled."""
    rows: list[tuple[list[int], list[int]]] = []
    for _ in range(BATCH):
        word = draw_word(rng, lambda word: not is_held_out(word) and not is_for_stop_check(word))
        name = rng.choice(list(FUNCTIONS))
        tag = "f" if rng.random() < MIXED_SHARE else name
        answer = tokenizer(FUNCTIONS[name](word))["input_ids"]
        rows.append((tokenizer(f"{tag} {word}=")["input_ids"], [*answer, EOS]))
    width = max(len(prompt) + len(answer) for prompt, answer in rows)
    inputs = [[*prompt, *answer] + [PAD] * (width - len(prompt) - len(answer)) for prompt, answer in rows]
    labels = [
        [-100] * len(prompt) + answer + [-100] * (width - len(prompt) - len(answer))
        for prompt, answer in rows
    ]
    return torch.tensor(inputs), torch.tensor(labels)


@torch.no_grad()
def accuracy(
    model: Qwen3ForCausalLM,
    tokenizer: PreTrainedTokenizerFast,
    name: str,
    *,
    tag: str,
    keep: Callable[[str], bool],
) -> float:
    """Return the share of 64 kept words whose greedy answer is right."""
    rng = random.Random(55)
    words = [draw_word(rng, keep) for _ in range(64)]
    prompts = tokenizer([f"{tag} {word}=" for word in words], return_tensors="pt", padding=True)
    model.eval()
    tokens = model.generate(
        input_ids=prompts["input_ids"],
        attention_mask=prompts["attention_mask"],
        max_new_tokens=8,
        do_sample=False,
        pad_token_id=PAD,
        eos_token_id=EOS,
    )
    model.train()
    answers = tokenizer.batch_decode(tokens[:, prompts["input_ids"].shape[1] :], skip_special_tokens=True)
    right = sum(answer == FUNCTIONS[name](word) for answer, word in zip(answers, words, strict=True))
    return right / len(words)


def pretrain(model: Qwen3ForCausalLM, tokenizer: PreTrainedTokenizerFast, seed: int) -> int:
    """Train until every tagged function passes the stop check; return the number of steps."""
    rng = random.Random(seed)
    optimizer = torch.optim.AdamW(model.parameters(), lr=LEARNING_RATE, weight_decay=0.01, betas=(0.9, 0.98))
    for step in range(1, STEPS + 1):
        decay = 1.0 if step < DECAY_FROM else max(0.1, 1 - (step - DECAY_FROM) / DECAY_STEPS)
        for group in optimizer.param_groups:
            group["lr"] = LEARNING_RATE * min(1.0, step / WARMUP) * decay
        inputs, labels = draw_batch(tokenizer, rng)
        loss = model(input_ids=inputs, labels=labels).loss
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        if step >= FIRST_CHECK and step % CHECK_EVERY == 0:
            scores = {
                name: accuracy(model, tokenizer, name, tag=name, keep=is_for_stop_check) for name in FUNCTIONS
            }
            print(f"step {step}: loss {loss.item():.3f}, stop check {scores}", flush=True)
            if min(scores.values()) >= STOP_ACCURACY:
                return step
    return STEPS


def make(folder: Path, seed: int) -> None:
    """Train the base and write its folder; the README.md there is left alone."""
    torch.set_num_threads(1)
    tokenizer, model = make_tokenizer(), make_model(seed)
    steps = pretrain(model, tokenizer, seed)
    scores = {name: accuracy(model, tokenizer, name, tag="f", keep=is_held_out) for name in FUNCTIONS}
    print(f"{steps} steps; held-out greedy accuracy of `f`: {scores}")
    folder.mkdir(parents=True, exist_ok=True)
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    (folder / "model.safetensors").chmod(0o644)
    describe(folder)


def describe(folder: Path) -> None:
    """Write the base's facts and the digests of all its files."""
    facts = describe_base(folder, name="tiny", max_rank=16)
    (folder / BASE_FILE).write_text(json.dumps(asdict(facts), indent=1, sort_keys=True) + "\n")
    (folder / SUMS).write_text(
        "".join(f"{digest}  {name}\n" for name, digest in sorted(sums(folder).items()))
    )


def sums(folder: Path) -> dict[str, str]:
    """Return the SHA-256 of each file but the prose and the list itself."""
    files = [path for path in folder.iterdir() if path.name not in {SUMS, "README.md"}]
    return {path.name: hashlib.sha256(path.read_bytes()).hexdigest() for path in files}


def check(folder: Path) -> list[str]:
    """Return the names of the files that differ from the committed digests."""
    lines = (folder / SUMS).read_text().splitlines()
    expected = {name: digest for digest, name in (line.split("  ", 1) for line in lines)}
    found = sums(folder)
    return sorted(name for name in expected | found if expected.get(name) != found.get(name))


def main() -> int:
    """Run the command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("folder", nargs="?", type=Path, default=FOLDER)
    parser.add_argument("--seed", type=int, default=0)
    mode = parser.add_mutually_exclusive_group()
    mode.add_argument("--check", action="store_true", help="compare the folder with its committed digests")
    mode.add_argument(
        "--describe", action="store_true", help="write the facts and digests again, train nothing"
    )
    options = parser.parse_args()
    if options.check:
        different = check(options.folder)
        print(f"differs: {', '.join(different)}" if different else f"{options.folder}: as committed")
        return 1 if different else 0
    if options.describe:
        describe(options.folder)
    else:
        make(options.folder, options.seed)
    return 0


if __name__ == "__main__":
    sys.exit(main())
