"""Each transport and each listener does what ``Transport`` and ``Listener`` promise."""

import os
import socket
import stat

import pytest

from farcall._transport.memory import MemoryListener, memory_pair
from farcall._transport.sockets import SocketListener, SocketTransport, dial, private_address
from farcall.testing import ListenerSuite, TransportSuite


class TestMemory(TransportSuite):
    """Everything at once."""

    def connect(self):
        return memory_pair()


class TestMemoryInPieces(TransportSuite):
    """Little room, and pieces that fit nothing."""

    volume = 400_000

    def connect(self):
        return memory_pair(capacity=5000, piece=999)


class TestMemoryByBytes(TransportSuite):
    """One byte at a time."""

    volume = 5000

    def connect(self):
        return memory_pair(capacity=16, piece=1)


class TestUnixPair(TransportSuite):
    """An unnamed pair of Unix sockets."""

    def connect(self):
        one, other = socket.socketpair()
        return SocketTransport(one), SocketTransport(other)


def connect_over(address):
    """Return both ends of a connection over a listener."""
    listener = SocketListener(address)
    dialled = dial(listener.address)
    accepted = listener.accept()
    listener.close()
    return dialled, accepted


class TestUnix(TransportSuite):
    """Unix sockets with a name."""

    def connect(self):
        return connect_over(private_address())


class TestTcp(TransportSuite):
    """TCP on this host."""

    def connect(self):
        return connect_over("tcp:127.0.0.1:0")


class TestMemoryListener(ListenerSuite):
    """Listeners inside one process."""

    listeners = ()

    def listen(self):
        listener = MemoryListener()
        self.listeners = (*self.listeners, listener)
        return listener

    def dial(self, address):
        (listener,) = (each for each in self.listeners if each.address == address)
        return listener.connect()


class TestUnixListener(ListenerSuite):
    """Names without a file."""

    def listen(self):
        return SocketListener()

    def dial(self, address):
        return dial(address)


class TestUnixFileListener(ListenerSuite):
    """Names that are files."""

    @pytest.fixture(autouse=True)
    def directory(self, tmp_path):
        self.paths = iter(tmp_path / f"{number}" for number in range(10))

    def listen(self):
        return SocketListener(f"unix:{next(self.paths)}")

    def dial(self, address):
        return dial(address)


class TestTcpListener(ListenerSuite):
    """Ports of this host."""

    def listen(self):
        return SocketListener("tcp:127.0.0.1:0")

    def dial(self, address):
        return dial(address)


# Sockets


def test_a_listener_says_where_it_can_be_dialled():
    """``tcp:host:0`` takes a free port, and the address names it; a Unix name stays as it is."""
    listener = SocketListener("tcp:127.0.0.1:0")
    assert listener.address.startswith("tcp:127.0.0.1:")
    assert not listener.address.endswith(":0")
    listener.close()
    listener = SocketListener("unix:@a-name-that-nobody-has")
    assert listener.address == "unix:@a-name-that-nobody-has"
    listener.close()


def test_a_listener_may_advertise_another_host():
    """With ``advertise`` the address names that host, with brackets if it is of IPv6, and the port that was taken."""
    for host, written in (("127.0.0.1", "127.0.0.1"), ("localhost", "localhost"), ("::1", "[::1]"), ("[::1]", "[::1]")):
        listener = SocketListener("tcp:0.0.0.0:0", advertise=host)
        port = listener._socket.getsockname()[1]
        assert listener.address == f"tcp:{written}:{port}"
        if ":" not in host:
            dialled = dial(listener.address)
            listener.accept().close()
            dialled.close()
        listener.close()


@pytest.mark.parametrize(("address", "host"), [("unix:@name", "host"), ("tcp:0.0.0.0:0", "")])
def test_only_a_host_stands_for_another(address, host):
    """A Unix name cannot be advertised as a host, nor a host as nothing."""
    with pytest.raises(ValueError, match="only a host can stand for another host"):
        SocketListener(address, advertise=host)


def test_private_addresses_are_fresh():
    """Two private addresses differ, and are names without a file."""
    assert private_address() != private_address()
    assert private_address().startswith("unix:@farcall-")


def test_a_socket_file_goes_with_its_listener(tmp_path):
    """The file of a Unix socket is there while somebody listens, and closing twice is closing once."""
    path = tmp_path / "socket"
    listener = SocketListener(f"unix:{path}")
    assert stat.S_ISSOCK(os.stat(path).st_mode)
    listener.close()
    listener.close()
    assert not path.exists()


@pytest.mark.skipif(not socket.has_ipv6, reason="no IPv6 here")
def test_ipv6_addresses_have_brackets():
    """An IPv6 listener's address can be dialled as it is."""
    try:
        listener = SocketListener("tcp:[::1]:0")
    except OSError:
        pytest.skip("no IPv6 here")
    assert listener.address.startswith("tcp:[::1]:")
    dialled = dial(listener.address)
    listener.accept().close()
    dialled.close()
    listener.close()


@pytest.mark.parametrize("address", ["", "unix:", "tcp:", "tcp:host", "tcp::1", "tcp:host:http", "http://host:1"])
def test_what_is_no_address_is_a_value_error(address):
    """An address that cannot be parsed is a ValueError that says how to write one."""
    with pytest.raises(ValueError, match="write unix:@name, unix:/path or tcp:host:port"):
        dial(address)


@pytest.mark.parametrize("address", ["unix:@nobody-listens-here", "unix:/nowhere/at/all", "tcp:127.0.0.1:1"])
def test_an_error_names_the_address(address):
    """An address where nobody listens is an OSError that names it, with the number of the system's error."""
    with pytest.raises(OSError, match=f"cannot connect to {address}") as caught:
        dial(address)
    assert caught.value.errno


def test_an_address_in_use_is_named():
    """An address that somebody else has is an OSError that names it."""
    listener = SocketListener()
    with pytest.raises(OSError, match=f"cannot listen on {listener.address}"):
        SocketListener(listener.address)
    listener.close()


def test_other_users_may_not_connect(monkeypatch):
    """A peer on a Unix socket that is another user is sent away before anything of it is read."""
    listener = SocketListener()
    dialled = dial(listener.address)
    monkeypatch.setattr("farcall._transport.sockets._peer_user", lambda connection: os.geteuid() + 1)
    with pytest.raises(PermissionError, match=f"user {os.geteuid() + 1} tried to connect"):
        listener.accept()
    assert dialled.receive_into(memoryview(bytearray(1))) == 0
    dialled.close()
    listener.close()


@pytest.mark.parametrize("user", [os.geteuid(), 0, None])
def test_this_user_and_root_may_connect(monkeypatch, user):
    """The same user and root may connect, and whoever the system does not name."""
    listener = SocketListener()
    dialled = dial(listener.address)
    monkeypatch.setattr("farcall._transport.sockets._peer_user", lambda connection: user)
    listener.accept().close()
    dialled.close()
    listener.close()


def test_a_unix_peer_is_known():
    """The system tells who is at the other end of a Unix socket."""
    from farcall._transport.sockets import _peer_user

    one, other = socket.socketpair()
    with one, other:
        assert _peer_user(one) == os.geteuid()


# Memory


def test_a_memory_transport_moves_pieces_as_large_as_it_is_told():
    """``piece`` bounds what one ``send`` takes and one ``receive_into`` gives; ``capacity`` what is under way."""
    one, other = memory_pair(capacity=5, piece=3)
    assert one.send([b"ab", b"cdefgh"]) == 3
    assert one.send([b"defgh"]) == 2
    with pytest.raises(BlockingIOError):
        one.send([b"fgh"])
    buffer = bytearray(10)
    assert other.receive_into(memoryview(buffer)) == 3
    assert buffer[:3] == b"abc"
    one.close()
    other.close()
