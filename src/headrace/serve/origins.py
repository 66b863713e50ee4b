"""Host, Origin and Sec-Fetch-Site headers -> may this client call the server, or is it a page of somebody else?

A browser lets any page send requests to any address; what it cannot do is lie about these headers. A page that made its
own name resolve to this machine (DNS rebinding) sends that name as Host; a page of another origin sends its Origin, and
Sec-Fetch-Site with every request.
"""

from __future__ import annotations

import ipaddress
import re
import socket
from collections.abc import Collection, Sequence

from headrace.serve.protocol import APIError

HOST = re.compile(r"(?P<name>\[[0-9A-Fa-f:.]+\]|[A-Za-z0-9_.-]+)(?::(?P<port>[0-9]{1,5}))?\Z")
DEFAULT_PORTS = {"http": 80, "https": 443}


class CrossOriginPolicy:
    """Which names and origins may call a server.

    Args:
        bound: the address that the server listens on.
        allow_hosts: further names, `*.DOMAIN`, or `*` for any.
        allow_origins: origins whose pages may call, or `*`.
    """

    def __init__(
        self, *, bound: str, allow_hosts: Collection[str] = (), allow_origins: Collection[str] = ()
    ) -> None:
        names = {host.lower().rstrip(".") for host in allow_hosts}
        self._any_host = "*" in names
        self._suffixes = tuple(name[1:] for name in names if name.startswith("*."))
        self._names = names | {"localhost", bound.lower()}
        self._public = not _is_loopback(bound)
        if self._public:  # reached from other machines: by its own name, or any of its addresses
            self._names |= {socket.gethostname().lower()}
        self._origins = {origin.rstrip("/").lower() for origin in allow_origins}

    def check(self, headers: Sequence[tuple[bytes, bytes]], *, http_version: str, open_path: bool) -> None:
        """Check the headers of a request.

        Args:
            headers: names in lower case.
            http_version: "1.0" needs no Host.
            open_path: the page itself, which a link on another page may open.

        Raises:
            APIError: 403, or 400 for a Host that is missing or given twice.
        """
        hosts = [value.decode("latin-1") for name, value in headers if name == b"host"]
        if len(hosts) > 1 or (not hosts and http_version != "1.0"):
            raise APIError(400, f"Expected one Host header, got {len(hosts)}.", code="invalid_host")
        host = hosts[0] if hosts else ""
        if hosts and not self.host_allowed(host):
            raise APIError(
                403,
                f"This server does not answer to the host {host[:100]!r}. Start it with --allow-host NAME.",
                code="host_not_allowed",
            )
        if open_path:
            return
        origins = [value.decode("latin-1") for name, value in headers if name == b"origin"]
        sites = [value for name, value in headers if name == b"sec-fetch-site"]
        if origins:
            foreign = any(not self._same_origin(origin, host) for origin in origins)
        else:
            foreign = any(site not in (b"same-origin", b"none") for site in sites)
        if foreign:
            raise APIError(
                403,
                f"A page of another origin ({(origins or ['unnamed'])[0][:100]!r}) may not call this server. "
                "Start it with --allow-origin ORIGIN.",
                code="origin_not_allowed",
            )

    def host_allowed(self, host: str) -> bool:
        """Whether a Host header names this server.

        >>> policy = CrossOriginPolicy(bound="127.0.0.1", allow_hosts=["*.example.com"])
        >>> [
        ...     policy.host_allowed(host)
        ...     for host in ("localhost:8000", "[::1]", "127.0.0.1", "a.example.com:1")
        ... ]
        [True, True, True, True]
        >>> [
        ...     policy.host_allowed(host)
        ...     for host in ("evil.example", "10.0.0.1", "example.com", "127.0.0.1.evil.example")
        ... ]
        [False, False, False, False]
        """
        if self._any_host:
            return True
        match = HOST.match(host)
        if match is None:
            return False
        name = match["name"].lower().rstrip(".").strip("[]")
        if name in self._names or name.endswith((".localhost", *self._suffixes)):
            return True
        try:
            address = ipaddress.ip_address(name)
        except ValueError:
            return False
        # An address is not a name that somebody else can point here.
        return address.is_loopback or self._public

    def _same_origin(self, origin: str, host: str) -> bool:
        origin = origin.lower()
        if "*" in self._origins or origin in self._origins:
            return True
        scheme, separator, netloc = origin.partition("://")
        if not separator or not host:
            return False
        return _with_port(netloc, scheme) == _with_port(host.lower(), scheme)


def _with_port(host: str, scheme: str) -> tuple[str, int | None]:
    match = HOST.match(host)
    if match is None:
        return host, None
    return match["name"], int(match["port"]) if match["port"] else DEFAULT_PORTS.get(scheme)


def _is_loopback(address: str) -> bool:
    try:
        return ipaddress.ip_address(address).is_loopback
    except ValueError:
        return address.lower() == "localhost"
