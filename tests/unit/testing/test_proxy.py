"""The fault proxy, before a server that answers each line with its length and writes down what it was asked."""

from __future__ import annotations

import contextlib
import socket
import socketserver
import threading
import time
from collections.abc import Callable, Iterator

import pytest

from klingai_audit.errors import UsageError
from klingai_audit.testing.proxy import Cut, Delay, Duplicate, FaultProxy, Repeat


class Lines(socketserver.ThreadingTCPServer):
    """Answers a line with `<its length>\\n`, or with as many bytes as `big <n>` asks for; `asked` are whole lines."""

    daemon_threads = True

    def __init__(self) -> None:
        self.asked: list[bytes] = []
        self.ended: list[bytes] = []
        super().__init__(("127.0.0.1", 0), Answering)


class Answering(socketserver.StreamRequestHandler):
    def handle(self) -> None:
        assert isinstance(self.server, Lines)
        for line in self.rfile:
            if not line.endswith(b"\n"):
                self.server.ended.append(line)
                return
            self.server.asked.append(line[:-1])
            word, _, count = line[:-1].partition(b" ")
            self.wfile.write(bytes(int(count)) if word == b"big" else b"%d\n" % (len(line) - 1))


@pytest.fixture
def server() -> Iterator[Lines]:
    with Lines() as made:
        threading.Thread(target=made.serve_forever, args=(0.01,), daemon=True).start()
        yield made
        made.shutdown()


@pytest.fixture
def proxy(server: Lines) -> Iterator[FaultProxy]:
    with FaultProxy("127.0.0.1", server.server_address[1]) as made:
        yield made


@contextlib.contextmanager
def client(proxy: FaultProxy) -> Iterator[socket.socket]:
    with socket.create_connection(("127.0.0.1", proxy.port), timeout=30) as made:
        yield made


def ask(connection: socket.socket, line: bytes) -> bytes:
    """Send a line and return the answer's line; what came of it, if the connection ended."""
    connection.sendall(line + b"\n")
    return hear(connection)


def hear(connection: socket.socket) -> bytes:
    answer = b""
    while not answer.endswith(b"\n"):
        data = connection.recv(1000)
        if not data:
            break
        answer += data
    return answer


def read(connection: socket.socket, count: int) -> bytes:
    """Return the next `count` bytes."""
    answer = b""
    while len(answer) < count:
        data = connection.recv(count - len(answer))
        assert data, answer
        answer += data
    return answer


def until(true: Callable[[], bool]) -> None:
    """Wait for something that happens in another thread."""
    limit = time.monotonic() + 30
    while not true():
        assert time.monotonic() < limit
        time.sleep(0.002)


def test_without_faults_everything_goes_through(server: Lines, proxy: FaultProxy) -> None:
    """Both directions, connection by connection, counted."""
    with client(proxy) as one, client(proxy) as two:
        assert [b"3\n", b"5\n"] == [ask(one, b"abc"), ask(two, b"abcde")]
        assert (10, 4, 2) == (proxy.traffic.up, proxy.traffic.down, proxy.traffic.connections)
        with proxy.watched() as traffic:
            ask(one, b"x" * 9)
        assert (10, 2, 0) == (traffic.up, traffic.down, traffic.connections)
    assert [b"abc", b"abcde", b"x" * 9] == server.asked


@pytest.mark.parametrize("at", [0, 1, 5, 9])
def test_a_request_is_cut_at_any_byte(server: Lines, proxy: FaultProxy, at: int) -> None:
    """Exactly so many bytes reach the server, and the client's connection is reset."""
    with client(proxy) as connection:
        ask(connection, b"one")
        proxy.arm(Cut("up", at))
        with pytest.raises(ConnectionResetError):
            ask(connection, b"123456789")
    until(lambda: [b"123456789"[:at]] == server.ended or (at == 0 and not server.ended))
    assert [b"one"] == server.asked
    assert (Cut("up", at),) == proxy.fired
    assert at == proxy.traffic.up


def test_a_request_is_cut_behind_its_last_byte(server: Lines, proxy: FaultProxy) -> None:
    """The server has all of it and does it; the client hears nothing."""
    with client(proxy) as connection:
        proxy.arm(Cut("up", 4))
        with pytest.raises(ConnectionResetError):
            ask(connection, b"one")
    until(lambda: [b"one"] == server.asked)


@pytest.mark.parametrize("at", [0, 1])
def test_an_answer_is_cut_at_any_byte(server: Lines, proxy: FaultProxy, at: int) -> None:
    """The server has done what it was asked before the cut; so many bytes of its answer arrive."""
    with client(proxy) as connection:
        proxy.arm(Cut("down", at, reset=False))
        assert b"3\n"[:at] == ask(connection, b"one")
        assert [b"one"] == server.asked


def test_each_fault_happens_once(server: Lines, proxy: FaultProxy) -> None:
    """After the cut a new connection works, until the next fault is due."""
    proxy.arm(Cut("down", 0), Cut("down", 2))
    with client(proxy) as connection, pytest.raises(ConnectionResetError):
        ask(connection, b"one")
    with client(proxy) as connection:
        assert b"3\n" == ask(connection, b"two")
    assert 2 == len(proxy.fired)
    with client(proxy) as connection:
        assert b"5\n" == ask(connection, b"three")


def test_a_delay_holds_what_follows_back(server: Lines, proxy: FaultProxy) -> None:
    """What comes before the chosen byte has arrived, what follows comes later."""
    with client(proxy) as connection:
        proxy.arm(Delay("down", 1, 0.1))
        begun = time.monotonic()
        assert b"3\n" == ask(connection, b"one")
        assert time.monotonic() - begun >= 0.1
        proxy.arm(Delay("down", 1, 600))
        connection.sendall(b"one\n")
        assert b"3" == connection.recv(100)


def test_bytes_are_duplicated(server: Lines, proxy: FaultProxy) -> None:
    """The chosen run arrives twice, in both directions; a run ends where the other side begins."""
    with client(proxy) as connection:
        proxy.arm(Duplicate("up", 4, 4))
        connection.sendall(b"one\ntwo\nsix\n")
        until(lambda: len(server.asked) == 4)
        assert [b"one", b"two", b"two", b"six"] == server.asked
        assert b"3\n" * 4 == read(connection, 8)
        proxy.arm(Duplicate("down", 0, 1))
        assert b"33\n" == ask(connection, b"one")
        proxy.arm(Duplicate("up", 0, 1000))
        connection.sendall(b"twelve\n")
        assert b"6\n6\n" == read(connection, 4)
    assert [b"twelve", b"twelve"] == server.asked[-2:]


def test_a_request_is_repeated(server: Lines, proxy: FaultProxy) -> None:
    """The server does it twice, on two connections, and the client gets one answer; later requests go once."""
    with client(proxy) as connection:
        ask(connection, b"one")
        proxy.arm(Repeat())
        assert b"4\n" == ask(connection, b"four")
        assert b"5\n" == ask(connection, b"fifth")
    assert [b"one", b"four", b"four", b"fifth"] == server.asked


def test_connections_are_refused_and_admitted_again(server: Lines, proxy: FaultProxy) -> None:
    """Open ones are reset, new ones as soon as they are made."""
    with client(proxy) as connection:
        ask(connection, b"one")
        proxy.refuse()
        with pytest.raises(ConnectionResetError):
            hear(connection)
        with pytest.raises((ConnectionResetError, BrokenPipeError)), client(proxy) as another:
            ask(another, b"two")
        proxy.admit()
    with client(proxy) as connection:
        assert b"5\n" == ask(connection, b"three")
    assert [b"one", b"three"] == server.asked


def test_a_server_that_is_down_looks_like_one(server: Lines, proxy: FaultProxy) -> None:
    """Where nothing listens, connections are reset; the proxy's own port stays."""
    with client(proxy) as connection:
        ask(connection, b"one")  # its thread serves
    server.server_close()
    with pytest.raises((ConnectionResetError, BrokenPipeError)), client(proxy) as connection:
        ask(connection, b"one")


def test_much_goes_through_both_ways_at_once(server: Lines, proxy: FaultProxy) -> None:
    """A client that does not listen while it speaks blocks nobody for good."""
    count, size = 40, 300_000
    with client(proxy) as connection:
        speaker = threading.Thread(target=lambda: connection.sendall((b"x" * size + b"\nbig %d\n" % size) * count))
        speaker.start()
        left = count * (size + len(b"%d\n" % size))
        until(lambda: proxy.traffic.down > 0)
        while left:
            left -= len(connection.recv(1 << 20))
        speaker.join()
    assert 2 * count == len(server.asked)


def test_offsets_are_not_negative(proxy: FaultProxy) -> None:
    """A fault that could never happen is a mistake of the test."""
    for fault in (Cut("up", -1), Delay("up", 0, -1.0), Duplicate("down", 0, -1)):
        with pytest.raises(UsageError):
            proxy.arm(fault)


def test_after_close_nobody_listens(server: Lines) -> None:
    """Open connections end and the port is free."""
    proxy = FaultProxy("127.0.0.1", server.server_address[1])
    with client(proxy) as connection:
        ask(connection, b"one")
        proxy.close()
        with pytest.raises(ConnectionResetError):
            hear(connection)
    with pytest.raises(ConnectionRefusedError):
        socket.create_connection(("127.0.0.1", proxy.port), timeout=30)
