"""Where a base's files have the weights of transformers' model, and the norms of these.

Names and layouts are those of transformers' own conversion of checkpoints. Only headers are read for the
names, and every weight once for its norm, in bounded memory.
"""

import math
import re
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from mint_common.adapters_format.base_facts import ExpertsFacts
from mint_common.adapters_format.sites import Site
from mint_common.adapters_format.tensor_file import ITEM_BYTES, TensorEntry, map_tensors, read_header
from mint_common.adapters_format.updates import sum_of_squares
from mint_common.errors import InvalidField, MintError, NotFound
from mint_common.model_files import INDEX_FILE, weight_files, weight_map
from services.standalone.adapters.meta_model import MetaModel

_PACKED = re.compile(r"(?<=\.weight)_packed$|(?<=\.)q(?=weight$)|_blocks$")
"""Parts of a weight's name that quantizations add."""
_WEIGHT = re.compile(r"\.(weight|qweight|weight_packed)$|_blocks$")
_EXPERT = re.compile(r"(.*)\.\d+\.")
"""All of a name up to its last number, which is the expert's."""
_MATRIX = 2


@dataclass(frozen=True, slots=True, kw_only=True)
class Stored:
    """A tensor of a file that is a parameter of the model or, where several are joined into one, part of it.

    ``place`` is which of the conversion's sources it is of: the second one of gate and up is up.
    """

    file: str
    entry: TensorEntry
    place: int = 0
    is_joined: bool = False


Weights = Mapping[str, Sequence[Stored]]
"""Tensors of the files by parameter of the model."""


def read_weights(folder: Path, meta: MetaModel, *, is_quantized: bool) -> Weights:
    """Return what the files of a base have of each parameter. Raises NotFound or InvalidField."""
    from transformers.conversion_mapping import get_model_conversion_mapping
    from transformers.core_model_loading import WeightConverter, rename_source_key

    steps = get_model_conversion_mapping(meta.model)
    joins = [step for step in steps if isinstance(step, WeightConverter)]
    renames = [step for step in steps if not isinstance(step, WeightConverter)]
    places = {pattern: (join, i) for join in joins for i, pattern in enumerate(join.source_patterns)}
    parameters = meta.model.state_dict()
    found: dict[str, list[Stored]] = defaultdict(list)
    for file, entry in _entries(folder):
        stored = _PACKED.sub("", entry.name) if is_quantized else entry.name
        name, pattern = rename_source_key(stored, renames, joins, meta.model.base_model_prefix, parameters)
        if pattern is None:
            found[name].append(Stored(file=file, entry=entry))
        else:
            join, place = places[pattern]
            for target in join.target_patterns:
                whole = name.replace(join.target_patterns[0], target)
                found[whole].append(Stored(file=file, entry=entry, place=place, is_joined=True))
    _check_complete(folder, meta, found)
    return found


def _entries(folder: Path) -> Iterator[tuple[str, TensorEntry]]:
    """Yield every tensor of a base with its file, which must be as the index says."""
    unseen = dict(weight_map(folder))
    for file in weight_files(folder):
        path = folder / file
        try:
            with path.open("rb") as data:
                header = read_header(data, size_bytes=path.stat().st_size)
        except FileNotFoundError as error:
            raise NotFound(kind="base weights", name=str(path)) from error
        except MintError as error:
            raise InvalidField(field=str(path), problem=str(error)) from error
        for entry in header.tensors:
            if unseen.pop(entry.name, file) != file:
                problem = f"{entry.name} is in {file}, not where {INDEX_FILE} says"
                raise InvalidField(field=str(folder), problem=problem)
            yield file, entry
    if unseen:
        lost, file = next(iter(unseen.items()))
        problem = f"{file} lacks {lost}, which {INDEX_FILE} names: {len(unseen)} tensors are missing"
        raise InvalidField(field=str(folder), problem=problem)


def _check_complete(folder: Path, meta: MetaModel, found: Weights) -> None:
    """Check that the files have each parameter of the decoder and its head."""
    parts = (meta.model.get_decoder(), meta.model.get_output_embeddings())
    own = {id(each) for part in parts for each in part.parameters()}
    tied = meta.model.all_tied_weights_keys
    named = [name for name, each in meta.model.named_parameters(remove_duplicate=False) if id(each) in own]
    missing = [name for name in named if name not in found and name not in tied]
    if missing:
        problem = (
            f"its weights lack {missing[0]}, which {meta.architecture} has by config.json: {len(missing)} of"
            f" {len(named)} are missing. Fetch the model again, or take the config that its weights have"
        )
        raise InvalidField(field=str(folder), problem=problem)


@dataclass(frozen=True, slots=True, kw_only=True)
class SiteTensors:
    """The tensors of a site, and the part of each that is its own.

    ``name`` is what they are called in the files, with ``*`` for an expert's number where each has its own.
    """

    name: str
    stored: Sequence[Stored]
    part: tuple[slice, ...] = ()


def find_site(
    site: Site, experts: ExpertsFacts | None, weights: Weights, *, is_quantized: bool
) -> SiteTensors:
    """Return a site's tensors. Raises InvalidField for those of other widths than the model's."""
    if experts is None:
        found = _named(weights[f"{site.module}.weight"], "")
    else:
        found = _projection(site, experts, weights)
    if not is_quantized:
        _check_tensors(site, found)
    return found


def _projection(site: Site, experts: ExpertsFacts, weights: Weights) -> SiteTensors:
    """Return the tensors of a projection of experts: one of each expert, or one of all."""
    in_first = experts.gated and site.projection != "down_proj"
    place = int(in_first and site.projection == "up_proj")
    stored = weights[f"{site.module}.{'gate_up_proj' if in_first else site.projection}"]
    shape = stored[0].entry.shape
    if len(shape) == _MATRIX:
        return _named([each for each in stored if each.place == place], "*")
    if not in_first:
        return _named(stored, "")
    axis = 2 if experts.transposed else 1
    if shape[axis] != 2 * site.width_out:  # transposed by the conversion
        axis = 3 - axis
    begin = place * site.width_out
    half = slice(place, None, 2) if experts.interleaved else slice(begin, begin + site.width_out)
    return _named(stored, "", part=(*[slice(None)] * axis, half))


def _named(stored: Sequence[Stored], expert: str, part: tuple[slice, ...] = ()) -> SiteTensors:
    name = _WEIGHT.sub("", stored[0].entry.name)
    return SiteTensors(name=_EXPERT.sub(rf"\1.{expert}.", name) if expert else name, stored=stored, part=part)


def _check_tensors(site: Site, found: SiteTensors) -> None:
    """Check dtypes, shapes and, where each expert has a tensor, that all are there. Raises InvalidField."""
    entries = [each.entry for each in found.stored]
    odd = next((entry for entry in entries if entry.dtype not in ITEM_BYTES), None)
    if odd is not None:
        problem = f"is {odd.dtype} in a base without quantization_config: weights are {', '.join(ITEM_BYTES)}"
        raise InvalidField(field=odd.name, problem=problem)
    shape = (site.width_out, site.width_in)
    needed = math.prod(shape) * max(1, site.count) * (2 if found.part else 1)
    is_whole = sum(math.prod(entry.shape) for entry in entries) == needed
    if "*" in found.name:
        names = {found.name.replace("*", str(expert)) for expert in range(site.count)}
        is_whole &= names == {_WEIGHT.sub("", entry.name) for entry in entries}
    is_alone = not site.count and not found.stored[0].is_joined
    if not is_whole or (is_alone and entries[0].shape != shape):
        shapes = sorted({entry.shape for entry in entries})
        problem = (
            f"{len(entries)} tensors of {shapes} in the files, where config.json gives "
            f"{max(1, site.count)} of {shape}"
        )
        raise InvalidField(field=site.name, problem=problem)


def weight_norms(folder: Path, sites: Mapping[str, SiteTensors]) -> dict[str, float]:
    """Return the Frobenius norm of the weight of each site, all experts of one together, to six digits.

    Weights that say nothing without their scales (fp8, packed words) are left out. Raises AdapterInvalid.
    """
    squares: dict[str, float] = defaultdict(float)
    by_file: dict[str, list[tuple[str, TensorEntry, tuple[slice, ...]]]] = defaultdict(list)
    for name, site in sites.items():
        for each in site.stored:
            by_file[each.file].append((name, each.entry, site.part))
    for path, parts in by_file.items():
        file = map_tensors(folder / path)
        for name, entry, part in parts:
            known = entry.dtype in ITEM_BYTES
            squares[name] += sum_of_squares(file.array(entry)[part]) if known else math.nan
            file.release()
    norms = {name: math.sqrt(total) for name, total in sorted(squares.items()) if math.isfinite(total)}
    return {name: float(f"{norm:.6g}") for name, norm in norms.items()}
