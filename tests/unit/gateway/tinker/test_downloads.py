"""Addresses of downloads: only those that were signed here, and not for ever."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mint_common.claims import Claim
from mint_common.errors import NotFound
from services.gateway.core.tinker.downloads import Ticket, TicketSigner
from tests.testing.factories import TENANT

TICKET = Ticket(
    manifest=Claim(uri="revisions/x", sha256=64 * "0", size_bytes=7), tenant_id=TENANT, expires_at=10.0
)
SIGNER = TicketSigner(secret=b"secret")


def test_a_ticket_is_read_until_it_ends():
    text = SIGNER.sign(TICKET)
    assert SIGNER.read(text, now=10.0) == TICKET
    for signer, now in ((SIGNER, 10.1), (TicketSigner(secret=b"other"), 0.0)):
        with pytest.raises(NotFound):
            signer.read(text, now=now)


@given(st.text() | st.from_regex(r"[A-Za-z0-9_=-]*\.[A-Za-z0-9_=-]*", fullmatch=True))
def test_nothing_else_is_a_ticket(text):
    with pytest.raises(NotFound):
        SIGNER.read(text, now=0.0)
