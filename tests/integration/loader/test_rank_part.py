"""One worker's part of an adapter: what vLLM would have put into the slot, and no byte more on the host."""

from copy import copy
from dataclasses import dataclass, field
from types import SimpleNamespace
from typing import Any

import pytest

from services.loader.adapters.vllm.copies import Copies
from services.loader.adapters.vllm.templates import Templates
from services.loader.adapters.vllm.worker_extension import WorkerAdapters, merge

pytestmark = [
    pytest.mark.engine,
    pytest.mark.filterwarnings("ignore::DeprecationWarning"),  # torch's, when vLLM's modules are imported
]

torch = pytest.importorskip("torch")

RANK, MAX_RANK, SLOTS = 3, 8, 2
IN, OUT, EXPERTS = 12, 8, 5


@dataclass
class Weights:
    """What vLLM calls the weights of a layer."""

    lora_a: Any
    lora_b: Any


def _wrapper(kind: str, *, workers: int, worker: int) -> Any:
    """Return a wrapper of vLLM's with its buffers, over no layer."""
    from vllm.lora import layers

    name = {"moe": "FusedMoEWithLoRA"}.get(kind, f"{kind}LinearWithLoRA")
    cls = getattr(layers, name)
    made = cls.__new__(cls)
    torch.nn.Module.__init__(made)
    made.tp_size, made.tp_rank = workers, worker
    _BUFFERS[kind](made)
    return made


def _column(made: Any) -> None:
    made.is_merged_col_linear, made.n_slices, made.output_size = False, 1, OUT // made.tp_size
    _stack(made, [(IN, made.output_size)])


def _merged(made: Any) -> None:
    made.output_sizes, made.n_slices = [OUT, OUT], 2
    made.output_slices, made.output_ids = (OUT // made.tp_size,) * 2, (made.tp_rank,) * 2
    _stack(made, [(IN, OUT // made.tp_size)] * 2)


def _merged_qkv(made: Any) -> None:
    """Make three slices; the keys' one head is with every worker."""
    heads, keys = OUT // made.tp_size, 2
    made.output_sizes, made.n_slices = [OUT, keys, keys], 3
    made.output_slices, made.output_ids = (heads, keys, keys), (made.tp_rank, 0, 0)
    _stack(made, [(IN, heads), (IN, keys), (IN, keys)])


def _row(made: Any) -> None:
    made.input_size, made.output_size, made.n_slices = IN // made.tp_size, OUT, 1
    _stack(made, [(made.input_size, OUT)])


def _moe(made: Any) -> None:
    width = OUT // made.tp_size
    made.moe_config = SimpleNamespace(
        intermediate_size_per_partition=width, intermediate_size_per_partition_unpadded=None
    )
    made.fully_sharded, made._w13_slices = False, 2
    made.adapter_enabled = torch.zeros(SLOTS + 1, dtype=torch.int)
    made.w13_lora_a_stacked = tuple(torch.ones(SLOTS, EXPERTS, MAX_RANK, IN) for _ in range(2))
    made.w13_lora_b_stacked = tuple(torch.ones(SLOTS, EXPERTS, width, MAX_RANK) for _ in range(2))
    made.w2_lora_a_stacked = (torch.ones(SLOTS, EXPERTS, MAX_RANK, width),)
    made.w2_lora_b_stacked = (torch.ones(SLOTS, EXPERTS, IN, MAX_RANK),)


def _stack(made: Any, widths: list[tuple[int, int]]) -> None:
    made.lora_a_stacked = tuple(torch.ones(SLOTS, 1, MAX_RANK, width) for width, _ in widths)
    made.lora_b_stacked = tuple(torch.ones(SLOTS, 1, height, MAX_RANK) for _, height in widths)


_BUFFERS = {
    "ColumnParallel": _column,
    "MergedColumnParallel": _merged,
    "MergedQKVParallel": _merged_qkv,
    "RowParallel": _row,
    "moe": _moe,
}


def _weights(kind: str) -> Weights:
    """Return an adapter's whole weights of such a layer."""
    draw = torch.Generator().manual_seed(0)

    def pair(width: int, height: int, *experts: int) -> tuple[Any, Any]:
        return (
            torch.randn(*experts, RANK, width, generator=draw),
            torch.randn(*experts, height, RANK, generator=draw),
        )

    match kind:
        case "ColumnParallel" | "RowParallel":
            return Weights(*pair(IN, OUT))
        case "MergedColumnParallel":
            return Weights(*map(list, zip(pair(IN, OUT), (None, None), strict=True)))
        case "MergedQKVParallel":
            return Weights(*map(list, zip(pair(IN, OUT), pair(IN, 2), (None, None), strict=True)))
        case _:
            gate, down = pair(IN, OUT, EXPERTS), pair(OUT, IN, EXPERTS)
            zero = torch.zeros(())  # up has no adapter
            up = zero.expand(EXPERTS, RANK, IN), zero.expand(EXPERTS, OUT, RANK)
            return Weights(*map(list, zip(gate, down, up, strict=True)))


@dataclass
class Manager:
    """What the desk asks of vLLM's managers."""

    modules: dict[str, Any]
    weights: dict[str, Weights]
    lora_index_to_id: list[int | None] = field(default_factory=lambda: [None] * SLOTS)
    packed_modules: dict[str, list[str]] = field(default_factory=dict)
    model: None = None

    def __post_init__(self) -> None:
        self._adapter_manager = self
        self._active_adapters: dict[int, None] = {}
        self._registered_adapters = _Registered()

    def _create_merged_loras_inplace(self, lora: Any) -> None:
        pass

    def deactivate_adapter(self, number: int) -> None:
        self.lora_index_to_id[self.lora_index_to_id.index(number)] = None

    def _get_lora_layer_weights(self, lora: Any, name: str) -> Weights | None:
        found: Weights | None = lora.loras.get(name)
        return found


class _Registered(dict[int, Any]):
    @property
    def cache(self) -> dict[int, Any]:
        return self


def _enter(manager: Manager, number: int) -> tuple[WorkerAdapters, int]:
    """Enter an adapter as the desk does what it has mapped; return the bytes of the worker's part, too."""
    lora = SimpleNamespace(id=number, loras=manager.weights)
    merge(manager, lora)
    manager._registered_adapters[number] = lora
    return WorkerAdapters(manager, Copies()), sum(map(_part_bytes, lora.loras.values()))


def _part_bytes(layer: Weights) -> int:
    sides = [*layer.lora_a, *layer.lora_b] if isinstance(layer.lora_a, list) else [layer.lora_a, layer.lora_b]
    return sum(each.nbytes for each in sides if each is not None and any(each.stride()))


def _slots(module: Any) -> list[Any]:
    names = ("lora_a", "lora_b", "w13_lora_a", "w13_lora_b", "w2_lora_a", "w2_lora_b")
    return [each for name in names for each in getattr(module, f"{name}_stacked", ())]


@pytest.mark.parametrize("workers", [1, 2, 4])
@pytest.mark.parametrize("kind", _BUFFERS)
def test_each_worker_keeps_its_part_and_its_slot_gets_what_vllm_puts_there(kind: str, workers: int) -> None:
    for worker in range(workers):
        whole, module = _weights(kind), _wrapper(kind, workers=workers, worker=worker)
        module.set_lora(0, whole.lora_a, whole.lora_b)
        expected = [each.clone() for each in _slots(module)]
        for each in _slots(module):
            each[0] = 7.0
        manager = Manager({"m": module}, {"m": whole})
        desk, size_bytes = _enter(manager, 1)
        assert desk.activate(1, None, 1e9)["done"]
        assert all(torch.equal(now, then) for now, then in zip(_slots(module), expected, strict=True))
        assert module.tp_size == workers
        used = sum(int((each[0] != 0).sum()) * 4 for each in expected)
        assert size_bytes == used, "the worker's part is what the slot takes; modules untouched weigh nothing"


@pytest.mark.parametrize("workers", [1, 2, 4])
@pytest.mark.parametrize("kind", _BUFFERS)
def test_another_adapter_is_cut_after_the_pattern_of_the_first(kind: str, workers: int) -> None:
    from services.loader.adapters.vllm.rank_part import cut

    for worker in range(workers):
        module, templates, shares = _wrapper(kind, workers=workers, worker=worker), Templates(), []
        for number in (1, 2):
            whole = _weights(kind)
            memory = _in_one_piece(whole, plus=number)
            expected = Weights(copy(whole.lora_a), copy(whole.lora_b))
            cut(module, expected)

            def slowly(module: Any = module, whole: Weights = whole, number: int = number) -> Any:
                assert number == 1, "the second one goes by the pattern"
                cut(module, whole)
                return SimpleNamespace(id=number, loras={"m": whole})

            wrapped = templates.wrap(number, memory, shape="one", slowly=slowly)
            assert wrapped.id == number
            shares.append([_each(wrapped.loras["m"]), _each(expected)])
        for found, wanted in shares:
            assert len(found) == len(wanted)
            for one, other in zip(found, wanted, strict=True):
                assert (one is None) == (other is None)
                assert one is None or torch.equal(one, other)


def test_an_adapter_that_was_copied_on_its_way_is_no_pattern() -> None:
    templates, made = Templates(), []
    for number in (1, 2):
        whole = _weights("RowParallel")
        memory = _in_one_piece(whole, plus=number)
        whole.lora_a = whole.lora_a.clone()
        made.append(SimpleNamespace(id=number, loras={"m": whole}))
        assert templates.wrap(number, memory, shape="one", slowly=lambda: made[-1]) is made[-1]


def _in_one_piece(whole: Weights, *, plus: float) -> Any:
    """Move a layer's tensors, with other numbers in them, into one piece of memory, and return that."""
    sides = {"A": whole.lora_a, "B": whole.lora_b}
    lists = {side: value if isinstance(value, list) else [value] for side, value in sides.items()}
    present = {
        (side, at): tensor
        for side, tensors in lists.items()
        for at, tensor in enumerate(tensors)
        if tensor is not None and any(tensor.stride())
    }
    flat = torch.cat([tensor.flatten() + plus for tensor in present.values()])
    parts = flat.split([tensor.numel() for tensor in present.values()])
    for ((side, at), tensor), part in zip(present.items(), parts, strict=True):
        lists[side][at] = part.view(tensor.shape)
    if not isinstance(whole.lora_a, list):
        whole.lora_a, whole.lora_b = lists["A"][0], lists["B"][0]
    return flat


def _each(weights: Weights) -> list[Any]:
    sides = (weights.lora_a, weights.lora_b)
    return [each for side in sides for each in (side if isinstance(side, list) else [side])]


def test_vllm_itself_still_keeps_the_whole_and_cuts_in_the_loop() -> None:
    """When this fails, vLLM cuts when it adds an adapter, and `rank_part` may go."""
    from vllm.lora.model_manager import LoRAModelManager

    whole, module = _weights("RowParallel"), _wrapper("RowParallel", workers=2, worker=1)
    whole.optimize = lambda: None  # type: ignore[attr-defined]  # vLLM's own weights have it
    manager = SimpleNamespace(packed_modules={}, modules={"m": module})
    LoRAModelManager._create_merged_loras_inplace(manager, SimpleNamespace(loras={"m": whole}))
    assert (whole.lora_a.shape[1], module.input_size) == (IN, IN // 2)


def test_on_an_untested_vllm_wrappers_cut_for_themselves(monkeypatch: pytest.MonkeyPatch) -> None:
    from services.loader.adapters.vllm import rank_part

    module = _wrapper("RowParallel", workers=2, worker=1)
    assert rank_part.is_cut(module)
    monkeypatch.setattr(rank_part, "is_tested", lambda _: False)
    assert not rank_part.is_cut(module)
    desk, size_bytes = _enter(Manager({"m": module}, {"m": _weights("RowParallel")}), 1)
    assert desk.activate(1, None, 1e9)["done"]
    assert size_bytes == 4 * RANK * (IN + OUT)


def test_a_worker_that_was_done_before_the_others_stays_done() -> None:
    modules = {name: _wrapper("RowParallel", workers=2, worker=0) for name in ("m", "n")}
    manager = Manager(modules, {name: _weights("RowParallel") for name in modules})
    desk, _ = _enter(manager, 1)
    assert desk.activate(1, None, 1e9)["done"]
    assert desk.activate(1, None, 1e9)["done"]
    assert manager.lora_index_to_id == [1, None], "one slot, however often it is asked"


def test_a_copy_that_failed_begins_anew() -> None:
    modules = {name: _wrapper("RowParallel", workers=1, worker=0) for name in ("m", "n")}
    manager = Manager(modules, {name: _weights("RowParallel") for name in modules})
    desk, _ = _enter(manager, 1)
    whole = manager.weights["m"].lora_a
    manager.weights["m"].lora_a = whole.new_zeros(MAX_RANK + 1, IN)
    with pytest.raises(RuntimeError, match="size"):
        desk.activate(1, None, 1e9)
    manager.weights["m"].lora_a = whole
    assert desk.activate(1, None, 1e9)["done"]
    for module in modules.values():
        assert torch.equal(module.lora_a_stacked[0][0, 0, :RANK], whole), "no module was skipped"


def test_an_adapter_waits_for_the_one_that_is_being_dropped() -> None:
    manager = Manager({"m": _wrapper("RowParallel", workers=1, worker=0)}, {"m": _weights("RowParallel")})
    desk, _ = _enter(manager, 1)
    manager.lora_index_to_id = list(range(2, 2 + SLOTS))
    reply = desk.activate(1, None, 1e9)
    assert (reply["done"], reply["waits"]) == (False, True)
    manager.deactivate_adapter(3)
    assert desk.activate(1, None, 1e9)["done"]
    assert manager.lora_index_to_id[1] == 1


def test_a_victim_leaves_its_slot_though_the_copy_fail() -> None:
    manager = Manager({"m": _wrapper("RowParallel", workers=1, worker=0)}, {"m": _weights("RowParallel")})
    desk, _ = _enter(manager, 1)
    assert desk.activate(1, None, 1e9)["done"]
    manager._registered_adapters[2] = SimpleNamespace()
    with pytest.raises(AttributeError):
        desk.activate(2, 1, 1e9)
    assert manager.lora_index_to_id == [None] * SLOTS, "as the loader counts"


@pytest.mark.parametrize(("slice_ms", "slices"), [(1e9, 1), (2.5, 3), (0.5, 5)])
def test_a_slice_ends_by_the_time_of_its_bytes_where_calls_do_not_wait_for_them(
    slice_ms: float, slices: int
) -> None:
    layers = {f"m{number}": _weights("ColumnParallel") for number in range(4)}
    module_bytes = _part_bytes(layers["m0"])
    modules = {name: _wrapper("ColumnParallel", workers=1, worker=0) for name in layers}
    desk, size_bytes = _enter(manager := Manager(modules, layers), 1)
    copies = Copies(register=lambda _begin, _size: 0, measure=lambda _memory: 2.0 / module_bytes)
    copies.register(torch.zeros(1))
    desk = WorkerAdapters(manager, copies)
    stalls = []
    while not (part := desk.activate(1, None, slice_ms))["done"]:
        stalls.append(part["stall_ms"])
    stalls.append(part["stall_ms"])
    assert len(stalls) == slices
    assert sum(stalls) == pytest.approx(size_bytes * 2.0 / module_bytes, abs=0.5)
