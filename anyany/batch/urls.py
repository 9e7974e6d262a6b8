"""Media by URL: off unless hosts are allowed by name, and then never into a private network.

A manifest may come from a stranger, and the machine that runs it may reach what the stranger
cannot. So: a list of allowed hosts, public addresses only, the address that was checked is the one
that is connected to, and every redirect starts over.
"""

from __future__ import annotations

import http.client
import ipaddress
import re
import socket
import ssl
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Final
from urllib.parse import SplitResult, urljoin, urlsplit

from anyany.batch.names import shown
from anyany.errors import AnyAnyError, MediaError, UsageError
from anyany.media import DEFAULT_LIMITS

MAX_REDIRECTS: Final = 3
TIMEOUT: Final = 20.0  # seconds for a connection, and without a byte
TOTAL: Final = 120.0  # seconds for a file

_HOST: Final = re.compile(
    r"(?=.{1,253}$)([a-z0-9_]([a-z0-9\-_]{0,61}[a-z0-9])?\.)+[a-z][a-z0-9\-]{1,62}"
)
_NUMBER: Final = re.compile(r"0x[0-9a-f]*|[0-9]+")
_REDIRECTS: Final = (301, 302, 303, 307, 308)
_TRANSIENT: Final = (408, 425, 429, 500, 502, 503, 504)
_PORTS: Final = {"https": 443, "http": 80}
_EMBEDDING: Final = (  # networks whose addresses carry another address inside
    *("64:ff9b::/96", "64:ff9b:1::/48", "2002::/16", "2001::/32", "::/96", "::ffff:0:0/96"),
)

Resolve = Callable[[str, int], Sequence[str]]
Connect = Callable[[str, str, int, bool], http.client.HTTPConnection]


class TransientError(AnyAnyError):
    """A network's mood: worth another try."""

    exit_code = 2


@dataclass(frozen=True)
class UrlRules:
    """Which hosts media may come from.

    Args:
        hosts: exact names; "*.example.com" for all below one. None at all = no URL is taken.
        max_bytes: of one file.
        resolve: (host, port) -> addresses.
        connect: (host, address, port, encrypted) -> a connection to that very address.
    """

    hosts: tuple[str, ...] = ()
    max_bytes: int = DEFAULT_LIMITS.file_bytes
    resolve: Resolve = field(default=lambda host, port: _resolve(host, port))
    connect: Connect = field(default=lambda *place: _connect(*place))

    def __post_init__(self) -> None:
        for host in self.hosts:
            if not _HOST.fullmatch(host.removeprefix("*.").lower()):
                raise UsageError(
                    "--allow-url: expected a host such as example.com or *.example.com; got "
                    f"{shown(host)}"
                )

    def check(self, url: str) -> str:
        """A URL that may be tried; nothing is resolved yet.

        Raises:
            UsageError: it may not.
        """
        _split(url, self.hosts)
        return url

    def fetch(self, url: str) -> bytes:
        """The bytes behind a URL.

        Raises:
            MediaError: it is refused, missing or too large.
            TransientError: the network failed; another try may succeed.
        """
        deadline = time.monotonic() + TOTAL
        for _ in range(MAX_REDIRECTS + 1):
            try:
                parts = _split(url, self.hosts)
            except UsageError as error:
                raise MediaError("refused", str(error)) from None
            answer = self._request(parts, deadline)
            if isinstance(answer, bytes):
                return answer
            url = urljoin(url, answer)
        raise MediaError("refused", f"{shown(url)}: more than {MAX_REDIRECTS} redirects")

    def _request(self, parts: SplitResult, deadline: float) -> bytes | str:
        """The bytes, or where a redirect points."""
        host, port = str(parts.hostname), parts.port or _PORTS[parts.scheme]
        address = self._address(host, port)
        connection = self.connect(host, address, port, parts.scheme == "https")
        try:
            target = (parts.path or "/") + (f"?{parts.query}" if parts.query else "")
            headers = {"User-Agent": "anyany", "Accept": "*/*", "Accept-Encoding": "identity"}
            connection.request("GET", target, headers=headers)
            response = connection.getresponse()
            if response.status in _REDIRECTS:
                return response.getheader("Location") or ""
            return self._body(response, host, deadline)
        except AnyAnyError:
            raise
        except (OSError, http.client.HTTPException, ValueError):
            raise TransientError(f"{host}: the connection failed") from None
        finally:
            connection.close()

    def _body(self, response: http.client.HTTPResponse, host: str, deadline: float) -> bytes:
        if response.status in _TRANSIENT:
            raise TransientError(f"{host}: it answered {response.status}")
        if response.status != 200:
            raise MediaError("missing", f"{host}: it answered {response.status}, not a file")
        data = bytearray()
        while block := response.read1(65_536):
            data += block
            if len(data) > self.max_bytes:
                raise MediaError("too_large", f"{host}: over the limit of {self.max_bytes:,} bytes")
            if time.monotonic() > deadline:
                raise TransientError(f"{host}: it took longer than {TOTAL:g} seconds")
        if not data:
            raise MediaError("empty", f"{host}: the file is empty (0 bytes)")
        return bytes(data)

    def _address(self, host: str, port: int) -> str:
        """One public address of the host; a host with a single private one is refused."""
        try:
            found = list(self.resolve(host, port))
        except OSError:
            raise TransientError(f"{host}: its address cannot be found") from None
        if not found:
            raise TransientError(f"{host}: it has no address")
        if not all(is_public(address) for address in found):
            raise MediaError("refused", f"{host}: it leads into a private network")
        return found[0]


def is_public(address: str) -> bool:
    """Whether an address belongs to the open internet, and hides no other address inside."""
    try:
        found = ipaddress.ip_address(address)
    except ValueError:  # with a zone, or no address at all
        return False
    if isinstance(found, ipaddress.IPv6Address):
        nets = (ipaddress.IPv6Network(net) for net in _EMBEDDING)
        if any(found in net for net in nets):
            return False
    return found.is_global and not found.is_multicast and not found.is_reserved


def _split(url: str, hosts: Sequence[str]) -> SplitResult:
    """The URL's parts, if its host is allowed by name.

    Raises:
        UsageError: the URL is refused.
    """
    reason = None
    if not hosts:
        raise UsageError(
            f"the URL {shown(url)} is not fetched: allow its host by --allow-url, or save the file"
        )
    if not url.isascii() or any(c.isspace() or not c.isprintable() or c == "\\" for c in url):
        reason = "it holds blanks, a backslash, or more than ASCII"
        raise UsageError(f"the URL {shown(url)} is refused: {reason}")
    try:
        parts = urlsplit(url)
        port = parts.port
    except ValueError:
        raise UsageError(f"the URL {shown(url)} is refused: it is malformed") from None
    host = (parts.hostname or "").lower()
    if parts.scheme not in _PORTS:
        reason = "only https: and http: are fetched"
    elif "@" in parts.netloc:
        reason = "it carries a user name"
    elif port not in (None, _PORTS[parts.scheme]):
        reason = "only the usual ports are used"
    elif _NUMBER.fullmatch(host.rstrip(".").rpartition(".")[2]) or not _HOST.fullmatch(host):
        reason = "it names an address, not a host"
    elif not any(_allows(pattern.lower(), host) for pattern in hosts):
        reason = f"{host} is not among the allowed hosts (--allow-url)"
    if reason is not None:
        raise UsageError(f"the URL {shown(url)} is refused: {reason}")
    return parts


def _allows(pattern: str, host: str) -> bool:
    return host.endswith(pattern[1:]) if pattern.startswith("*.") else host == pattern


def _resolve(host: str, port: int) -> list[str]:
    found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)
    return [str(entry[4][0]) for entry in found]


def _connect(host: str, address: str, port: int, encrypted: bool) -> http.client.HTTPConnection:
    """A connection to the address that was checked, under the host's name, past any proxy."""
    kind = _PinnedHttps if encrypted else _PinnedHttp
    return kind(host, address, port)


class _PinnedHttp(http.client.HTTPConnection):
    def __init__(self, host: str, address: str, port: int) -> None:
        super().__init__(host, port, timeout=TIMEOUT)
        self._address = address

    def connect(self) -> None:
        self.sock = socket.create_connection((self._address, self.port), TIMEOUT)


class _PinnedHttps(http.client.HTTPSConnection):
    def __init__(self, host: str, address: str, port: int) -> None:
        self._secure = ssl.create_default_context()
        super().__init__(host, port, timeout=TIMEOUT, context=self._secure)
        self._address = address

    def connect(self) -> None:
        plain = socket.create_connection((self._address, self.port), TIMEOUT)
        self.sock = self._secure.wrap_socket(plain, server_hostname=self.host)
