"""Reasons to refuse a connection or a request, and reasons why a connection ended before the login."""

from __future__ import annotations

from enum import Enum


class Refusal(Enum):
    """Why a connection or request is refused; the log, the audit and the counters show the value.

    The value is the key of the limit below `limits` in the configuration. The last values name the refused request.
    """

    PENALTY = "per_source_penalties"
    CONNECTIONS = "max_connections"
    SOURCE_CONNECTIONS = "per_source_max_connections"
    STARTUPS = "max_startups"
    SOURCE_STARTUPS = "per_source_max_startups"
    GRACE_TIME = "login_grace_time"
    LOGIN_BYTES = "max_login_bytes"
    AUTH_TRIES = "max_auth_tries"
    USER_SESSIONS = "max_sessions_per_user"
    CHANNELS = "max_sessions"
    NEGOTIATION = "ssh.policy"
    PROTOCOL = "protocol"
    FORWARDING = "forwarding"
    SUBSYSTEM = "subsystem"


class DisconnectReason(Enum):
    """Why a connection ended before the login. The values are OpenSSH's words, except the last."""

    NO_AUTH = "noauth"
    AUTH_FAILED = "authfail"
    GRACE_EXCEEDED = "grace-exceeded"
    FLOODED = "flooded"
