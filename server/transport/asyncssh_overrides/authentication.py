"""The authentication methods.

Credentials are limited before any work on them, and malformed ones are only wrong.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from asyncssh import auth
from asyncssh.packet import SSHPacket

#: A longer password is wrong, and a longer user name unknown. They are not normalised, which takes quadratic time.
MOST_PASSWORD_BYTES = 1024
MOST_USER_NAME_BYTES = 128
_SHOWN_OF_USER_NAME = 64


def decoded_user_name(name: bytes) -> str:
    """Decode a user name. A name over the limit is cut and marked, so that it matches no user."""
    text = name[:MOST_USER_NAME_BYTES].decode("utf-8", "replace")
    return text if len(name) <= MOST_USER_NAME_BYTES else f"\N{REPLACEMENT CHARACTER}{text[:_SHOWN_OF_USER_NAME]}"


def decoded_password(password: bytes) -> str:
    """Decode a password. One over the limit stays over the limit, so that it is never normalised."""
    if len(password) > MOST_PASSWORD_BYTES:
        return password[: MOST_PASSWORD_BYTES + 1].decode("latin-1")
    return password.decode("utf-8", "replace")


class _PasswordAuth(auth._ServerPasswordAuth):  # noqa: SLF001  the method that is overridden
    """The method `password`. asyncssh normalises passwords in the event loop; the console uses a thread."""

    async def _start(self, packet: SSHPacket) -> None:
        changes = packet.get_boolean()
        password = decoded_password(packet.get_string())
        if changes:
            packet.get_string()
        packet.check_end()
        if changes:  # refused: several libraries fail here, and keyboard-interactive can change a password
            accepted = await self._conn.change_password(self._username, password, "")
        else:
            accepted = await self._conn.validate_password(self._username, password)
        if accepted:
            await self.send_success()
        else:
            self.send_failure()


class _KeyboardInteractiveAuth(auth._ServerKbdIntAuth):  # noqa: SLF001  likewise
    """The method `keyboard-interactive`. An answer that is not UTF-8 is wrong; asyncssh would disconnect."""

    async def _start(self, packet: SSHPacket) -> None:
        packet.get_string()  # language
        packet.get_string()  # submethods
        packet.check_end()
        await self._send_challenge(await self._conn.get_kbdint_challenge(self._username, "", ""))

    def _process_info_response(self, _pkttype: int, _pktid: int, packet: SSHPacket) -> None:
        answers = [decoded_password(packet.get_string()) for _ in range(packet.get_uint32())]
        packet.check_end()
        self.create_task(self._validate_response(answers))

    _packet_handlers: dict[int, Any] = {  # noqa: RUF012  asyncssh's table
        auth.MSG_USERAUTH_INFO_RESPONSE: _process_info_response
    }


#: The allow-list of methods.
METHODS: Mapping[bytes, type[auth.ServerAuth]] = {
    b"publickey": auth._ServerPublicKeyAuth,  # noqa: SLF001
    b"keyboard-interactive": _KeyboardInteractiveAuth,
    b"password": _PasswordAuth,
}
