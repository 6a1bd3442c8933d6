"""Adds a base to a state folder: from a folder of Hugging Face files, or a model of a hub.

Whatever names, sizes and the config tell of what is wrong is found before anything large is downloaded, read
or written.
"""

from collections.abc import Mapping
from dataclasses import replace
from importlib.util import find_spec
from pathlib import Path

import msgspec
import psutil

from mint_client.core.tables import shown_bytes
from mint_common.adapters_format import BaseFacts, read_base_facts
from mint_common.adapters_format.base_files import (
    LICENCE_FILES,
    TEXT_FILES,
    check_complete,
    files_digest,
    hash_files,
)
from mint_common.errors import AlreadyExists, InvalidField
from mint_common.model_files import CONFIG, INDEX_FILE, SINGLE_FILE, weight_files
from services.standalone.adapters.base_description import nothing_to_adapt, read_quantization
from services.standalone.adapters.base_import import (
    DEQUANTIZED,
    Report,
    Wish,
    check_room,
    choose,
    dequantize_folder,
    find_same,
    import_folder,
    make_base,
)
from services.standalone.adapters.hub import HubModel, cache_folder, fetch, find_model
from services.standalone.adapters.meta_model import check_type, read_config, read_model
from services.standalone.adapters.model_sizes import shape_of_folder, shape_of_model
from services.standalone.adapters.probing.running import run_probe
from services.standalone.core.base_sources import HubSource
from services.standalone.core.model_shape import ModelShape
from services.standalone.core.probe_lines import advice, failed_lines
from services.standalone.core.refusals import NoRoomError, ProbeFailedError
from services.standalone.core.sizing import needs_of, told_facts


def add_folder(source: Path, wish: Wish) -> BaseFacts:
    """Take over a folder, telling first what it is."""
    check_complete(str(source), weight_files(source), {path.name for path in source.iterdir()})
    _tell(source, wish)
    return _add(source, _probed(source, wish), known={})


def add_from_hub(source: HubSource, wish: Wish) -> BaseFacts:
    """Download what a base needs of a model and take it over, telling first what it is."""
    model = find_model(source)
    wish = replace(wish, origin=f"{source.repo}@{model.commit}")
    wish.report(f"{source.repo}, {source.revision}, is at commit {model.commit}")
    place = f"{source.repo}@{model.commit[:12]}"
    texts = [name for name in (*TEXT_FILES, INDEX_FILE) if name in model.files]
    check_complete(place, () if INDEX_FILE in texts else (SINGLE_FILE,), model.files)
    terms = [name for name in LICENCE_FILES if name in model.files]
    snapshot = fetch(model, [*texts, *terms], report=wish.report)
    weights = weight_files(snapshot)
    check_complete(place, weights, model.files)
    _tell(snapshot, wish)
    known = {name: model.files[name].sha256 for name in weights if model.files[name].sha256}
    present = None
    if len(known) == len(weights) and not wish.dequantize:
        digest = files_digest({**known, **hash_files(snapshot, texts, report=wish.report)})
        present = find_same(wish, digest)
    if present is None:
        wish = _probed(snapshot, wish)
        _fetch_weights(model, weights, wish.report)
    return present or _add(snapshot, wish, known=known)


def _probed(source: Path, wish: Wish) -> Wish:
    """Return a wish with what its probe found. Raises ProbeFailedError. No base is probed twice."""
    if not wish.probes or (wish.target.exists() and not _chooses_anew(wish)):
        return wish
    if find_spec("vllm") is None:
        wish.report("not probed: vLLM is not installed here")
        return wish
    result = run_probe(source, targets=wish.targets, report=wish.report)
    is_quantized = bool(read_quantization(read_config(source), place=str(source)))
    failed = failed_lines(
        result,
        serve_only=wish.serve_only or (is_quantized and not wish.dequantize),
        train_only=wish.train_only,
    )
    if failed:
        lines = "; ".join(f"{line.part}: {line.told()}" for line in failed)
        raise ProbeFailedError(source=wish.origin, lines=lines, advice=advice(result))
    return replace(wish, probed=result)


def _chooses_anew(wish: Wish) -> bool:
    """Return whether a base that is there already would get other choices."""
    present = read_base_facts(wish.target)
    return wish.chooses and choose(present, wish) != present


def _fetch_weights(model: HubModel, weights: tuple[str, ...], report: Report) -> None:
    size, missing = sum(model.files[name].size_bytes for name in weights), model.missing_bytes(weights)
    report(
        f"weights: {shown_bytes(size)} in {len(weights)} files, {shown_bytes(missing)} of it to be downloaded"
        f" to {cache_folder()}"
    )
    check_room("The download", missing, cache_folder())
    fetch(model, weights, report=report)


def _add(source: Path, wish: Wish, *, known: Mapping[str, str]) -> BaseFacts:
    if not wish.dequantize:
        return import_folder(source, wish, known=known)

    def fill(folder: Path) -> None:
        dequantize_folder(source, folder, report=wish.report)

    return make_base(replace(wish, origin=f"{wish.origin}, expanded to bfloat16"), fill)


def _tell(source: Path, wish: Wish) -> None:
    """Report what a model is and needs. Raises what is wrong with its config, or with the wish for it."""
    config = read_config(source)
    method = read_quantization(config, place=str(source))
    meta = read_model(config, place=str(source))
    check_type(config, meta, place=str(source))
    shape = shape_of_model(meta)
    if not shape.linears:
        raise nothing_to_adapt(shape.architecture, place=str(source))
    _check_tokenizer(source / "tokenizer.json", shape)
    for about, told in told_facts(shape, quantization=method, max_rank=wish.max_rank).items():
        wish.report(f"{about}: {told}")
    if meta.max_context < meta.full_context:
        wish.report(
            f"context: {meta.max_context} of {meta.full_context} tokens, the first one of longrope; beyond it"
            " engines take other frequencies than transformers"
        )
    if wish.dequantize:
        _check_dequantizing(shape, method, wish)
    elif method and wish.train_only:
        problem = f"the base is quantized ({method}), and only floats are trained: see --dequantize"
        raise InvalidField(field="--train-only", problem=problem)
    elif method:
        wish.report(f"quantized ({method}): served where vLLM serves it, and not trained; see --dequantize")


class _Vocabulary(msgspec.Struct):
    vocab: dict[str, int] | list[object]


class _Tokenizer(msgspec.Struct):
    model: _Vocabulary


def _check_tokenizer(path: Path, shape: ModelShape) -> None:
    """Check that a model has a row for each token. Some further special tokens are usual."""
    try:
        tokens = len(msgspec.json.decode(path.read_bytes(), type=_Tokenizer).model.vocab)
    except msgspec.DecodeError as error:
        raise InvalidField(field=str(path), problem=f"is no tokenizer of a base: {error}") from error
    if tokens > shape.vocab_size:
        problem = (
            f"has {tokens} tokens, and vocab_size of {CONFIG} is {shape.vocab_size}: take the tokenizer and"
            " the config of one model"
        )
        raise InvalidField(field=str(path), problem=problem)


def _check_dequantizing(shape: ModelShape, method: str, wish: Wish) -> None:
    if not method:
        raise InvalidField(field="--dequantize", problem="the base is not quantized")
    if method not in DEQUANTIZED:
        problem = (
            f"{method} cannot be expanded on a CPU, only {', '.join(DEQUANTIZED)} can: add the model that"
            " it was made from instead"
        )
        raise InvalidField(field="--dequantize", problem=problem)
    if wish.target.exists():
        raise AlreadyExists(kind="base", name=wish.name)
    need, free = needs_of(shape, dtype="bfloat16", max_rank=1).weights, psutil.virtual_memory().available
    if need > free:
        raise NoRoomError(
            what="Expanding the weights to bfloat16",
            need=f"{shown_bytes(need)} of memory",
            place="this machine",
            free=f"{shown_bytes(free)} available",
            advice="Do it on a machine with more, or add the model that it was made from.",
        )
    check_room("The copy in bfloat16", need, wish.target.parent)


def shape_of_hub(source: HubSource) -> ModelShape:
    """Return the shape of a hub's model, of which nothing but the config is downloaded."""
    model = find_model(source)
    check_complete(source.repo, (), model.files)
    return shape_of_folder(fetch(model, [CONFIG], report=lambda _step: None))
