"""Signatures as Standard Webhooks 1.0.0 makes them."""

import base64
import hashlib
import hmac

from services.gateway.core.webhooks.records import Secrets
from services.gateway.core.webhooks.signature import signed_headers, write_secret


def test_the_specification_s_own_example() -> None:
    # The example of the specification's text: secret, id, timestamp, payload and signature.
    headers = signed_headers(
        ["whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw"],
        message_id="msg_p5jXN8AQM9LWM0D4loKWxJek",
        timestamp=1614265330,
        body=b'{"test": 2432232314}',
    )
    assert headers["webhook-signature"] == "v1,g0hM9SsE+OTPJTGt/tmIKtSyZlE3uFJELVlNIOLJ1OE="


def test_a_secret_is_32_bytes_behind_its_prefix() -> None:
    secret = write_secret(bytes(range(32)))
    assert secret.startswith("whsec_")
    assert base64.b64decode(secret.removeprefix("whsec_")) == bytes(range(32))


def test_after_a_rotation_both_secrets_sign_for_a_while() -> None:
    secrets = Secrets(current="whsec_bmV3", previous="whsec_b2xk", previous_until=100.0)
    assert secrets.signing(now=99.0) == ("whsec_bmV3", "whsec_b2xk")
    assert secrets.signing(now=100.0) == ("whsec_bmV3",)
    headers = signed_headers(secrets.signing(now=1.0), message_id="whd_1", timestamp=7, body=b"{}")
    signed = b"whd_1.7.{}"
    expected = [
        "v1," + base64.b64encode(hmac.new(key, signed, hashlib.sha256).digest()).decode()
        for key in (b"new", b"old")
    ]
    assert headers == {
        "webhook-id": "whd_1",
        "webhook-timestamp": "7",
        "webhook-signature": " ".join(expected),
    }
