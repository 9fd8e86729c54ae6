"""The connection of one client, with a fair share of the event loop and limits of all buffers."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import Any, Protocol, cast

import asyncssh
from asyncssh.channel import SSHChannel
from asyncssh.connection import SSHConnection
from asyncssh.constants import MSG_KEXINIT, MSG_SERVICE_ACCEPT, MSG_SERVICE_REQUEST, MSG_USERAUTH_REQUEST
from asyncssh.packet import SSHPacket, String

from server.transport.asyncssh_overrides.authentication import METHODS, decoded_user_name
from server.transport.asyncssh_overrides.channel import ClosedChannel, ServerChannel
from server.transport.packet_budget import PacketBudget
from server.transport.pre_auth import peer_address
from server.transport.unsent import UnsentOutput

#: The most key exchanges of one connection before the login. A client needs one.
MOST_KEY_EXCHANGES_BEFORE_LOGIN = 4
#: The unsent bytes in the transport at which channels keep their output, and at which the client's requests wait too.
UNSENT_HOLDS_CHANNELS_BYTES = 64 * 1024
UNSENT_HOLDS_REQUESTS_BYTES = 1024 * 1024
#: The most packets that wait for the end of a key exchange.
MOST_DEFERRED_PACKETS = 1000

_USERAUTH_SERVICE = b"ssh-userauth"
_CONNECTION_SERVICE = b"ssh-connection"


class Owner(Protocol):
    """The methods of the connection's `asyncssh.SSHServer` that this module calls."""

    async def admits_key(self, username: str, key_data: bytes) -> bool:
        """Tell whether a public key or certificate may be decoded and used. Counts a login attempt."""

    async def begin_auth(self, username: str) -> bool:
        """Begin to authenticate a user name."""

    def negotiation_failed(self, kind: str, ours: Sequence[bytes], theirs: Sequence[bytes]) -> None:
        """Record that client and server have no common algorithm of one kind."""

    def connection_requested(self, dest_host: str, dest_port: int, orig_host: str, orig_port: int) -> bool:
        """Refuse a tunnel to a host. Raises ChannelOpenError."""

    def unix_connection_requested(self, dest_path: str) -> bool:
        """Refuse a tunnel to a socket. Raises ChannelOpenError."""

    def server_requested(self, listen_host: str, listen_port: int) -> bool:
        """Record a request to listen on a port."""

    def unix_server_requested(self, listen_path: str) -> bool:
        """Record a request to listen on a socket."""


class OpenChannels(dict[int, "SSHChannel[Any]"]):
    """The channels by number. Late packets for a closed channel are ignored.

    When a key exchange delays it, paramiko sends the end of input after the close of a channel. asyncssh would end the
    connection. Ignoring is safe, because no session gets these packets. A number that was never used is an error.
    """

    def __init__(self, connection: ServerConnection) -> None:
        """Take the connection, which assigns the numbers in ascending order."""
        super().__init__()
        self._connection = connection

    def __missing__(self, number: int) -> ClosedChannel:
        if number >= self._connection._next_recv_chan:  # noqa: SLF001  an override of this class
            raise KeyError(number)
        return ClosedChannel(self._connection.logger)


class ServerConnection(asyncssh.SSHServerConnection):
    """asyncssh's server connection with limits."""

    def __init__(
        self, loop: asyncio.AbstractEventLoop, options: asyncssh.SSHServerConnectionOptions, budget: PacketBudget
    ) -> None:
        """Take asyncssh's options, and the packet budget of all connections."""
        super().__init__(loop, options)
        self._channels = OpenChannels(self)
        self.unsent = UnsentOutput()
        self.budget = budget
        #: The address, or after the login the user, that the packets are charged to.
        self.payer = ""
        #: The reason why the server has ended the connection; empty otherwise.
        self.ended_because = ""
        self._waits_for_turn = self._client_is_slow = False
        self._key_exchanges = 0
        self._proofs: dict[bytes, bytes] = {}

    @property
    def _asked(self) -> Owner:
        return cast("Owner", self._owner)

    # ---- turns: asyncssh handles all data that it has read before other connections get a turn

    def data_received(self, data: bytes, datatype: int | None = None) -> None:  # noqa: ARG002  asyncssh's signature
        """Take bytes from the client."""
        self._inpbuf += data
        self._recv_data()

    def take_turn(self) -> None:
        """Handle the waiting packets."""
        self._waits_for_turn = False
        self._recv_data()
        self._read_or_wait()

    def _recv_data(self) -> None:
        """Handle packets like asyncssh, but within the budget. The rest waits for the next turn."""
        self._reset_keepalive_timer()
        try:
            while self._inpbuf and self._may_handle_packet() and self._recv_handler():
                pass
        except asyncssh.DisconnectError as error:
            self._send_disconnect(error.code, error.reason, error.lang)
            self._force_close(error)
        except Exception:  # noqa: BLE001  as asyncssh does
            self.internal_error()

    def _may_handle_packet(self) -> bool:
        if self._transport is None or self._waits_for_turn:
            return False
        if not self._requests_wait:
            self._waits_for_turn = not self.budget.take(self)
        if self._waits_for_turn or self._requests_wait:
            self._read_or_wait()
            return False
        return True

    @property
    def _requests_wait(self) -> bool:
        """Whether the client must read replies before its next request is handled."""
        unsent = self._transport.get_write_buffer_size() if self._transport and self._client_is_slow else 0
        return unsent > UNSENT_HOLDS_REQUESTS_BYTES

    def _read_or_wait(self) -> None:
        if self._transport is None or self._transport.is_closing():
            return
        if self._waits_for_turn or self._requests_wait:
            self._transport.pause_reading()
        else:
            self._transport.resume_reading()

    # ---- unread output: asyncssh writes as much as the window allows, up to 4 GB, to the transport

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Limit the buffer of the transport, then begin."""
        cast("asyncio.Transport", transport).set_write_buffer_limits(UNSENT_HOLDS_CHANNELS_BYTES)
        self.payer = peer_address(transport.get_extra_info("peername"))
        super().connection_made(transport)

    @property
    def holds_output(self) -> bool:
        """Whether channels must keep their output: the client is slow, or a key exchange is running."""
        return self._client_is_slow or not self._kex_complete

    def pause_writing(self) -> None:
        """Pause the output, because the client does not read."""
        self._client_is_slow = True

    def resume_writing(self) -> None:
        """Resume output and requests, because the client reads again."""
        self._client_is_slow = False
        self._flush_channels()
        self._recv_data()
        self._read_or_wait()

    def send_packet(self, pkttype: int, *args: bytes, handler: Any = None) -> None:  # noqa: ANN401  asyncssh's own
        """Send a packet. Raises ProtocolError when too many replies wait for the end of a key exchange."""
        if len(self._deferred_packets) > MOST_DEFERRED_PACKETS:
            self._deferred_packets.clear()
            message = "Too many requests during a key exchange"
            raise asyncssh.ProtocolError(message)
        super().send_packet(pkttype, *args, handler=handler)

    def _send_deferred_packets(self) -> None:
        super()._send_deferred_packets()
        self._flush_channels()

    def _flush_channels(self) -> None:
        for channel in [*self._channels.values()]:
            if isinstance(channel, ServerChannel):
                channel.flush()

    def _send_disconnect(self, code: int, reason: str, lang: str) -> None:
        self.ended_because = self.ended_because or reason
        super()._send_disconnect(code, reason, lang)

    def _keepalive_timer_callback(self) -> None:
        super()._keepalive_timer_callback()
        if self._keepalive_count > self._keepalive_count_max:
            self.ended_because = "the client did not answer keepalive"

    def _cleanup(self, exc: Exception | None) -> None:
        self.budget.forget(self)
        super()._cleanup(exc)

    def create_server_channel(
        self,
        encoding: str | None = "",  # noqa: ARG002  asyncssh's signature; channels carry bytes here
        errors: str = "",  # noqa: ARG002
        window: int = 0,
        max_pktsize: int = 0,
    ) -> asyncssh.SSHServerChannel[Any]:
        """Make a channel with limits."""
        size = max_pktsize or self._max_pktsize
        self._update_recv_pktlen(size)
        allow_pty, editor = self._allow_pty, False
        return ServerChannel(
            self, self._loop, allow_pty, editor, editor, 0, 0, None, "strict", window or self._window, size
        )

    # ---- before the login

    def _choose_alg(self, alg_type: str, local_algs: Sequence[bytes], remote_algs: Sequence[bytes]) -> bytes:
        """Choose like asyncssh, and record a failure."""
        chosen = next((each for each in remote_algs if each in local_algs), None)
        if chosen is None:
            self._asked.negotiation_failed(alg_type, local_algs, remote_algs)
            offered = b",".join(local_algs).decode("ascii")
            message = f"No common {alg_type} algorithm; this server has {offered}"
            raise asyncssh.KeyExchangeFailed(message)
        return chosen

    def choose_server_host_key(self, peer_host_key_algs: Sequence[bytes]) -> bool:
        """Choose like asyncssh, and record a failure."""
        chosen = super().choose_server_host_key(peer_host_key_algs)
        if not chosen:
            self._asked.negotiation_failed("host key", [*self._server_host_keys], peer_host_key_algs)
        return chosen

    async def _process_kexinit(self, pkttype: int, pktid: int, packet: SSHPacket) -> None:
        """Begin a key exchange. Each takes a millisecond, so their number before the login is limited."""
        self._key_exchanges += 1
        if not self._auth_complete and self._key_exchanges > MOST_KEY_EXCHANGES_BEFORE_LOGIN:
            message = "Too many key exchanges before authentication"
            raise asyncssh.ProtocolError(message)
        await super()._process_kexinit(pkttype, pktid, packet)

    def _process_service_request(self, pkttype: int, pktid: int, packet: SSHPacket) -> None:
        """Accept a repeated request for authentication, as OpenSSH does.

        paramiko sends one before each method. This weakens nothing: the counts of login attempts and of bytes before
        the login continue.
        """
        repeated = self._auth_in_progress and not self._auth_complete
        if repeated and packet.get_remaining_payload() == String(_USERAUTH_SERVICE):
            self.send_packet(MSG_SERVICE_ACCEPT, String(_USERAUTH_SERVICE))
            return
        super()._process_service_request(pkttype, pktid, packet)

    def _process_userauth_request(self, _pkttype: int, _pktid: int, packet: SSHPacket) -> Any:  # noqa: ANN401
        """Begin a login attempt.

        asyncssh would normalise the user name, and end the connection when it is not UTF-8. User names are ASCII, so
        every other name is unknown, and needs no normalising.
        """
        name, service, method = packet.get_string(), packet.get_string(), packet.get_string()
        if service != _CONNECTION_SERVICE:
            message = "Unexpected service in auth request"
            raise asyncssh.ServiceNotAvailable(message)
        if self._auth_complete:
            if self._auth_final:
                message = "Unexpected userauth request"
                raise asyncssh.ProtocolError(message)
            return None
        if self._auth:
            self._auth.cancel()
            self._auth = None
        username = decoded_user_name(name)
        begins = username != self._username
        self._username = username
        self._key_options, self._cert_options = {}, None
        return self._finish_userauth(begins, method, packet)

    async def _finish_userauth(self, begin_auth: bool, method: bytes, packet: SSHPacket) -> None:  # noqa: FBT001
        """Start a method of the allow-list. asyncssh would reload its own configuration for each user name."""
        if begin_auth and self._owner:
            await self._asked.begin_auth(self._username)
        if self._owner:
            if self._auth:
                self._auth.cancel()
            handler = METHODS.get(method)
            if handler is None or not handler.supported(self):
                self.send_userauth_failure(partial_success=False)
            else:
                self._auth = handler(self, self._username, method, packet)

    async def validate_public_key(self, username: str, key_data: bytes, msg: bytes, signature: bytes) -> bool:
        """Ask the owner first whether it admits the key.

        asyncssh would decode the key, and verify a certificate, before any check.
        """
        return await self._asked.admits_key(username, key_data) and await super().validate_public_key(
            username, key_data, msg, signature
        )

    # ---- after the login

    def _process_hostkeys_prove_00_at_openssh_dot_com_global_request(self, packet: SSHPacket) -> None:
        """Prove the host keys, and sign once per connection and key. asyncssh would sign for every request."""
        asked: list[bytes] = []
        while packet and len(asked) <= len(self._all_server_host_keys):
            asked.append(packet.get_string())
        if len(asked) > len(self._all_server_host_keys) or not {*asked} <= self._all_server_host_keys.keys():
            self._report_global_response(False)  # noqa: FBT003  asyncssh's signature
            return
        prefix = String("hostkeys-prove-00@openssh.com") + String(self._session_id)
        for each in asked:
            if each not in self._proofs:
                self._proofs[each] = String(self._all_server_host_keys[each].sign(prefix + String(each)))
        self._report_global_response(b"".join(self._proofs[each] for each in asked))

    # asyncssh would refuse in a task, and queue later requests: a client can send them faster than the tasks end

    def _process_tcpip_forward_global_request(self, packet: SSHPacket) -> None:
        """Refuse to listen on a port, at once."""
        host, port = packet.get_string().decode("utf-8", "replace"), packet.get_uint32()
        packet.check_end()
        self._report_global_response(self._asked.server_requested(host, port))

    def _process_streamlocal_forward_at_openssh_dot_com_global_request(self, packet: SSHPacket) -> None:
        """Refuse to listen on a socket, at once."""
        path = packet.get_string().decode("utf-8", "replace")
        packet.check_end()
        self._report_global_response(self._asked.unix_server_requested(path))

    # asyncssh would end the connection when the name of a host or socket is not UTF-8

    def _process_direct_tcpip_open(self, packet: SSHPacket) -> Any:  # noqa: ANN401  it always raises
        """Refuse to connect to a host."""
        host, port = packet.get_string().decode("utf-8", "replace"), packet.get_uint32()
        return self._asked.connection_requested(host, port, "", 0)

    def _process_direct_streamlocal_at_openssh_dot_com_open(self, packet: SSHPacket) -> Any:  # noqa: ANN401  likewise
        """Refuse to connect to a socket."""
        return self._asked.unix_connection_requested(packet.get_string().decode("utf-8", "replace"))

    _packet_handlers: dict[int, Any] = {  # noqa: RUF012  asyncssh's table
        **SSHConnection._packet_handlers,  # noqa: SLF001  the table that is overridden
        MSG_KEXINIT: _process_kexinit,
        MSG_SERVICE_REQUEST: _process_service_request,
        MSG_USERAUTH_REQUEST: _process_userauth_request,
    }
