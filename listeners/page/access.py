"""Who may see the page: loopback without a token, everybody else with one; and never another site's script.

Browsers send requests for whatever site is open in them. Three checks keep those out: the Host header (a
foreign name that was made to point here), a header that only our own script can add, and the cookie's
SameSite.
"""

import hashlib
import hmac
import time
from http.cookies import SimpleCookie
from ipaddress import ip_address
from urllib.parse import urlsplit

from pydantic import SecretStr
from starlette.exceptions import HTTPException
from starlette.requests import Request

from dropflow.errors import SettingsError
from dropflow.settings import Settings
from listeners.callers import mark_authenticated

HEADER = "x-dropflow"
SIGNED_IN_SECONDS = 12 * 3600
CLOSED = (
    "This page is closed: it can be reached from other machines, and has no token. Set DROPFLOW_PAGE_TOKEN "
    "to a word of 16 characters or more, as `openssl rand -hex 24` gives it, and start the listener again."
)


class Access:
    """The checks, by the settings. Methods raise HTTPException for whoever may not."""

    def __init__(self, settings: Settings) -> None:
        """Raises SettingsError."""
        token, webhook = settings.page_token, settings.webhook_token
        if token and webhook and hmac.compare_digest(_bytes(token), _bytes(webhook)):
            raise SettingsError("DROPFLOW_PAGE_TOKEN must be another than DROPFLOW_WEBHOOK_TOKEN")
        self._token = _bytes(token) if token else None
        # Stretched, so that a cookie that leaks does not help to guess the token.
        self._key = hashlib.scrypt(self._token or b"", salt=b"dropflow page", n=2**14, r=8, p=1)
        self._url = urlsplit(settings.page_url or "")
        self._local = is_loopback(settings.webhook_host)
        self._names = {"localhost", "127.0.0.1", "::1", settings.webhook_host, self._url.hostname} - {None}
        self._secure = self._url.scheme == "https"
        self._cookie = "__Host-dropflow" if self._secure else "dropflow"

    @property
    def why_closed(self) -> str:
        """Why nobody may see the page; "" when somebody may."""
        # Behind a proxy everybody comes from loopback.
        return "" if self._token or (self._local and not self._url.hostname) else CLOSED

    def check_host(self, request: Request) -> None:
        """On loopback, only names of this machine: not one of a foreign site that resolves to it."""
        given = request.headers.getlist("host")
        if len(given) != 1 or (self._local and _name(given[0]) not in self._names):
            raise HTTPException(421, "This page has another address: see what `dropflow up` prints.")

    def check_own_script(self, request: Request) -> None:
        """Only our own script changes anything: others cannot add the header without being asked for it."""
        headers = request.headers
        origin, site = headers.get("origin"), headers.get("sec-fetch-site", "same-origin")
        here = {headers.get("host", ""), self._url.netloc}
        if (
            headers.get(HEADER) != "1"
            or site != "same-origin"
            or (origin is not None and urlsplit(origin).netloc not in here - {""})
        ):
            raise HTTPException(403, "Only the page itself may do this (X-Dropflow: 1).")

    def check_signed_in(self, request: Request) -> None:
        if not self._token:
            return
        if not self._valid(request.cookies.get(self._cookie, "")):
            raise HTTPException(401, "The page's token is asked for first.")
        mark_authenticated(request)

    @property
    def asks(self) -> bool:
        """Whether there is a token to sign in with."""
        return self._token is not None

    def cookie(self, token: str) -> str | None:
        """The Set-Cookie of who knows the token; None for who does not."""
        if not self._token or not hmac.compare_digest(token.encode(errors="replace"), self._token):
            return None
        expires = str(int(time.time()) + SIGNED_IN_SECONDS)
        return self._set_cookie(f"{expires}.{self._digest(expires)}", SIGNED_IN_SECONDS)

    def no_cookie(self) -> str:
        """The Set-Cookie that signs out."""
        return self._set_cookie("", 0)

    def _valid(self, cookie: str) -> bool:
        expires, _, digest = cookie.partition(".")
        right = hmac.compare_digest(digest.encode(errors="replace"), self._digest(expires).encode())
        return right and int(expires) > time.time()

    def _digest(self, expires: str) -> str:
        return hmac.new(self._key, expires.encode(errors="replace"), "sha256").hexdigest()

    def _set_cookie(self, value: str, seconds: int) -> str:
        made = SimpleCookie({self._cookie: value})[self._cookie]
        made.update({"path": "/", "max-age": str(seconds), "httponly": "1", "samesite": "Strict"})
        if self._secure:
            made["secure"] = "1"
        return made.OutputString()


def is_loopback(host: str) -> bool:
    try:
        return host == "localhost" or ip_address(host).is_loopback
    except ValueError:
        return False


def _name(host: str) -> str | None:
    """A Host header without its port."""
    try:
        return urlsplit(f"//{host}").hostname
    except ValueError:
        return None


def _bytes(secret: SecretStr) -> bytes:
    return secret.get_secret_value().encode()
