"""The section `limits` of the configuration."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field, field_validator

from server.config.values import Counts, Network, Section, Whole


class Limits(Section):
    """Limits. A key named as in sshd_config(5) has the same meaning."""

    login_grace_time: Annotated[Whole, Counts.NEXT] = Field(
        default=30, ge=0, le=86400, description="seconds a client may take to log in; 0 is no limit"
    )
    max_auth_tries: Annotated[Whole, Counts.NEXT] = Field(
        default=6, ge=1, le=1000, description="failed login attempts on one connection, keys included"
    )
    max_startups: Annotated[str, Counts.NEXT] = Field(
        default="64:30:100", description="start:rate:full of connections before the login"
    )
    per_source_max_startups: Annotated[Whole, Counts.NEXT] = Field(
        default=64, ge=1, le=100000, description="connections from one source before the login"
    )
    max_login_bytes: Annotated[Whole, Counts.NEXT] = Field(
        default=65536, ge=8192, le=2**30, description="bytes that a client may send before the login"
    )
    max_connections: Annotated[Whole, Counts.NEXT] = Field(
        default=2000, ge=1, le=1000000, description="connections, before and after the login"
    )
    per_source_max_connections: Annotated[Whole, Counts.NEXT] = Field(
        default=1000, ge=1, le=1000000, description="connections from one source, before and after the login"
    )
    max_sessions_per_user: Annotated[Whole, Counts.NEXT] = Field(
        default=1000, ge=1, le=1000000, description="connections of one user, and sessions on all of them together"
    )
    max_sessions: Annotated[Whole, Counts.NEXT] = Field(
        default=64, ge=0, le=100000, description="open sessions on one connection"
    )
    per_source_penalties: Annotated[bool, Counts.NOW] = Field(
        default=True, description="refuse sources that misbehave for a while"
    )
    per_source_penalty_exempt_list: Annotated[tuple[Network, ...], Counts.NOW] = Field(
        default=(), description="addresses and networks without penalties"
    )
    per_source_net_block_size: Annotated[str, Counts.RESTART] = Field(
        default="32:128", description="prefix lengths of IPv4 and IPv6 addresses that count as one source"
    )

    @property
    def startups(self) -> tuple[int, int, int]:
        """The three numbers of `max_startups`: start, rate, full."""
        start, rate, full = map(int, self.max_startups.split(":"))
        return start, rate, full

    @property
    def block_lengths(self) -> tuple[int, int]:
        """The prefix lengths of `per_source_net_block_size`: IPv4, IPv6."""
        v4, v6 = map(int, self.per_source_net_block_size.split(":"))
        return v4, v6

    @field_validator("per_source_net_block_size")
    @classmethod
    def _two_lengths(cls, text: str) -> str:
        v4, colon, v6 = text.partition(":")
        digits = all(part.isdigit() and part.isascii() for part in (v4, v6))
        if not (colon and digits and int(v4) <= 32 and int(v6) <= 128):  # noqa: PLR2004  bits of an address
            message = 'bits of IPv4, 0 to 32, and of IPv6, 0 to 128, are expected, as in "32:64"'
            raise ValueError(message)
        return text

    @field_validator("max_startups")
    @classmethod
    def _three_numbers(cls, text: str) -> str:
        parts = text.split(":")
        if len(parts) != 3 or not all(part.isdigit() and part.isascii() for part in parts):  # noqa: PLR2004
            message = 'start:rate:full is expected, as in "64:30:100"'
            raise ValueError(message)
        start, rate, full = map(int, parts)
        if not (0 < start <= full and 0 <= rate <= 100):  # noqa: PLR2004  per cent
            message = "start is 1 or more, rate 0 to 100 per cent, full not below start"
            raise ValueError(message)
        return text
