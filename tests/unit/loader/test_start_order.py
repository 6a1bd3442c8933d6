"""The order of a cold queue in one pass is the order in which its loads start."""

import random

from hypothesis import given
from hypothesis import strategies as st

from mint_common.ids import Digest, TenantId
from services.loader.core.cold_queue import ColdQueue, Priority
from services.loader.core.start_order import start_order

ASKED = st.tuples(st.integers(0, 4), st.sampled_from(Priority), st.integers(1, 50), st.integers(0, 3))


@given(asked=st.lists(ASKED, max_size=40), started=st.integers(0, 5), seed=st.integers(0, 99))
def test_the_order_is_what_starting_one_after_the_other_gives(asked, started, seed):
    queue, drawn = ColdQueue(depth=99, tenant_depth=99, workers=100), random.Random(seed)
    for number, (tenant, priority, size_bytes, again) in enumerate(asked):
        digest = Digest(f"d{drawn.randrange(number + 1) if again == 0 else number}")
        tenant_id = TenantId(f"t{tenant}")
        queue = queue.ask(digest, priority, tenant_id=tenant_id, size_bytes=size_bytes, load_seconds=()).queue
        if number < started:
            queue, load = queue.start()
            queue = queue.finish(load.digest, size_bytes=drawn.choice([1, 1000])) if load else queue
    order, left = [], queue
    while True:
        left, load = left.start()
        if load is None:
            break
        order.append(load)
    assert queue.in_order() == tuple(order)


def test_the_order_of_a_long_queue_looks_at_each_load_once():
    """Each look at a load is counted: some per load, not some per load and load."""
    looks = 0

    class Load:
        def __init__(self, number):
            self.order, self.priority, self.tenant_id = number, number % 3, TenantId(f"t{number % 200}")

        @property
        def size_bytes(self):
            nonlocal looks
            looks += 1
            return 10 + self.order % 7

    loads = [Load(number) for number in range(2000)]
    served = {TenantId(f"t{number}"): number for number in range(200)}
    assert len(start_order(loads, served)) == len(loads)
    assert looks < 20 * len(loads)
