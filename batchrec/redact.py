"""Secrets taken out of whatever is about to be written: log lines, errors, manifest, report.

Where it is not certain what is secret, more is taken out rather than less.
"""

from __future__ import annotations

import json
import os
import re
from typing import Any
from urllib.parse import quote

MASK = "***"

_SHORTEST_VALUE = 8
"""Shorter values of environment variables occur in text by chance."""

_NAMES = r"""
    (?: passw(?:or)?d | passphrase | secret | token | credentials? | signature
      | (?:access|account|api|encryption|private|secret|shared|signing)[_\-.]?key (?:[_\-.]?id)?
      | (?<![a-z]) (?:sig | pwd(?!\s*=\s*/)) )
"""
"""How the names of secrets end. PWD with a path is the working directory."""

_PAIR = re.compile(
    rf"""
    (?P<name> {_NAMES} )
    (?P<between> (?:\\*["'])? [ \t]* (?: =(?!=[ \t]) | :(?![:/]{{2}}|:) ) [ \t]* )
    (?P<value>
        (?P<escaped> \\+["'] ) .*? (?P=escaped)
      | " (?: [^"\\] | \\. | "" )* "
      | ' (?: [^'\\] | \\. | '' )* '
      | ["'] [^\n]*
      | (?! [\[{{] | (?:null|none|true|false) (?![^\s,;)\]}}]) )
        (?:
            [^\s,;&"')\]}}\\]
          # Not the end: an end is a sign that another pair, a space or nothing follows.
          | [,;&] (?! \s | $ | [\w.\-]+[=:] )
          | [)\]}}"'\\] (?! ["')\]}}\\,;.]{{0,8}} (?: \s | $ ) | [)\]}}"']{{0,8}} [,;&] [\s"'\w] )
        )+
    )
    """,
    re.VERBOSE | re.IGNORECASE | re.DOTALL,
)
"""``password=…``, ``"token": "…"``, ``secret: …``: a name, a sign, and a value to its end, quoted or not."""

_LINE = re.compile(
    rf"""^ (?P<before> [ \t]* (?:-[ \t]+)? [\w.\-]* {_NAMES} : [ \t]+ ) (?P<value> [^\s"'\[{{] [^\n]* ) $""",
    re.VERBOSE | re.IGNORECASE | re.MULTILINE,
)
"""A line of YAML: a value without quotes goes to the end of the line."""

_AUTHORIZATION = re.compile(
    r"(authorization\W{1,6}(?:basic|bearer|digest|aws4-hmac-sha256)\s+)[^\"'\r\n]+", re.IGNORECASE
)
_NAME = re.compile(rf"{_NAMES} $", re.VERBOSE | re.IGNORECASE)
_SECRET_VARIABLE = re.compile(r"SECRET|PASSWORD|TOKEN|_KEY$", re.IGNORECASE)
_BARE_PAIR = re.compile(r"""(?<![\w@./:\-]) [^\s"'<>`/@:,;=(){}\[\]]+ : [^\s"'<>`/@]+ @ (?=[\w.\-])""", re.VERBOSE)
"""A key and a secret before a host or a bucket, whose URL a library has taken apart for its message."""

_END_OF_QUOTE = re.compile(r"""["'<>`] (?= [)\]},:;.\\]{0,8} (?: ["'<>`] | $ ) )""", re.VERBOSE)
"""A quote that ends something: another stands behind it, or nothing. A password may hold one in its middle."""

_CONTAINER_SCHEMES = ("abfs", "abfss", "wasb", "wasbs")
"""What stands before the @ of these is a place, such as ``abfss://container@account``."""


def redact(text: str) -> str:
    """Replace every secret in a text by ``***``.

    Secrets are: user information in URLs (up to the last @ of the word, since passwords may hold any character), and
    without a scheme where it has a colon; values of pairs whose name ends in password, secret, token, access_key and
    the like, in URLs, connection strings, JSON, YAML, TOML and Python; what follows an Authorization header's scheme;
    and the values, of at least 8 characters, of environment variables whose name contains SECRET, PASSWORD or TOKEN or
    ends in _KEY, also as written in JSON or in a URL. All else stays as it is.
    """
    for value in _values_in_environment():
        text = text.replace(value, MASK)
    text = _without_user_information(text)
    text = _AUTHORIZATION.sub(rf"\1{MASK}", text)
    text = _LINE.sub(rf"\g<before>{MASK}", text)
    text = _PAIR.sub(_masked_pair, text)
    return _BARE_PAIR.sub(f"{MASK}@", text)


def redact_value(value: Any) -> Any:
    """Redact every text inside dictionaries, lists and tuples; under a secret's name, whatever stands there.

    Returns
    -------
    Any
        Values of the same kinds in new containers; null, true, false and empty texts are no secrets.
    """
    if isinstance(value, str):
        return redact(value)
    if isinstance(value, dict):
        return {_key(name): _named(name, inner) for name, inner in value.items()}
    if isinstance(value, (list, tuple)):
        return type(value)(map(redact_value, value))
    return value


def _key(name: Any) -> Any:
    return redact(name) if isinstance(name, str) else name


def _named(name: Any, value: Any) -> Any:
    is_secret = isinstance(name, str) and _NAME.search(name) and value is not None and not isinstance(value, bool)
    return MASK if is_secret and value != "" else redact_value(value)


def _masked_pair(match: re.Match[str]) -> str:
    value = match["value"]
    mark = match["escaped"] or (value[0] if len(value) > 1 and value[0] == value[-1] and value[0] in "\"'" else "")
    return f"{match['name']}{match['between']}{mark}{MASK}{mark}"


def _values_in_environment() -> list[str]:
    """Secret values and the forms they take in JSON and in URLs, the longest first: one may be part of another."""
    values = {
        value for name, value in os.environ.items() if _SECRET_VARIABLE.search(name) and len(value) >= _SHORTEST_VALUE
    }
    written = {form for value in values for form in (value, json.dumps(value)[1:-1], quote(value, safe=""))}
    return sorted(written, key=len, reverse=True)


def _without_user_information(text: str) -> str:
    pieces = text.split("://")
    for place in range(1, len(pieces)):
        end = _end_of_user_information(pieces[place], scheme=pieces[place - 1])
        if end:
            pieces[place] = MASK + pieces[place][end:]
    return "://".join(pieces)


def _end_of_user_information(piece: str, scheme: str) -> int:
    """Return where the @ stands that ends a URL's user information, 0 where there is none.

    Parameters
    ----------
    piece
        What follows ``://``.
    scheme
        What stands before it.
    """
    word = piece.split(maxsplit=1)[0] if piece and not piece[0].isspace() else ""
    unquoted = _END_OF_QUOTE.split(word, maxsplit=1)[0]
    authority = re.split("[/?#]", unquoted, maxsplit=1)[0]
    host, colon, port = authority.partition(":")
    if "@" in authority:
        is_place = not colon and scheme.lower().endswith(_CONTAINER_SCHEMES)
        return 0 if is_place else unquoted.rfind("@")
    if not colon:
        return 0
    # No @ yet, so what follows the colon is a port, or the start of a password that holds /, ?, # or a quote.
    is_port = bool(host) and port.isdecimal()
    if "@" in unquoted:
        return 0 if is_port and scheme.lower().endswith(("http", "https")) else unquoted.rfind("@")
    return 0 if is_port else max(word.rfind("@"), 0)
