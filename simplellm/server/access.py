"""Who may use a server: its addresses, the API key, and the web pages that may call it.

Everybody on the machine can reach a loopback address, and so can every web page that a browser on
it shows: by DNS rebinding, where the name of the page's server gets the address 127.0.0.1, or by
requests to another origin. The headers `Host` and `Origin`, which pages cannot choose, tell them.
"""

from __future__ import annotations

import functools
import hmac
import ipaddress
import re
import socket
from collections.abc import Iterable
from dataclasses import dataclass, field
from urllib.parse import urlsplit

from simplellm.errors import SettingError

ANY = "*"
API_KEY = re.compile(r"[!-~]+")
HOST_NAME = re.compile(r"[A-Za-z0-9]([A-Za-z0-9._-]*[A-Za-z0-9])?\.?")
LOCAL_NAMES = ("localhost", "localhost.localdomain")


@dataclass(frozen=True)
class Access:
    """host: the address that the server listens on. allowed_hosts: further names of it.

    origins: web pages elsewhere that may call it, such as https://chat.example.org; `*` is any.
    """

    host: str = "127.0.0.1"
    api_key: str | None = field(default=None, repr=False)
    allowed_hosts: tuple[str, ...] = ()
    origins: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        if self.api_key is not None and not API_KEY.fullmatch(self.api_key):
            raise SettingError(
                "an API key is one word of printable ASCII characters, got something else",
                fix="use letters and digits, such as the output of: openssl rand -hex 32",
            )
        for host in self.allowed_hosts:
            if not HOST_NAME.fullmatch(host) and not _is_address(host):
                raise SettingError(
                    f"--allow-host is a host name without a port, got {host!r}",
                    fix="--allow-host chat.example.org",
                )
        for origin in self.origins:
            _check_origin(origin)
        if ANY in self.origins and self.api_key is None:
            raise SettingError(
                "--cors-origin '*' lets every web page use the model, got no API key",
                fix="name the pages, or set --api-key",
            )

    def check_exposure(self, addresses: Iterable[str], variable: str) -> None:
        """SettingError if others can reach one of `addresses`, and there is no API key.

        variable: the environment variable that can set it.
        """
        if self.api_key is None and not all(map(is_loopback, addresses)):
            raise SettingError(
                f"--host {self.host} is reachable from other machines and needs an API key",
                fix=f"set --api-key or {variable}, or use --host 127.0.0.1",
            )

    def allows_key(self, given: str | None) -> bool:
        """Whether the key of a request is right; the time does not tell how much of it is."""
        if self.api_key is None:
            return True
        return hmac.compare_digest((given or "").encode(), self.api_key.encode())

    def allows_host(self, header: str) -> bool:
        """Whether a request was sent to a name of this server, by its header `Host`.

        An address is always one: only names can be given to another address.
        """
        name = host_name(header)
        if name is None:
            return False
        return name in self._names or name.endswith(".localhost") or _is_address(name)

    @functools.cached_property
    def _names(self) -> frozenset[str]:
        """The names of the server, in lower case."""
        names = [*LOCAL_NAMES, self.host, *self.allowed_hosts]
        if not is_loopback(self.host):
            names.append(socket.gethostname())
        return frozenset(name.lower().rstrip(".") for name in names)

    def names_origin(self, origin: str) -> bool:
        """Whether the pages of `origin` were named as ones that may call the server."""
        return bool(origin) and (
            ANY in self.origins or origin.lower() in map(str.lower, self.origins)
        )

    def allows_origin(self, origin: str, host: str) -> bool:
        """Whether a page of `origin` may call the server that it calls by the header `host`."""
        if self.names_origin(origin):
            return True
        scheme, separator, place = origin.lower().partition("://")
        return bool(separator) and scheme in ("http", "https") and place == host.lower()


def host_name(header: str) -> str | None:
    """The name or address in a header `Host`, in lower case; None where there is none."""
    found = re.fullmatch(r"(?:\[([0-9A-Fa-f:.]+)\]|([^:\[\]/@\s]+))(?::[0-9]{1,5})?", header)
    return (found[1] or found[2]).lower().rstrip(".") if found else None


def is_loopback(host: str) -> bool:
    """Whether only this machine can reach an address."""
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host.lower() in LOCAL_NAMES


def _is_address(text: str) -> bool:
    try:
        ipaddress.ip_address(text)
    except ValueError:
        return False
    return True


def _check_origin(origin: str) -> None:
    if origin == ANY:
        return
    try:
        parts = urlsplit(origin)
        is_origin = parts.scheme in ("http", "https") and bool(parts.hostname)
        is_origin = is_origin and origin.lower() == f"{parts.scheme}://{parts.netloc}".lower()
    except ValueError:
        is_origin = False
    if not is_origin or "@" in origin or not origin.isascii():
        raise SettingError(
            f"--cors-origin is an origin without a path, got {origin!r}",
            fix="--cors-origin https://chat.example.org",
        )
