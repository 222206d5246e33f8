"""No secret that is planted survives; a text without one stays as it is."""

from __future__ import annotations

import json
import os
import re
import time
from unittest.mock import patch
from urllib.parse import quote

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from batchrec.redact import redact, redact_value


@pytest.fixture(autouse=True, scope="module")
def no_secrets_in_the_environment():
    with patch.dict(os.environ, clear=True):
        yield


URLS = [
    ("s3://key:secret1@bucket/a/b.parquet", "s3://***@bucket/a/b.parquet"),
    ("open s3://key@bucket, then go on", "open s3://***@bucket, then go on"),
    ("redis://:pw@host:6379/0", "redis://***@host:6379/0"),
    ("redis://user:p/w?#x@host:6379", "redis://***@host:6379"),
    ("redis://:a@b@host", "redis://***@host"),
    ("redis://:12/34@host", "redis://***@host"),
    ("redis://:p\"w'<`@host", "redis://***@host"),
    ("postgresql+psycopg://u:p@db:5432/feast", "postgresql+psycopg://***@db:5432/feast"),
    ("simplecache::s3://key:secret1@bucket", "simplecache::s3://***@bucket"),
    ('{"a":"s3://k:s@b","b":"gs://u:v@w"}', '{"a":"s3://***@b","b":"gs://***@w"}'),
    ("https://h/x?token=abc&page=2", "https://h/x?token=***&page=2"),
    ("https://h/x?page=2&X-Amz-Signature=0af", "https://h/x?page=2&X-Amz-Signature=***"),
    ("https://acc.blob.core/x?sv=2024&sig=a%2Fb", "https://acc.blob.core/x?sv=2024&sig=***"),
]
PAIRS = [
    ("host:6379,password=abc,ssl=True", "host:6379,password=***,ssl=True"),
    ("host:6379,ssl=True,password=a,b", "host:6379,ssl=True,password=***"),
    ("password=abc token=def user=me", "password=*** token=*** user=me"),
    ("AccountName=a;AccountKey=abc+/==;Suffix=b", "AccountName=a;AccountKey=***;Suffix=b"),
    ("UID=me;PWD=a,b;Database=c", "UID=me;PWD=***;Database=c"),
    ("aws_secret_access_key = ab/c+d", "aws_secret_access_key = ***"),
    ('api_key = "a b"  # why', 'api_key = "***"  # why'),
    ("connect(password='a b', host='h')", "connect(password='***', host='h')"),
    ("(user, access_key=abc)", "(user, access_key=***)"),
    ('{"password": "a\\"b", "port": 1}', '{"password": "***", "port": 1}'),
    ("{'secret': 'a', 'port': 1}", "{'secret': '***', 'port': 1}"),
    ('"{\\"token\\": \\"a b\\", \\"port\\": 1}"', '"{\\"token\\": \\"***\\", \\"port\\": 1}"'),
    ("url: 'redis://h?password=abc'", "url: 'redis://h?password=***'"),
    ("user: me\npassword: a b c\nport: 1", "user: me\npassword: ***\nport: 1"),
    ("- s3_secret: a b\n- x", "- s3_secret: ***\n- x"),
    ("password: 'it''s' # so", "password: '***' # so"),
    ("login failed, token: a1b2c3 was refused", "login failed, token: *** was refused"),
    ("password=null-and-void, x=1", "password=***, x=1"),
    ("password='never closed\nport=1", "password=***\nport=1"),
    ("Authorization: Bearer a.b.c", "Authorization: Bearer ***"),
    ('{"Authorization": "Basic dXNlcg=="}', '{"Authorization": "Basic ***"}'),
    ('Invalid bucket name "AKIA1:s3cr+t@bucket": it', 'Invalid bucket name "***@bucket": it'),
]
NO_SECRETS = [
    "2026-02-23T06:00:00Z run night-1: 6,000 users in 10 s",
    "part-00017.parquet of /data/output/night-1 is damaged: SHA-256 0af…, expected 1bf…",
    "s3://bucket/users/*.parquet",
    "https://example.org:8080/a@b/c?page=2",
    "tcp://127.0.0.1:8786 and http://[::1]:8787/status",
    "abfss://container@account.dfs.core.windows.net/users",
    "write to someone@example.org, not to //host",
    "PWD=/srv/batchrec",
    "max_tokens=5 token_count=3 join_key=user_id entity_key: 7",
    "if token == 3: std::secret::value",
    '{"password": null, "token": false, "secret": {}}',
    "the secret is kept, the password was refused",
    'found {"a":"redis://host:6379/0","b":"someone@example.org"}',
    "user_id,item_ids\n1,[2, 3]\n",
]


@pytest.mark.parametrize(("text", "expected"), URLS + PAIRS)
def test_secrets_are_masked_and_nothing_else_is(text, expected):
    assert redact(text) == expected
    assert redact(expected) == expected


@pytest.mark.parametrize("text", NO_SECRETS)
def test_text_without_secrets(text):
    assert redact(text) == text


PRINTABLE = st.characters(min_codepoint=33, max_codepoint=0x24F, exclude_categories=("Zs", "Cc", "Cf"))
ODD = st.text(PRINTABLE, min_size=8, max_size=20).filter(lambda text: not text[0].isdigit() and "://" not in text)
ANY = st.text(st.characters(exclude_categories=("Cs", "Cc")), min_size=8, max_size=20)
WORD = st.text("abcXYZ012!#$%^*-_+/=.@~|", min_size=8, max_size=20)

PLACES = [
    (ODD, lambda secret: f"cannot open s3://key:{secret}@bucket/users.parquet (no such bucket)"),
    (ODD, lambda secret: f"redis://:{secret}@host:6379"),
    (ODD, lambda secret: f'{{"url": "postgresql://me:{secret}@db/feast"}}'),
    (ANY, lambda secret: f"https://host/a?b=1&token={quote(secret, safe='')}&c=2"),
    (ANY, lambda secret: json.dumps({"user": "me", "password": secret, "port": 1})),
    (ANY, lambda secret: json.dumps(json.dumps({"secret": secret}))),
    (ANY, lambda secret: repr({"user": "me", "access_key": secret, "port": 1})),
    (ANY, lambda secret: f"connect(host=1, password={secret!r})"),
    (ANY, lambda secret: f"online_store:\n  password: {json.dumps(secret)}\n  port: 1\n"),
    (WORD, lambda secret: f"online_store:\n  password: {secret}\n  port: 1\n"),
    (WORD, lambda secret: f"host:6379,password={secret},ssl=True"),
    (WORD, lambda secret: f"user=me password={secret} host=db"),
    (WORD, lambda secret: f"refused (token: {secret})"),
]


@pytest.mark.parametrize("place", range(3))
@pytest.mark.parametrize("secret", ["@000000'", "11@22'33@44'55@66", '@"0000000', "@00'/00'00"])
def test_a_password_with_an_at_before_a_quote(place, secret):
    _, write = PLACES[place]
    assert redact(write(secret)).count("***") == 1
    assert not any(piece in redact(write(secret)) for piece in re.split("[@'\"]", secret) if piece)


@pytest.mark.parametrize("place", range(len(PLACES)))
@given(data=st.data())
def test_a_planted_secret_never_survives(place, data):
    secrets, write = PLACES[place]
    secret = data.draw(secrets)
    assume(secret not in write("********"))
    text = redact(write(secret))
    for form in (secret, json.dumps(secret)[1:-1], quote(secret, safe="")):
        assert form not in text
    assert "***" in text


@given(before=st.text(max_size=10), after=st.text(max_size=10), secret=st.text(min_size=8, max_size=20))
@pytest.mark.parametrize("name", ["MY_SECRET", "DB_PASSWORD_2", "github_token", "ACCOUNT_KEY"])
def test_values_of_secret_variables(name, before, after, secret):
    assume("\0" not in secret and all(not 0xD800 <= ord(letter) <= 0xDFFF for letter in secret))
    assume(secret not in before + "***" + after)
    with patch.dict(os.environ, {name: secret}):
        for text in (before + secret + after, json.dumps([before, secret, after]), f"x/{quote(secret, safe='')}"):
            found = redact(text)
            assert secret not in found
            assert json.dumps(secret)[1:-1] not in found
            assert "***" in found


def test_which_variables_are_secret():
    values = {"SHORT_TOKEN": "seven77", "KEY_FILE": "/etc/keyfile", "HOME": "/home/someone", "A_KEY": "abcdefgh"}
    with patch.dict(os.environ, values | {"LONG_KEY": "abcdefgh-and-more"}):
        text = "seven77 /etc/keyfile /home/someone"
        assert redact(f"{text} abcdefgh-and-more abcdefgh") == f"{text} *** ***"


ORDINARY = st.one_of(
    st.sampled_from(["part-00017.parquet", "/data/users", "s3://bucket/a", "tcp://10.0.0.1:8786", "host:6379"]),
    st.datetimes().map(str),
    st.integers().map(str),
    st.floats().map(str),
    st.text(st.characters(exclude_characters="@="), max_size=8).filter(lambda text: not text.isascii()),
)


@given(st.lists(ORDINARY, max_size=8), st.sampled_from([" ", ", ", "\n", "=", "': '", ";", "&"]))
def test_ordinary_words_stay_as_they_are(words, between):
    text = between.join(words)
    assert redact(text) == text


@given(st.text())
def test_twice_is_once(text):
    assert redact(redact(text)) == redact(text)


def test_values():
    value = {
        "url": "s3://k:s@b",
        "online": [{"password": "x", "token": 12, "port": 1}, ("redis://:p@h", None, 2.5, True)],
        "secret": {"a": ["b"]},
        "api_key": None,
        "access_token": "",
        "tokens": 3,
        "s3://k:s@b": 1,
        7: "seven",
    }
    assert redact_value(value) == {
        "url": "s3://***@b",
        "online": [{"password": "***", "token": "***", "port": 1}, ("redis://***@h", None, 2.5, True)],
        "secret": "***",
        "api_key": None,
        "access_token": "",
        "tokens": 3,
        "s3://***@b": 1,
        7: "seven",
    }
    assert value["url"] == "s3://k:s@b"


@pytest.mark.parametrize(
    "text",
    ["a" * 300_000, "password=" * 30_000, "password=a" + ")" * 100_000 + "b", "a://" * 50_000, 'token="' * 50_000],
    ids=["word", "names", "brackets", "schemes", "quotes"],
)
def test_long_texts_take_no_time(text):
    start = time.process_time()
    redact(text)
    assert time.process_time() - start < 5
