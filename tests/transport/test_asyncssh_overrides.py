"""The overrides depend on internals of asyncssh: these tests fail when a new version changes them."""

from __future__ import annotations

import hashlib
import importlib
import inspect
import tomllib
from pathlib import Path

import asyncssh
import pytest

from server.transport.asyncssh_overrides import authentication, channel, connection

#: Replaced or required code of asyncssh, with the first digits of the SHA-256 of its source. If one differs, compare
#: the change in asyncssh with the override, then write the new digest here.
FOLLOWED = [
    ("asyncssh.connection.SSHConnection.data_received", "b2d14a83b2604db6"),
    ("asyncssh.connection.SSHConnection._recv_data", "fc4e0735191bb0fd"),
    ("asyncssh.connection.SSHConnection._recv_pkthdr", "7adc4d88fe20593c"),
    ("asyncssh.connection.SSHConnection._recv_packet", "b3daa22e9763eee9"),
    ("asyncssh.connection.SSHConnection._finish_recv_packet", "e12d96db58b3524e"),
    ("asyncssh.connection.SSHConnection.connection_made", "e7b867af0f590a2c"),
    ("asyncssh.connection.SSHConnection.pause_writing", "a69ec7dae4f504a2"),
    ("asyncssh.connection.SSHConnection.resume_writing", "a324675672f6b924"),
    ("asyncssh.connection.SSHConnection.send_packet", "fb9da7bec6dd395a"),
    ("asyncssh.connection.SSHConnection._send_deferred_packets", "c5ef8240853eb331"),
    ("asyncssh.connection.SSHConnection._send_disconnect", "225d909cfce74f89"),
    ("asyncssh.connection.SSHConnection._keepalive_timer_callback", "6d8aa6656cfc6003"),
    ("asyncssh.connection.SSHConnection._force_close", "264b4367525f4f86"),
    ("asyncssh.connection.SSHConnection._cleanup", "ea4cd2aed57194e5"),
    ("asyncssh.connection.SSHConnection._choose_alg", "539a102decdbce87"),
    ("asyncssh.connection.SSHConnection._process_kexinit", "439bdf2fc55e6737"),
    ("asyncssh.connection.SSHConnection._process_service_request", "faadd33529d2bc93"),
    ("asyncssh.connection.SSHConnection._process_userauth_request", "9d1a0e42d15a1526"),
    ("asyncssh.connection.SSHConnection._finish_userauth", "bd2146536318273d"),
    ("asyncssh.connection.SSHConnection.send_userauth_failure", "30f1eb63d0cb74c9"),
    ("asyncssh.connection.SSHConnection.send_userauth_success", "812e749ee2432e4b"),
    ("asyncssh.connection.SSHServerConnection.__init__", "1609a442fc4f5151"),
    ("asyncssh.connection.SSHServerConnection._cleanup", "c67135a4127b3029"),
    ("asyncssh.connection.SSHServerConnection._process_direct_tcpip_open", "077c5afdc7223d1e"),
    ("asyncssh.connection.SSHServerConnection._process_direct_streamlocal_at_openssh_dot_com_open", "becaa3342ee9959f"),
    ("asyncssh.connection.SSHServerConnection._process_channel_open", "0a1ae759cb6aab2b"),
    ("asyncssh.connection.SSHServerConnection.choose_server_host_key", "bba591c6ea86a53b"),
    ("asyncssh.connection.SSHServerConnection.create_server_channel", "b008e7eebd09049c"),
    ("asyncssh.connection.SSHServerConnection.validate_public_key", "eb5e224339282892"),
    ("asyncssh.connection.SSHServerConnection._validate_client_certificate", "a49c71b2c2c1f917"),
    ("asyncssh.connection.SSHServerConnection._validate_client_public_key", "6a630986a3798084"),
    ("asyncssh.connection.SSHServerConnection._validate_openssh_certificate", "056062c844e4c716"),
    (
        "asyncssh.connection.SSHServerConnection._process_hostkeys_prove_00_at_openssh_dot_com_global_request",
        "d6e86ada990be29e",
    ),
    ("asyncssh.connection.SSHConnection._process_global_request", "ab927889d3844db5"),
    ("asyncssh.connection.SSHConnection._report_global_response", "590a13bfd2ed513f"),
    ("asyncssh.connection.SSHServerConnection._process_tcpip_forward_global_request", "020b33219114f815"),
    (
        "asyncssh.connection.SSHServerConnection._process_streamlocal_forward_at_openssh_dot_com_global_request",
        "d1ed1b391020862c",
    ),
    ("asyncssh.channel.SSHChannel.write", "1045e20008469933"),
    ("asyncssh.channel.SSHChannel._process_data", "342490795c4b893c"),
    ("asyncssh.channel.SSHChannel._process_eof", "ac67e77d1f8a61bc"),
    ("asyncssh.channel.SSHChannel._flush_send_buf", "3f11e9dc27c58b18"),
    ("asyncssh.channel.SSHChannel._pause_resume_writing", "b05e507ca9fdeec9"),
    ("asyncssh.channel.SSHChannel._cleanup", "5d0b2593194bbf4b"),
    ("asyncssh.channel.SSHChannel._accept_data", "33121e9e185c9850"),
    ("asyncssh.channel.SSHChannel._deliver_data", "bd94ccbaa59ab510"),
    ("asyncssh.channel.SSHChannel._flush_recv_buf", "22d7ff2363a4d38d"),
    ("asyncssh.channel.SSHChannel.process_open", "6a3a551a99b6d76b"),
    ("asyncssh.channel.SSHChannel._report_response", "b1278076178741d3"),
    ("asyncssh.channel.SSHServerChannel.exit", "eeccbd21ae581cc9"),
    ("asyncssh.channel.SSHServerChannel._process_pty_req_request", "60cb230a9c49dd29"),
    ("asyncssh.channel.SSHServerChannel._process_env_request", "c6847fe6051100fa"),
    ("asyncssh.channel.SSHServerChannel._process_exec_request", "be64cc45db37b0b5"),
    ("asyncssh.channel.SSHServerChannel._process_subsystem_request", "8169245ec89aebe8"),
    ("asyncssh.channel.SSHServerChannel._process_x11_req_request", "9b3c4d8658c40f2d"),
    ("asyncssh.channel.SSHServerChannel._process_auth_agent_req_at_openssh_dot_com_request", "e8c6c60e423d58a6"),
    ("asyncssh.auth._ServerPasswordAuth._start", "a3cb2f3fa73f2ed3"),
    ("asyncssh.auth._ServerPasswordAuth.supported", "120bd040da5cb0be"),
    ("asyncssh.auth._ServerKbdIntAuth._start", "dfd497771ab470c6"),
    ("asyncssh.auth._ServerKbdIntAuth._send_challenge", "09fcc821acb2a403"),
    ("asyncssh.auth._ServerKbdIntAuth._validate_response", "b325857e0dde5780"),
    ("asyncssh.auth._ServerKbdIntAuth._process_info_response", "abe8f061d3e0cebe"),
    ("asyncssh.auth._ServerKbdIntAuth.supported", "2eba1e616f51892a"),
    ("asyncssh.auth._ServerPublicKeyAuth._start", "f736fe6663fc3aec"),
    ("asyncssh.auth._ServerPublicKeyAuth.supported", "6d21303e2907fff2"),
    ("asyncssh.auth.Auth.__init__", "ce8a307848f87ff6"),
    ("asyncssh.auth.Auth.send_packet", "a245dce77d87d240"),
    ("asyncssh.auth.Auth.create_task", "4ca65e68c5093a3b"),
    ("asyncssh.auth.Auth.cancel", "10c87ba4959741bd"),
    ("asyncssh.auth.ServerAuth.__init__", "ff793e0163031a9d"),
    ("asyncssh.auth.ServerAuth.send_packet", "522c94e5b2df8160"),
    ("asyncssh.auth.ServerAuth.send_failure", "93b74757d8184828"),
    ("asyncssh.auth.ServerAuth.send_success", "a425bc98b9ecc35e"),
]


@pytest.mark.parametrize(("name", "digest"), FOLLOWED, ids=[name for name, _ in FOLLOWED])
def test_asyncssh_internals_match_the_overrides(name: str, digest: str) -> None:
    module, owner, method = name.rsplit(".", 2)
    source = inspect.getsource(getattr(getattr(importlib.import_module(module), owner), method))
    assert hashlib.sha256(source.encode()).hexdigest().startswith(digest)


def test_the_version_of_asyncssh_is_pinned() -> None:
    project = tomllib.loads((Path(__file__).parents[2] / "pyproject.toml").read_text(encoding="utf-8"))
    assert f"asyncssh=={asyncssh.__version__}" in project["project"]["dependencies"]


def test_each_override_replaces_something() -> None:
    """A method dropped by asyncssh would never be called, and its bound would silently vanish."""
    own = {
        connection.ServerConnection: {
            *("take_turn", "budget", "unsent", "holds_output", "_asked", "_may_handle_packet", "_requests_wait"),
            *("_read_or_wait", "_flush_channels", "payer"),
        },
        channel.ServerChannel: {
            *("take_turn", "flush", "reconsider_writing", "_connection", "_send_one", "_may_send", "_note_unsent"),
            *("_environment_variables", "_waits_for_turn", "_input_waits", "_status_waits", "payer"),
        },
        authentication._PasswordAuth: set(),  # noqa: SLF001
        authentication._KeyboardInteractiveAuth: set(),  # noqa: SLF001
    }
    for override, names in own.items():
        replaced = {name for name in vars(override) if not name.startswith("__")} - names
        missing = {name for name in replaced if not any(hasattr(base, name) for base in override.__mro__[1:])}
        assert not missing, override
