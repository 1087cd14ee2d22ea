"""Secrets stay out of what is stored and printed: one function that every such text goes through."""

import re

# user:password@ of a URI. A password may hold any character, so it ends at the last @ before a space or a quote.
_USER = re.compile(r"(?<=://)[^\s/@:?#'\"<>]*(?::[^\s'\"<>]*)?@")
# ...?password=SECRET, as databases and object stores take it.
_QUERY = re.compile(r"([?&;][\w.-]*(?:password|passwd|pwd|secret|token|signature|key)=)[^&;\s'\"<>]+", re.IGNORECASE)


def redact(text: str) -> str:
    """``text`` without the user information and the passwords of the URIs in it.

    >>> redact("cannot reach postgresql://me:pa@ss@db/runs?sslpassword=x (timeout)")
    'cannot reach postgresql://db/runs?sslpassword=... (timeout)'
    """
    return _QUERY.sub(r"\1...", _USER.sub("", text))
