"""TLS: who has no certificate of the cluster's CA gets nothing across, and who has loses nothing."""

import contextlib
import itertools
import pickle
import random
import select
import shutil
import socket
import ssl
import subprocess
import threading
import time
from collections import deque
from pathlib import Path

import pytest
from certificates import Authority, sign_oneself, write_key
from cryptography.hazmat.primitives.asymmetric import ec
from waiting import until

import farcall as fc
from farcall._config import Config
from farcall._errors import AuthenticationError
from farcall._node.current import current_call
from farcall._node.executor import Call
from farcall._node.node import Node
from farcall._transport.credentials import Credentials
from farcall._transport.handshake import dialler_steps, listener_steps, perform
from farcall._transport.sockets import SocketListener, SocketTransport, connect, dial
from farcall._transport.tls import TlsListener, TlsTransport, dialler
from farcall._wire.messages import WANT_NOTHING
from farcall.testing import ListenerSuite, TransportSuite
from farcall.testing.transport import carry, fill, is_ready, make_bytes, receive, run_together, send_all

PATIENCE = 20.0  # seconds; a test that needs them has failed
ANYWHERE = "tls:127.0.0.1:0"


@pytest.fixture(scope="module")
def authority():
    return Authority()


@pytest.fixture(scope="module")
def credentials(authority):
    return authority.credentials()


def knock(address, credentials):
    """Return the dialler's end of a connection before anything was said."""
    return TlsTransport(connect(address, PATIENCE, "tls"), credentials, listening=False)


def where_of(address):
    """Return the host and the port of an address."""
    host, port = address.removeprefix("tls:").split(":")
    return host, int(port)


def introduce(*transports):
    """Have both ends of a connection shake hands."""
    run_together(*[lambda each=each: each.shake_hands(PATIENCE) for each in transports])


class TestTls(TransportSuite):
    """TLS on this host."""

    @pytest.fixture(autouse=True)
    def _credentials(self, credentials):
        self.credentials = credentials

    def connect(self):
        listener = TlsListener(self.credentials, ANYWHERE)
        dialled = knock(listener.address, self.credentials)
        accepted = listener.accept()
        listener.close()
        introduce(dialled, accepted)
        return dialled, accepted


class TestTlsListener(ListenerSuite):
    """Who dials waits for the listener's certificate, so both ends shake hands as soon as both are there."""

    @pytest.fixture(autouse=True)
    def _credentials(self, credentials):
        self.credentials = credentials
        self.dialled = deque()

    def listen(self):
        return TlsListener(self.credentials, ANYWHERE)

    def dial(self, address):
        self.dialled.append(knock(address, self.credentials))
        return self.dialled[-1]

    def accept(self, listener):
        accepted, dialled = super().accept(listener), self.dialled.popleft()
        if dialled.fileno() >= 0:
            introduce(accepted, dialled)
        return accepted


@pytest.fixture
def pair(credentials):
    """Both ends of a connection, the dialler's first."""
    with connected(credentials) as ends:
        yield ends


@contextlib.contextmanager
def connected(credentials, through=None):
    """Yield both ends of a connection, which may lead through another address."""
    with contextlib.closing(TlsListener(credentials, ANYWHERE)) as listener:
        dialled = knock(through(listener.address) if through else listener.address, credentials)
        assert is_ready(listener.fileno(), select.POLLIN, PATIENCE)
        accepted = listener.accept()
    introduce(dialled, accepted)
    yield dialled, accepted
    dialled.close()
    accepted.close()


# Bytes


SIZES = [1, 2, 100, 16_383, 16_384, 16_385, 32_768, 49_153, 131_071, 131_072, 131_073, 300_001]


@pytest.mark.parametrize("room", [1000, 16_384, 33_290, 65_536, 1 << 20])
def test_frames_of_every_size_are_read_into_buffers_of_every_size(pair, room):
    """Nothing stays behind in TLS: whoever reads whenever the descriptor says so gets all, whatever his buffer."""
    one, other = pair
    data = make_bytes(sum(SIZES), room)
    starts = itertools.accumulate(SIZES, initial=0)
    frames = [data[start : start + size] for start, size in zip(starts, SIZES, strict=False)]
    came = []
    run_together(
        lambda: [send_all(one, frame) for frame in frames],
        lambda: came.append(receive_one_by_one(other, len(data), room)),
    )
    assert came[0] == data
    assert not is_ready(other.fileno(), select.POLLIN)


def receive_one_by_one(transport, size, room):
    """Read once each time that the descriptor polls readable, and not again until it does."""
    data = bytearray()
    buffer = memoryview(bytearray(room))
    while len(data) < size:
        assert is_ready(transport.fileno(), select.POLLIN, PATIENCE), f"asleep with {len(data)} of {size} bytes"
        try:
            data += buffer[: transport.receive_into(buffer)]
        except BlockingIOError:
            continue
    return bytes(data)


def test_small_parts_leave_in_one_record(credentials):
    """The parts of a small message make one record of TLS, 22 bytes longer than they are."""
    with Wire() as wire, connected(credentials, wire.lead) as (one, other):
        before = len(wire.there)
        assert one.send([b"head", memoryview(b"body"), b"", b"x" * 1000]) == 1008
        assert receive(other, 1008)
        assert len(wire.there) - before == 1008 + 22


def test_large_transfers_cross_both_ways_at_once(pair):
    """Both ends send and receive 30 MB at the same time, each with a thread that reads and one that writes."""
    one, other = pair
    there, back = make_bytes(30 << 20, 1), make_bytes(30 << 20, 2)
    came = {}
    run_together(lambda: came.update(there=carry(one, other, there)), lambda: came.update(back=carry(other, one, back)))
    assert came["there"] == there
    assert came["back"] == back


def test_what_has_been_taken_leaves_without_another_call(pair):
    """Once there is room what did not fit leaves, although nobody sends any more; the thread that did it ends."""
    one, other = pair
    sent = fill(one)
    assert one._outlet.waiting
    assert receive(other, len(sent)) == sent
    assert until(lambda: not any(each.name == "farcall-tls" for each in threading.enumerate()))


def test_a_finalizer_may_send_in_the_midst_of_anything(pair):
    """A call of ``send`` within another call on the same thread neither waits for ever nor comes in between."""
    one, other = pair
    with one._lock:
        assert one.send([b"nested"]) == 6
    assert receive(other, 6) == b"nested"


@pytest.mark.parametrize("command", [b"K\n", b"k\n"], ids=["with ours", "alone"])
def test_a_change_of_keys_is_not_noticed(authority, tmp_path, require, command):
    """A peer may change its keys, and ask for a change of ours, at any time; bytes go on in both directions."""
    openssl = shutil.which("openssl")
    require(openssl, "the openssl program is missing")
    ca, certificate, key = authority.write(tmp_path)
    with contextlib.closing(TlsListener(Credentials(ca, certificate, key), ANYWHERE)) as listener, Wire() as wire:
        where = wire.lead(listener.address).removeprefix("tls:")
        client = [openssl, "s_client", "-connect", where, "-CAfile", ca, "-cert", certificate, "-key", key]
        pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "stderr": subprocess.DEVNULL}
        with subprocess.Popen(client, **pipes) as process:
            assert is_ready(listener.fileno(), select.POLLIN, PATIENCE)
            transport = listener.accept()
            transport.shake_hands(PATIENCE)
            for line in (b"before\n", command, b"after\n"):
                said = len(wire.there)
                process.stdin.write(line)
                process.stdin.flush()
                assert until(lambda said=said: len(wire.there) > said)
                if line != command:
                    assert receive(transport, len(line)) == line
            heard = len(wire.back)
            send_all(transport, b"answer\n")
            assert until(lambda: len(wire.back) >= heard + 29)
            assert (len(wire.back) > heard + 29) == (command == b"K\n"), "that we change ours is a message more"
            transport.close()
            assert b"answer\n" in process.stdout.read()


# The end


@pytest.mark.parametrize("closer", [0, 1])
def test_a_farewell_is_the_end(pair, closer):
    """Whoever closes, the other one reads what was sent and then 0."""
    one, other = pair[closer], pair[1 - closer]
    send_all(one, b"last words")
    one.close()
    assert receive(other, 100) == b"last words"
    assert other.receive_into(memoryview(bytearray(100))) == 0


@pytest.mark.parametrize("room", [10, 1 << 20])
def test_an_end_without_a_farewell_is_an_error(credentials, room):
    """Bytes that somebody has cut off do not look like the end: what came whole is read, then comes an OSError."""
    with Wire() as wire, connected(credentials, wire.lead) as (one, other):
        one.send([b"a whole record"])
        assert receive(other, 14) == b"a whole record"
        wire.cut_after(10)
        one.send([b"half a record"])
        assert is_ready(other.fileno(), select.POLLIN, PATIENCE)
        with pytest.raises(ConnectionResetError, match="ended the TLS connection without a farewell"):
            receive(other, 1, room)


def test_a_killed_process_is_an_error(pair):
    """A socket that the system closes for its process is not taken for a farewell."""
    one, other = pair
    one._socket.shutdown(socket.SHUT_RDWR)
    assert is_ready(other.fileno(), select.POLLIN, PATIENCE)
    with pytest.raises(ConnectionResetError, match="without a farewell"):
        other.receive_into(memoryview(bytearray(1 << 20)))


@pytest.mark.parametrize("room", [10, 1 << 20])
def test_a_changed_byte_is_an_error_that_stays(credentials, room):
    """Who changes a byte on its way ends the connection; nothing of that record is read, and polling shows it."""
    with Wire() as wire, connected(credentials, wire.lead) as (one, other):
        send_all(other, b"hello")
        assert receive(one, 5) == b"hello"
        wire.spoil()
        one.send([b"x" * 100])
        for _ in range(2):
            assert is_ready(other.fileno(), select.POLLIN, PATIENCE)
            with pytest.raises(OSError, match="DECRYPTION_FAILED_OR_BAD_RECORD_MAC"):
                receive(other, 1, room)


def test_closing_does_not_wait_and_loses_nothing(pair):
    """``close`` with megabytes under way returns at once; the peer reads all of them, and then the farewell."""
    one, other = pair
    sent = fill(one)
    one.close()
    with pytest.raises(BrokenPipeError):
        one.send([b"x"])
    assert receive(other, len(sent) + 1) == sent


# Intruders


@pytest.fixture
def welcome(credentials):
    """A listener that does with everybody who knocks what a node does; ``outcome()`` is the error of the first."""
    desk = Desk(credentials)
    yield desk
    desk.close()


class Desk:
    """Where those who knock are welcomed, one after the other."""

    def __init__(self, credentials, patience=PATIENCE):
        self.listener = TlsListener(credentials, ANYWHERE)
        self.address = self.listener.address
        self._patience = patience

    def welcome(self):
        """Return what a handshake of farcall with the next who knocks comes to: a hello, or the error."""
        assert is_ready(self.listener.fileno(), select.POLLIN, PATIENCE)
        transport = self.listener.accept()
        received = []
        original = transport.receive_into

        def receive_into(buffer):
            size = original(buffer)
            received.append(bytes(buffer[:size]))
            return size

        transport.receive_into = receive_into
        try:
            return perform(transport, listener_steps(TOKEN, HELLO), self._patience), b"".join(received)
        except AuthenticationError as error:
            return str(error), b"".join(received)
        finally:
            transport.close()

    def close(self):
        self.listener.close()


TOKEN = bytes(32)
HELLO = {"versions": {}}


def knock_with(context, address):
    """Do what a stranger does: connect, shake hands as far as one lets him, and say something."""
    with socket.create_connection(where_of(address), PATIENCE) as connection:
        try:
            with context.wrap_socket(connection) as secure:
                secure.sendall(b"let me in")
                secure.recv(1)
        except OSError:
            pass  # he is sent away


def make_stranger(certificate=None, key=None, directory=None, version=ssl.TLSVersion.TLSv1_3):
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    context.maximum_version = version
    if certificate is not None:
        paths = directory / "certificate.pem", directory / "key.pem"
        for path, text in zip(paths, (certificate, key), strict=True):
            path.write_text(text)
        context.load_cert_chain(*paths)
    return context


STRANGERS = {
    "no certificate": (lambda authority: (), "has none"),
    "self-signed": (lambda authority: sign_oneself(), "was not signed by our CA"),
    "of another CA": (lambda authority: Authority("another").issue(), "was not signed by our CA"),
    "of another CA with our CA's name": (
        lambda authority: Authority("CA of a test").issue(),
        "was not signed by our CA",
    ),
    "expired": (lambda authority: authority.issue(starts=-2, ends=-1), "has expired: issue a new one"),
    "not yet valid": (lambda authority: authority.issue(starts=1, ends=2), "is not valid yet: set the clocks"),
}


@pytest.mark.parametrize("who", STRANGERS)
def test_a_certificate_that_we_do_not_accept(welcome, authority, tmp_path, who):
    """Who has no certificate of ours that is valid now is refused, told so in words, and nothing of it is read."""
    make, said = STRANGERS[who]
    context = make_stranger(*make(authority), directory=tmp_path)
    outcome = []
    run_together(lambda: knock_with(context, welcome.address), lambda: outcome.append(welcome.welcome()))
    error, received = outcome[0]
    assert said in error
    assert received == b""


def test_an_older_protocol_is_refused(welcome, authority, tmp_path):
    """TLS 1.2 is refused, also with a good certificate."""
    context = make_stranger(*authority.issue(), directory=tmp_path, version=ssl.TLSVersion.TLSv1_2)
    outcome = []
    run_together(lambda: knock_with(context, welcome.address), lambda: outcome.append(welcome.welcome()))
    assert "does not speak TLS 1.3" in outcome[0][0]
    assert outcome[0][1] == b""


GARBAGE = {
    "plain farcall": (b"FARCALL1" + bytes(32), "does not speak TLS"),
    "HTTP": (b"GET / HTTP/1.1\r\nHost: x\r\n\r\n", "speaks HTTP"),
    "random bytes": (random.Random(1).randbytes(5000), "does not speak TLS"),
    "a hello that never ends": (b"\x16\x03\x01\x40\x00\x01\xff\xff\xff" + bytes(1 << 20), "TLS"),
    "an alert": (b"\x15\x03\x03\x00\x02\x02\x28", "TLS"),
}


@pytest.mark.parametrize("what", GARBAGE)
def test_who_does_not_speak_tls(welcome, what):
    """Other protocols and noise are refused at once, with what they are if that can be seen."""
    data, said = GARBAGE[what]

    def speak():
        with socket.create_connection(where_of(welcome.address), PATIENCE) as connection, contextlib.suppress(OSError):
            connection.sendall(data)
            connection.recv(1 << 16)

    outcome = []
    run_together(speak, lambda: outcome.append(welcome.welcome()))
    assert said in outcome[0][0]
    assert outcome[0][1] == b""


@pytest.mark.parametrize("part", ["nothing", "half a hello", "all but the last byte"])
def test_who_falls_silent_is_given_up_and_holds_nobody_up(credentials, part):
    """A peer that stops in the midst of the handshake is hung up on in time; meanwhile others come in."""
    hello = first_words(credentials)
    said = {"nothing": b"", "half a hello": hello[: len(hello) // 2], "all but the last byte": hello[:-1]}[part]
    with (
        nodes_over_tls(credentials, handshake_timeout=0.5) as listener,
        socket.create_connection(where_of(listener.address), PATIENCE) as connection,
    ):
        connection.sendall(said)
        assert fc.remotecall_fetch(2, divmod, 17, 5) == (3, 2)
        assert not is_ready(connection.fileno(), select.POLLIN)
        assert connection.recv(1) == b""


def test_accepting_does_not_wait(credentials):
    """``accept`` returns at once whatever the peer says, or does not say: it runs on the thread that reads."""
    listener = TlsListener(credentials, ANYWHERE)
    with contextlib.closing(listener), socket.create_connection(where_of(listener.address)):
        assert is_ready(listener.fileno(), select.POLLIN, PATIENCE)
        transport = listener.accept()
        with pytest.raises(BlockingIOError):
            transport.receive_into(memoryview(bytearray(100)))
        with pytest.raises(BlockingIOError):
            transport.send([b"nobody is there yet"])
        transport.close()


def first_words(credentials):
    """Return what a dialler says first."""
    outgoing = ssl.MemoryBIO()
    with pytest.raises(ssl.SSLWantReadError):
        credentials.dialling.wrap_bio(ssl.MemoryBIO(), outgoing).do_handshake()
    return outgoing.read()


def test_a_replayed_session_gets_nothing_through(credentials):
    """Who has recorded everything that a dialler said, and says it again, is not heard."""
    with Wire() as wire, connected(credentials, wire.lead) as (one, other):
        send_all(one, b"delete everything")
        assert receive(other, 17) == b"delete everything"
        recorded = bytes(wire.there)
    desk = Desk(credentials)

    def repeat():
        with socket.create_connection(where_of(desk.address), PATIENCE) as connection, contextlib.suppress(OSError):
            connection.sendall(recorded)
            while connection.recv(1 << 16):
                pass

    outcome = []
    run_together(repeat, lambda: outcome.append(desk.welcome()))
    desk.close()
    assert outcome[0][1] == b""
    assert "TLS" in outcome[0][0]


def test_a_dialler_refuses_a_listener_of_another_ca(credentials):
    """A dialler that trusts another CA says so, and tells the listener, who learns that it is not trusted."""
    desk = Desk(credentials)
    errors = []

    def dial_it():
        with pytest.raises(AuthenticationError, match=r"tls:.*was not signed by our CA \(given as text\): both sides"):
            dialler(Authority("another").credentials())(desk.address, PATIENCE)

    run_together(dial_it, lambda: errors.append(desk.welcome()))
    desk.close()
    assert "the peer does not trust the CA of our certificate" in errors[0][0]


def test_a_dialler_learns_that_its_certificate_was_refused(authority):
    """A dialler whose own certificate has expired is told so when the listener does not let it in."""
    desk = Desk(authority.credentials())

    def dial_it():
        transport = dialler(authority.credentials(starts=-2, ends=-1))(desk.address, PATIENCE)
        with pytest.raises(AuthenticationError, match=r"our certificate .* has expired: issue a new"):
            perform(transport, dialler_steps(TOKEN, HELLO), PATIENCE)

    run_together(dial_it, desk.welcome)
    desk.close()


@pytest.mark.parametrize("pause", [0.02, PATIENCE], ids=["says a byte now and then", "says nothing"])
def test_a_listener_that_does_not_answer_is_given_up(credentials, pause):
    """Dialling somebody who accepts and never answers is in time a TimeoutError that names the address."""
    done = threading.Event()
    with socket.create_server(("127.0.0.1", 0)) as server:
        address = f"tls:127.0.0.1:{server.getsockname()[1]}"

        def drip():
            with server.accept()[0] as connection, contextlib.suppress(OSError):
                for byte in b"\x16\x03\x03\x3f\xff\x02" + bytes(1000):
                    if done.wait(pause):
                        break
                    connection.send(bytes([byte]))

        thread = threading.Thread(target=drip)
        thread.start()
        started = time.monotonic()
        with pytest.raises(TimeoutError, match=f"cannot connect to {address}: the peer took too long"):
            dialler(credentials)(address, 0.2)
        assert time.monotonic() - started < 3
        done.set()
        thread.join()


def test_a_listener_that_hangs_up_is_an_error(credentials):
    """Dialling somebody who hangs up is an OSError that names the address."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        address = f"tls:127.0.0.1:{server.getsockname()[1]}"
        hanging_up = threading.Thread(target=lambda: server.accept()[0].close())
        hanging_up.start()
        with pytest.raises(OSError, match=f"cannot connect to {address}"):
            dialler(credentials)(address, PATIENCE)
        hanging_up.join()


# Addresses


def test_a_dialler_passes_other_addresses_on(credentials):
    """Unix and TCP addresses are dialled as without TLS."""
    with contextlib.closing(SocketListener()) as listener:
        transport = dialler(credentials)(listener.address, PATIENCE)
        assert isinstance(transport, SocketTransport)
        transport.close()


@pytest.mark.parametrize("address", ["tcp:127.0.0.1:0", "unix:@x", "tls:", "tls:host", "tls:127.0.0.1:http"])
def test_a_listener_wants_an_address_for_tls(credentials, address):
    """A listener takes addresses for TLS only, and says how to write them."""
    with pytest.raises(ValueError, match=r"write .*tls:host:port"):
        TlsListener(credentials, address)


def test_tls_is_never_dialled_in_plain_text():
    """``sockets.dial`` refuses an address for TLS."""
    with pytest.raises(ValueError, match="is no address"):
        dial("tls:127.0.0.1:1")


def test_a_listener_may_advertise_another_host(credentials):
    """The address that peers dial may name another host than the one that the socket is bound to."""
    with contextlib.closing(TlsListener(credentials, "tls:0.0.0.0:0", advertise="127.0.0.1")) as listener:
        assert listener.address.startswith("tls:127.0.0.1:")
        knock(listener.address, credentials).close()


# Credentials


def test_credentials_may_be_paths_or_texts(authority, tmp_path):
    """Each of the three may be a path or the text, and the key may be in the certificate's file."""
    paths = authority.write(tmp_path)
    texts = [Path(each).read_text() for each in paths]
    both = tmp_path / "both.pem"
    both.write_text(texts[1] + texts[2])
    for given in (paths, texts, [paths[0], *texts[1:]], [texts[0], paths[1], texts[2]], [texts[0], str(both)]):
        with connected(Credentials(*given)) as (one, other):
            send_all(one, b"hello")
            assert receive(other, 5) == b"hello"
    with connected(Credentials(texts[0], texts[1] + texts[2])):
        pass


def test_a_certificate_may_be_its_own_ca():
    """What Dask's ``Security.temporary`` makes for a whole cluster is good enough."""
    certificate, key = sign_oneself()
    with connected(Credentials(certificate, certificate, key)) as (one, other):
        send_all(one, b"hello")
        assert receive(other, 5) == b"hello"


def test_a_file_that_is_missing_is_named(authority, tmp_path):
    """A path where nothing is is an error that says which of the three it is, and the path."""
    paths = authority.write(tmp_path)
    for number, what in enumerate(("CA", "certificate", "key")):
        given = [*paths]
        given[number] = str(tmp_path / "missing")
        with pytest.raises(FileNotFoundError, match=rf"the {what} cannot be read: .*missing"):
            Credentials(*given)


def test_what_is_no_certificate_is_named(authority, tmp_path):
    """Files with the wrong content are named, with what should be in them."""
    ca, certificate, key = authority.write(tmp_path)
    empty = tmp_path / "empty.pem"
    empty.write_text("")
    with pytest.raises(ValueError, match=r"there is no certificate in the CA .*empty.pem: it begins with -----BEGIN"):
        Credentials(str(empty), certificate, key)
    with pytest.raises(ValueError, match=r"there is no certificate in the CA \(given as text\)"):
        Credentials("no\ncertificate\n", certificate, key)
    with pytest.raises(ValueError, match=r"there is no certificate in .*empty.pem"):
        Credentials(ca, str(empty), key)
    with pytest.raises(ValueError, match=r"does not hold a certificate and its key: name the key too"):
        Credentials(ca, certificate)


def test_a_key_of_another_certificate_is_named(authority, tmp_path):
    """A key that does not belong to the certificate is a ValueError that names both, and shows neither."""
    ca, certificate, _ = authority.write(tmp_path)
    _, other = authority.issue()
    with pytest.raises(ValueError, match=r"the key \(given as text\) belongs to another certificate than .*pem"):
        Credentials(ca, certificate, other)


def test_a_protected_key_is_refused(authority):
    """A key with a passphrase is a ValueError at once: nobody is asked for it on a terminal."""
    key = write_key(ec.generate_private_key(ec.SECP256R1()), passphrase=b"secret")
    certificate, _ = authority.issue()
    with pytest.raises(ValueError, match="protected by a passphrase"):
        Credentials(authority.certificate, certificate, key)


def test_credentials_do_not_show_the_key(authority, tmp_path):
    """The status line names files, and no text."""
    given = Credentials(authority.certificate, *authority.issue())
    assert repr(given) == "<Credentials: certificate (given as text), CA (given as text)>"
    ca, certificate, key = authority.write(tmp_path)
    assert repr(Credentials(ca, certificate, key)) == f"<Credentials: certificate {certificate}, CA {ca}>"


# Nodes


def test_calls_cross_tls(credentials):
    """Two nodes whose links are TLS call each other, with small and with large arguments."""
    data = bytearray(make_bytes(5 << 20, 3))
    with nodes_over_tls(credentials, shared_minimum=1 << 40):  # or the large ones would go through shared memory
        assert fc.remotecall_fetch(2, divmod, 17, 5) == (3, 2)
        assert fc.remotecall_fetch(2, bytes, pickle.PickleBuffer(data)) == data


@contextlib.contextmanager
def nodes_over_tls(credentials, **settings):
    """Be node 1, which can call node 2, and yield the listener of that."""
    listener = TlsListener(credentials, ANYWHERE)
    config, dial_securely = Config(**settings), dialler(credentials)
    nodes = [
        Node(1, TOKEN, config, dial=dial_securely),
        Node(2, TOKEN, config, dial=dial_securely, listeners=[listener]),
    ]
    nodes[0].peers.add(nodes[1].describe())
    token = current_call.set(Call(nodes[0], None, 0, WANT_NOTHING))
    try:
        yield listener
    finally:
        current_call.reset(token)
        for node in nodes:
            node.close()


# The wire between


class Wire:
    """Somebody between dialler and listener who listens, and may cut or change what goes there."""

    def __init__(self):
        self.there = bytearray()  # what the dialler has said
        self.back = bytearray()  # what the listener has
        self._server = socket.create_server(("127.0.0.1", 0))
        self._left = 1 << 62
        self._spoils = False
        self._threads = []
        self._sockets = []

    def lead(self, address):
        """Return the address that leads to another."""
        thread = threading.Thread(target=self._connect, args=[address])
        self._threads.append(thread)
        thread.start()
        return f"tls:127.0.0.1:{self._server.getsockname()[1]}"

    def cut_after(self, size):
        """Let so many more bytes through to the listener, and then end the connection."""
        self._left = size

    def spoil(self):
        """Change the last byte of whatever comes next."""
        self._spoils = True

    def _connect(self, address):
        dialler = self._server.accept()[0]
        listener = socket.create_connection(where_of(address))
        self._sockets += [dialler, listener]
        back = threading.Thread(target=self._carry, args=[listener, dialler, self.back])
        self._threads.append(back)
        back.start()
        self._carry(dialler, listener, self.there)

    def _carry(self, source, target, record):
        with contextlib.suppress(OSError):
            while data := source.recv(1 << 16):
                record += data
                if record is self.there:
                    data = data[:-1] + bytes([data[-1] ^ 1]) if self._spoils else data
                    data, self._left = data[: self._left], self._left - len(data)
                target.sendall(data)
                if self._left < 0:
                    break
            target.shutdown(socket.SHUT_WR)

    def __enter__(self):
        return self

    def __exit__(self, *error):
        for each in (*self._sockets, self._server):
            with contextlib.suppress(OSError):
                each.shutdown(socket.SHUT_RDWR)
            each.close()
        for each in self._threads:
            each.join(PATIENCE)
