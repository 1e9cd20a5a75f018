"""One request for a file over HTTP, which no server sends on to anything but HTTP."""

from __future__ import annotations

import http.client
import urllib.error
import urllib.parse
import urllib.request
from typing import IO, Any


class _WebRedirects(urllib.request.HTTPRedirectHandler):
    """Follows a redirect to another web address; urllib itself follows one to FTP too."""

    def redirect_request(
        self,
        req: urllib.request.Request,
        fp: IO[bytes],
        code: int,
        msg: str,
        headers: http.client.HTTPMessage,
        newurl: str,
    ) -> urllib.request.Request | None:
        """What to ask for next; HTTPError for an address that is not of the web."""
        scheme = urllib.parse.urlsplit(newurl).scheme
        if scheme not in ("http", "https"):
            reason = f"{msg} - Redirection from HTTP to {scheme} is not allowed"
            raise urllib.error.HTTPError(req.full_url, code, reason, headers, fp)
        return super().redirect_request(req, fp, code, msg, headers, newurl)


def open_url(request: str | urllib.request.Request, timeout: float) -> Any:
    """The answer as a binary stream, as `urllib.request.urlopen` gives it.

    timeout : seconds that a server may be silent
    Raises urllib's errors, HTTPError among them for a redirect that leaves HTTP.
    """
    return urllib.request.build_opener(_WebRedirects).open(request, timeout=timeout)
