"""An engine's prefix cache, as vLLM's: whole blocks of 16 tokens, salted, the least recently used leaves."""

import hashlib
from collections import OrderedDict

from tests.sim.fleet.model import TOKEN_BYTES, Request

BLOCK_TOKENS = 16


class PrefixCache:
    """The blocks that an engine has computed."""

    def __init__(self, tokens: int) -> None:
        self._most = tokens // BLOCK_TOKENS
        self._blocks: OrderedDict[bytes, None] = OrderedDict()

    def read(self, request: Request) -> int:
        """Compute a prompt; return how many of its tokens were here."""
        size = BLOCK_TOKENS * TOKEN_BYTES
        chain = hashlib.blake2b(f"{request.tenant_id}/{request.digest}".encode(), digest_size=16)
        hits, is_hit = 0, True
        for start in range(0, len(request.prompt) - size + 1, size):
            chain.update(request.prompt[start : start + size])
            block = chain.digest()
            is_hit = is_hit and block in self._blocks
            hits += is_hit
            self._blocks[block] = None
            self._blocks.move_to_end(block)
        while len(self._blocks) > self._most:
            self._blocks.popitem(last=False)
        return hits * BLOCK_TOKENS
