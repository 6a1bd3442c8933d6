"""The gateway's settings."""

import re

from pydantic import Field, field_validator

from mint_common.settings import AlgorithmSettings, MemberSettings, PeerSettings

_ORIGIN = re.compile(r"\*|(https://(?!.*:443$)|http://(?!.*:80$))([a-z0-9.-]+|\[[0-9a-f:.]+\])(:\d+)?")


class GatewaySettings(MemberSettings):
    """Settings of the gateway from the environment."""

    peers: PeerSettings
    algorithms: AlgorithmSettings
    switch_seconds: float = Field(
        20.0,
        ge=0,
        description="maximum time that a moved alias still answers with its old revision while the new one "
        "loads, seconds; 0: no time",
    )
    max_answer_bytes: int = Field(
        32 << 20,
        ge=1 << 20,
        description="maximum size of an answer, bytes; a request whose answer may be larger is refused with "
        "422",
    )
    body_bytes: int = Field(
        128 << 20,
        ge=32 << 20,
        description="memory for all request bodies, bytes; one tenant gets at most as much as stays free",
    )
    webhook_timeout_seconds: float = Field(
        10.0, gt=0, le=60, description="timeout of a webhook's receiver, seconds"
    )
    webhook_first_retry_seconds: float = Field(
        5.0, gt=0, description="first delay before a failed delivery is tried again, seconds"
    )
    webhook_give_up_seconds: float = Field(
        259_200.0,
        gt=0,
        description=(
            "time after which a delivery is given up and a webhook without a success is disabled, seconds"
        ),
    )
    webhook_allow_private: bool = Field(
        False, description="whether webhooks may point at private addresses, and over http"
    )
    keep_audit_days: int = Field(400, ge=0, description="retention of audit rows, days; 0: unlimited")
    public_url: str = Field(
        "",
        pattern=r"^(https?://[^/?#@\s]+/?)?$",
        description="address of the gateway for clients, used in downloads; empty: the Host of each request",
    )
    cors_origins: tuple[str, ...] = Field(
        (), description="origins whose pages may call from a browser, such as https://app.example; *: any"
    )
    trust_traceparent: bool = Field(
        False,
        description="whether a request continues the trace that its `traceparent` names, for callers that "
        "may choose what is sampled; else it begins one with a link to that",
    )
    tokenizers: tuple[str, ...] = Field(
        (), description="tokenizer of each base as BASE=WHERE: a hub id, or a folder that clients have"
    )

    @field_validator("cors_origins")
    @classmethod
    def _check_origins(cls, origins: tuple[str, ...]) -> tuple[str, ...]:
        for each in origins:
            if not _ORIGIN.fullmatch(each):
                raise ValueError(
                    "must be as browsers send it: https://HOST in lower case, without a path and the default"
                    " port; several separated by commas, or *"
                )
        return origins

    @field_validator("tokenizers")
    @classmethod
    def _check_tokenizers(cls, tokenizers: tuple[str, ...]) -> tuple[str, ...]:
        for each in tokenizers:
            if not all(each.partition("=")):
                raise ValueError("must be BASE=WHERE, several separated by commas")
        return tokenizers

    def tokenizers_by_base(self) -> dict[str, str]:
        """Return the place of each base's tokenizer."""
        return {base: where for base, _, where in (each.partition("=") for each in self.tokenizers)}
