"""Images of Label Studio's tasks, fetched from Label Studio and from allowed hosts."""

from __future__ import annotations

import base64
import binascii
import json
import time
import urllib.error
import urllib.request
from collections.abc import Collection
from typing import Any
from urllib.parse import urlsplit

import numpy as np
from numpy.typing import NDArray

from dct_seg.data.images import decode_image

MAX_IMAGE = 64 * 2**20
SECONDS = 20.0
ACCESS_SECONDS = 240.0
"""Time in seconds after which the access token is renewed; Label Studio's expire after five minutes."""


class _Redirects(urllib.request.HTTPRedirectHandler):
    """Redirect handler for allowed hosts only; drops the token for any host but the first."""

    def __init__(self, hosts: Collection[str]) -> None:
        self._hosts = hosts

    def redirect_request(
        self, req: urllib.request.Request, fp: Any, code: int, msg: str, headers: Any, newurl: str
    ) -> urllib.request.Request | None:
        target = urlsplit(newurl)
        if target.scheme not in ("http", "https") or target.netloc not in self._hosts:
            raise ValueError(_unknown_host(target.netloc))
        request = super().redirect_request(req, fp, code, msg, headers, newurl)
        if request is not None and target.netloc != urlsplit(req.full_url).netloc:
            request.remove_header("Authorization")
        return request


class TaskImages:
    """Reader of task images.

    Args:
        url: Address of Label Studio, or "" if it serves no images.
        api_key: Legacy token or personal access token of Label Studio, or "".
        hosts: Additional allowed hosts, ``name`` or ``name:port``.

    Raises:
        ValueError: When ``url`` is not an address.
    """

    def __init__(self, url: str = "", api_key: str = "", hosts: Collection[str] = ()) -> None:
        parts = urlsplit(url)
        if url and (parts.scheme not in ("http", "https") or not parts.netloc):
            raise ValueError(
                f"LABEL_STUDIO_URL must be http://HOST:PORT, got '{url}'; set it to the full address"
            )
        self._url = url.rstrip("/")
        self._own_host = parts.netloc
        self._key = api_key
        self._hosts = {*hosts, *([parts.netloc] if parts.netloc else [])}
        self._opener = urllib.request.build_opener(_Redirects(self._hosts))
        self._access = ""
        self._access_until = 0.0

    def read(self, source: str) -> NDArray[np.uint8]:
        """Read an image, (H, W, 3), upright.

        Args:
            source: Path on Label Studio, an address, or a ``data:`` address.

        Raises:
            ValueError: When the source is not allowed or cannot be read; a one-line message.
        """
        return decode_image(self._bytes(source))

    def _bytes(self, source: str) -> bytes:
        scheme, _, rest = source.partition(":")
        if scheme == "data":
            try:
                return base64.b64decode(rest.partition("base64,")[2], validate=True)
            except (binascii.Error, ValueError) as error:
                raise ValueError(
                    f"the image's data: address must be base64 ({error}); encode the file again"
                ) from error
        if source.startswith("/"):
            if not self._url:
                raise ValueError(
                    f"the image {source[:100]} is stored in Label Studio; set LABEL_STUDIO_URL to its address"
                )
            return self._fetch(self._url + source)
        host = urlsplit(source).netloc
        if scheme not in ("http", "https"):
            raise ValueError(
                f"{source[:100]} cannot be read here; turn on pre-signed URLs in the storage's settings"
            )
        if host not in self._hosts:
            raise ValueError(_unknown_host(host))
        return self._fetch(source)

    def _fetch(self, url: str) -> bytes:
        request = urllib.request.Request(url)
        if self._key and urlsplit(url).netloc == self._own_host:
            request.add_header("Authorization", self._authorization())
        data = self._response_bytes(request, MAX_IMAGE + 1)
        if len(data) > MAX_IMAGE:
            raise ValueError(
                f"the image must be at most {MAX_IMAGE // 2**20} MiB, got more; use a smaller one"
            )
        return data

    def _authorization(self) -> str:
        """Make the header's value; exchange a personal access token for one valid for five minutes."""
        if self._key.count(".") != 2:  # not a JSON web token
            return f"Token {self._key}"
        if time.monotonic() >= self._access_until:
            request = urllib.request.Request(
                f"{self._url}/api/token/refresh",
                json.dumps({"refresh": self._key}).encode(),
                {"Content-Type": "application/json"},
            )
            try:
                self._access = str(json.loads(self._response_bytes(request, 2**16))["access"])
            except (ValueError, KeyError, TypeError) as error:
                raise ValueError(
                    f"Label Studio rejected LABEL_STUDIO_API_KEY ({error}); create a new token"
                ) from error
            self._access_until = time.monotonic() + ACCESS_SECONDS
        return f"Bearer {self._access}"

    def _response_bytes(self, request: urllib.request.Request, limit: int) -> bytes:
        try:
            with self._opener.open(request, timeout=SECONDS) as answer:
                data: bytes = answer.read(limit)
                return data
        except urllib.error.HTTPError as error:
            advice = (
                "; set LABEL_STUDIO_API_KEY to a token of an account with access to it"
                if error.code in (401, 403)
                else ""
            )
            raise ValueError(f"{request.full_url[:200]} returned status {error.code}{advice}") from error
        except OSError as error:
            raise ValueError(
                f"{request.full_url[:200]} cannot be fetched ({error}); check that it is reachable"
            ) from error


def _unknown_host(host: str) -> str:
    return f"images from '{host[:100]}' are not allowed; to allow them, start with --allow-host {host[:100]}"
