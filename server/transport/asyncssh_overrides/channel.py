"""The channel of one session, with limits of its input and output buffers."""

from __future__ import annotations

from typing import Any, Protocol, cast

import asyncssh
from asyncssh.constants import MSG_CHANNEL_DATA, MSG_CHANNEL_EOF, MSG_CHANNEL_EXTENDED_DATA
from asyncssh.logging import SSHLogger
from asyncssh.packet import SSHPacket, SSHPacketHandler, String, UInt32

from server.transport.packet_budget import PacketBudget
from server.transport.unsent import SESSION_BYTES, SMALL_BYTES, UnsentOutput

#: The accepted environment variables. None is kept, because the console does not use them.
MOST_ENVIRONMENT_VARIABLES = 32
#: The unsent echo, beyond the limit of a session's output, of a client that types without reading. Beyond it, input
#: waits.
ECHO_BYTES = 1024 * 1024
#: Pieces are joined up to this size, because a small piece takes more memory than its content.
_JOINED_BYTES = 64 * 1024
#: The smallest packet size that a client can ask for. With one byte, a reply of 64 KB would be 64,000 packets.
FEWEST_PACKET_BYTES = 256
_INPUT = frozenset({MSG_CHANNEL_DATA, MSG_CHANNEL_EXTENDED_DATA, MSG_CHANNEL_EOF})


class Link(Protocol):
    """The part of the connection that a channel uses."""

    budget: PacketBudget
    payer: str
    unsent: UnsentOutput

    @property
    def holds_output(self) -> bool:
        """Whether channels must keep their output."""


class ClosedChannel(SSHPacketHandler):
    """Replaces a closed channel, and ignores late packets for it."""

    def __init__(self, logger: SSHLogger) -> None:
        """Take the logger of the connection."""
        self._logger = logger

    @property
    def logger(self) -> SSHLogger:
        """Return the logger of the connection."""
        return self._logger

    def process_packet(self, _pkttype: int, _pktid: int, _packet: SSHPacket) -> bool:
        """Ignore a packet."""
        return True


class ServerChannel(asyncssh.SSHServerChannel[bytes]):
    """asyncssh's session channel with limits."""

    _environment_variables = 0
    _waits_for_turn = _input_waits = False
    _status_waits: int | None = None

    @property
    def _connection(self) -> Link | None:
        return cast("Link | None", self._conn)

    @property
    def payer(self) -> str:
        """The user or address that the output is charged to."""
        return self._connection.payer if self._connection is not None else ""

    # ---- output

    def write(self, data: bytes, datatype: int | None = None) -> None:
        """Send bytes, joined with waiting ones.

        asyncssh would keep each piece, and a piece of one byte takes a hundred bytes of memory.
        """
        last = self._send_buf[-1] if self._send_buf else None
        if last is None or last[1] != datatype or len(last[0]) >= _JOINED_BYTES or self._send_state != "open":
            super().write(data, datatype)
            return
        last[0].extend(data)
        self._send_buf_len += len(data)
        self._flush_send_buf()

    def exit(self, status: int) -> None:
        """End the session with a status. Output that waits for its turn is sent first."""
        if self._waits_for_turn:
            self._status_waits = status
        else:
            super().exit(status)

    def take_turn(self) -> None:
        """Send the waiting output."""
        self._waits_for_turn = False
        self.flush()
        if self._status_waits is not None and not self._waits_for_turn:
            super().exit(self._status_waits)
            self._status_waits = None

    def flush(self) -> None:
        """Send as much as the client and its connection accept now."""
        if self._session is not None:
            self._flush_send_buf()

    def reconsider_writing(self) -> None:
        """Let the session write again if the limits allow it."""
        if self._session is not None:
            self._pause_resume_writing()

    def _flush_send_buf(self) -> None:
        """Send like asyncssh, but packet by packet in turns, and only while the transport accepts data."""
        while self._send_buf and self._send_window and self._may_send():
            size = min(self._send_window, self._send_pktsize)
            piece, datatype = self._send_buf[0]
            data = bytes(piece[:size])
            if len(piece) > size:
                del piece[:size]
            else:
                del self._send_buf[0]
            self._send_buf_len -= len(data)
            self._send_window -= len(data)
            kind = (MSG_CHANNEL_DATA, b"") if datatype is None else (MSG_CHANNEL_EXTENDED_DATA, UInt32(datatype))
            self.send_packet(kind[0], kind[1] + String(data))
        self._note_unsent()
        self._pause_resume_writing()
        if not self._send_buf:
            super()._flush_send_buf()  # sends the end of output and the close

    def _may_send(self) -> bool:
        connection = self._connection
        if connection is None or connection.holds_output or self._waits_for_turn:
            return False
        self._waits_for_turn = not connection.budget.take(self)
        return not self._waits_for_turn

    def _note_unsent(self) -> None:
        if self._connection is not None:
            self._connection.unsent.note(self, self._send_buf_len)
        floods = self._send_buf_len > SESSION_BYTES + ECHO_BYTES
        if floods is not self._input_waits:
            self._input_waits = floods
            if not floods:
                self._flush_recv_buf()

    def _pause_resume_writing(self) -> None:
        """Pause the session like asyncssh, and also when its user has too much unsent output."""
        crowded = self._connection is not None and self._connection.unsent.full and self._send_buf_len > SMALL_BYTES
        if not crowded:
            super()._pause_resume_writing()
        elif not self._send_paused and self._session is not None:
            self._send_paused = True
            self._session.pause_writing()

    def _cleanup(self, exc: Exception | None = None) -> None:
        if self._connection is not None:
            self._connection.unsent.note(self, 0)
            self._connection.budget.forget(self)
        super()._cleanup(exc)

    # ---- input

    def _accept_data(self, data: bytes, datatype: int | None = None) -> None:
        """Take input like asyncssh, but join unread pieces."""
        waits = self._recv_paused or self._input_waits
        if not waits or not data or self._send_state in {"close_pending", "closed"}:
            super()._accept_data(data, datatype)
            return
        self._recv_window -= len(data)
        last = self._recv_buf[-1][0] if self._recv_buf else None
        if isinstance(last, bytearray):
            last.extend(data)
        else:
            self._recv_buf.append((cast("bytes", bytearray(data)), datatype))

    def _flush_recv_buf(self, exc: Exception | None = None) -> None:
        """Deliver input, unless the client must read its echo first."""
        if not self._input_waits or self._recv_state == "close_pending":
            super()._flush_recv_buf(exc)

    def process_packet(self, pkttype: int, pktid: int, packet: SSHPacket) -> Any:  # noqa: ANN401  asyncssh's own
        """Handle a packet. Ignore input after its end or after the close; asyncssh would end the connection."""
        ended = self._recv_state in {"close_pending", "closed"}
        if ended or (pkttype in _INPUT and self._recv_state != "open"):
            return True
        return super().process_packet(pkttype, pktid, packet)

    # ---- requests

    def process_open(self, send_chan: int, send_window: int, send_pktsize: int, session: Any) -> None:  # noqa: ANN401
        """Open the channel, with a minimum for the packet size, because each packet costs the same CPU."""
        super().process_open(send_chan, send_window, max(send_pktsize, FEWEST_PACKET_BYTES), session)

    def _process_pty_req_request(self, packet: SSHPacket) -> bool:
        """Grant a terminal. asyncssh would end the connection when the terminal's name is not ASCII."""
        term = packet.get_string().decode("utf-8", "replace").encode("ascii", "replace")
        return super()._process_pty_req_request(SSHPacket(String(term) + packet.get_remaining_payload()))

    def _process_env_request(self, packet: SSHPacket) -> bool:
        """Accept a few variables, because clients expect it, but keep none. asyncssh would keep them all."""
        packet.get_string()
        packet.get_string()
        packet.check_end()
        self._environment_variables += 1
        return self._environment_variables <= MOST_ENVIRONMENT_VARIABLES

    def _process_exec_request(self, packet: SSHPacket) -> bool:
        """Run a command. Bytes that are not UTF-8 become replacement characters, as on standard input."""
        command = packet.get_string().decode("utf-8", "replace")
        return super()._process_exec_request(SSHPacket(String(command) + packet.get_remaining_payload()))

    def _process_subsystem_request(self, packet: SSHPacket) -> bool:
        """Accept any bytes as the name, so that the refusal is recorded. asyncssh would not report some names."""
        name = packet.get_string().decode("utf-8", "replace").encode("ascii", "replace")
        return super()._process_subsystem_request(SSHPacket(String(name) + packet.get_remaining_payload()))

    def _process_x11_req_request(self, packet: SSHPacket) -> bool:  # noqa: ARG002
        """Refuse at once. asyncssh would start a task to refuse."""
        return False

    def _process_auth_agent_req_at_openssh_dot_com_request(self, packet: SSHPacket) -> Any:  # noqa: ANN401, ARG002
        """Refuse at once, for the same reason."""
        return False
