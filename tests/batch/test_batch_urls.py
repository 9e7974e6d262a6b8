"""URLs: nothing without an allowed host, and never a private address, whoever leads there."""

from __future__ import annotations

import http.client
import io
import socket
import threading
from collections.abc import Iterator
from typing import Any, Final

import pytest

from anyany.batch.urls import TransientError, UrlRules, is_public
from anyany.errors import MediaError, UsageError

REFUSED: Final = (
    "http://127.0.0.1/a.png",
    "http://127.1/a.png",
    "http://0/a.png",
    "http://2130706433/a.png",
    "http://0x7f000001/a.png",
    "http://0177.0.0.1/a.png",
    "http://[::]/a.png",
    "http://[::1]/a.png",
    "http://[::ffff:127.0.0.1]/a.png",
    "http://169.254.169.254/latest/meta-data",
    "http://localhost/a.png",
    "http://good.example@127.0.0.1/a.png",
    "http://user:word@good.example/a.png",
    "http://good.example:22/a.png",
    "http://good.example\\@evil.example/a.png",
    "http://good.example.evil.example/a.png",
    "http://evil.example/a.png",
    "file:///etc/passwd",
    "gopher://good.example/a",
    "ftp://good.example/a.png",
    "http://good.example。evil.example/a.png",
    "http://good.example/a b.png",
    "http://good.example:99999/a.png",
    "javascript:alert(1)",
    "//good.example/a.png",
)
PRIVATE: Final = (
    *("127.0.0.1", "10.0.0.1", "172.16.0.1", "192.168.1.1", "169.254.169.254", "0.0.0.0"),
    *("100.64.0.1", "224.0.0.1", "255.255.255.255", "::1", "::", "fe80::1", "fc00::1"),
    *("::ffff:127.0.0.1", "64:ff9b::7f00:1", "2002:7f00:1::", "2001::1", "ff02::1", "nonsense"),
    *("fe80::1%eth0", "192.0.2.1", "198.18.0.1"),
)


class Answers:
    """A connection that says what it is told to, and notes what it was asked."""

    def __init__(self, *answers: bytes) -> None:
        self.answers = list(answers)
        self.asked: list[tuple[str, str, int, bool]] = []

    def connect(self, host: str, address: str, port: int, encrypted: bool) -> Any:
        self.asked.append((host, address, port, encrypted))
        return _Connection(self.answers.pop(0))


class _Connection(http.client.HTTPConnection):
    def __init__(self, answer: bytes) -> None:
        super().__init__("nowhere.invalid")
        self._answer = answer
        self.sock = self  # type: ignore[assignment]

    def sendall(self, data: bytes) -> None:
        assert data.startswith(b"GET ")

    def makefile(self, *_: Any, **__: Any) -> io.BytesIO:
        return io.BytesIO(self._answer)

    def close(self) -> None:
        return


def rules(answers: Answers, *addresses: str, **more: Any) -> UrlRules:
    def resolve(host: str, port: int) -> list[str]:
        return list(addresses or ("93.184.216.34",))

    return UrlRules(
        ("good.example", "*.cdn.example"), resolve=resolve, connect=answers.connect, **more
    )


def ok(body: bytes) -> bytes:
    return b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n" % len(body) + body


@pytest.mark.parametrize("url", REFUSED)
def test_refused_before_anything_is_asked(url: str) -> None:
    answers = Answers()
    with pytest.raises(UsageError):
        rules(answers).check(url)
    with pytest.raises(MediaError) as caught:
        rules(answers).fetch(url)
    assert caught.value.code == "refused"
    assert answers.asked == []


def test_no_host_is_allowed_unless_named() -> None:
    with pytest.raises(UsageError, match="--allow-url"):
        UrlRules().check("https://good.example/a.png")
    with pytest.raises(UsageError, match=r"expected a host such as example\.com"):
        UrlRules(("https://good.example",))


@pytest.mark.parametrize("address", PRIVATE)
def test_private_addresses_are_never_connected_to(address: str) -> None:
    assert not is_public(address)
    answers = Answers(ok(b"secret"))
    with pytest.raises(MediaError, match="private network"):
        rules(answers, "93.184.216.34", address).fetch("http://good.example/a.png")
    assert answers.asked == []


def test_the_checked_address_is_the_one_that_is_used() -> None:
    answers = Answers(ok(b"data"))
    calls: list[str] = []

    def rebinding(host: str, port: int) -> list[str]:
        calls.append(host)
        return ["93.184.216.34"] if len(calls) == 1 else ["127.0.0.1"]

    rule = UrlRules(("good.example",), resolve=rebinding, connect=answers.connect)
    assert rule.fetch("https://good.example/a.png?x=1") == b"data"
    assert answers.asked == [("good.example", "93.184.216.34", 443, True)]
    assert calls == ["good.example"]


def test_every_redirect_starts_over() -> None:
    to = b"HTTP/1.1 302 Found\r\nLocation: %s\r\nContent-Length: 0\r\n\r\n"
    answers = Answers(to % b"https://a.cdn.example/b.png", ok(b"data"))
    assert rules(answers).fetch("http://good.example/a.png") == b"data"
    assert [asked[0] for asked in answers.asked] == ["good.example", "a.cdn.example"]
    for place in (b"http://127.0.0.1/", b"file:///etc/passwd", b"http://evil.example/"):
        answers = Answers(to % place, ok(b"secret"))
        with pytest.raises(MediaError) as caught:
            rules(answers).fetch("http://good.example/a.png")
        assert caught.value.code == "refused"
        assert len(answers.asked) == 1
    answers = Answers(*[to % b"/again"] * 9)
    with pytest.raises(MediaError, match="redirects"):
        rules(answers).fetch("http://good.example/a.png")


def test_what_comes_is_counted() -> None:
    with pytest.raises(MediaError) as caught:
        rules(Answers(ok(b"x" * 11)), max_bytes=10).fetch("http://good.example/a")
    assert caught.value.code == "too_large"
    with pytest.raises(MediaError) as caught:
        rules(Answers(ok(b""))).fetch("http://good.example/a")
    assert caught.value.code == "empty"
    with pytest.raises(MediaError) as caught:
        rules(Answers(b"HTTP/1.1 404 No\r\n\r\n")).fetch("http://good.example/a")
    assert caught.value.code == "missing"


def test_moods_of_the_network_are_transient() -> None:
    for answer in (b"HTTP/1.1 503 Busy\r\n\r\n", b"nonsense\r\n\r\n"):
        with pytest.raises(TransientError):
            rules(Answers(answer)).fetch("http://good.example/a")

    def nowhere(host: str, port: int) -> list[str]:
        raise socket.gaierror

    with pytest.raises(TransientError, match="cannot be found"):
        UrlRules(("good.example",), resolve=nowhere).fetch("http://good.example/a")


@pytest.fixture
def canary() -> Iterator[tuple[int, list[int]]]:
    """A listener on this machine; whoever connects is counted."""
    hits: list[int] = []
    with socket.create_server(("127.0.0.1", 0)) as server:
        server.settimeout(0.2)

        def listen() -> None:
            try:
                while True:
                    connection, _ = server.accept()
                    hits.append(1)
                    connection.close()
            except (TimeoutError, OSError):
                return

        thread = threading.Thread(target=listen)
        thread.start()
        yield server.getsockname()[1], hits
        thread.join()


def test_a_name_that_leads_home_is_not_followed(canary: tuple[int, list[int]]) -> None:
    port, hits = canary

    def home(host: str, asked: int) -> list[str]:
        return ["127.0.0.1"]

    with pytest.raises(MediaError, match="private network"):
        UrlRules(("good.example",), resolve=home).fetch("http://good.example/a")
    for host in ("127.0.0.1", "localhost", "127.1", "[::1]"):
        with pytest.raises(MediaError):
            UrlRules(("good.example",)).fetch(f"http://{host}:{port}/a")
    assert hits == []
