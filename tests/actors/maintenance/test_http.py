"""Requests to addresses that strangers name: where they may go, and what comes back."""

import asyncio
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from aiohttp import web

from actors.maintenance.http import Answer, Http, HttpRefused, HttpUnavailable, http
from actors.maintenance.http.addresses import is_public, read_address
from actors.maintenance.http.gate import Allowed
from actors.maintenance.http.retry_after import retry_after
from service.errors import ConfigError
from service.settings import Settings
from tests.actors.receivers import Talk, certificate, http_client, raw_server, read_request, receiver

SECONDS = timedelta(seconds=30)
SHORT = timedelta(seconds=0.2)
LOCAL = "127.0.0.0/8"
METADATA = "http://169.254.169.254/latest/meta-data/"


async def ask(client: Http, url: str, *, timeout: timedelta = SECONDS, whole: bool = True, limit: int = 1000) -> Answer:
    return await client.request("POST", url, body=b"{}", timeout=timeout, max_bytes=limit, whole=whole)


class Names:
    """A name server: each name's answers one after the other; the last one repeats."""

    def __init__(self, **answers: list[list[str]]) -> None:
        self._answers = {name.replace("_", "."): list(given) for name, given in answers.items()}
        self.asked: list[str] = []

    async def __call__(self, host: str, port: int) -> Sequence[str]:
        self.asked.append(host)
        answers = self._answers[host]
        return answers.pop(0) if len(answers) > 1 else answers[0]


# ---- what is public --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "address",
    ["8.8.8.8", "2606:4700::1111", "::ffff:8.8.8.8", "64:ff9b::808:808", "2002:808:808::1"],
)
def test_an_address_of_the_internet_is_public(address: str) -> None:
    found = read_address(address)
    assert found is not None
    assert is_public(found)


@pytest.mark.parametrize(
    "address",
    [
        *["127.0.0.1", "10.1.2.3", "172.16.0.1", "192.168.1.1", "0.0.0.0", "255.255.255.255", "240.0.0.1"],
        *["169.254.169.254", "100.64.0.1", "192.0.0.8", "192.0.0.192", "192.0.2.1", "198.18.0.1", "224.0.0.1"],
        *["::1", "::", "fe80::1", "fe80::1%eth0", "fc00::1", "fd00:ec2::254", "fec0::1", "ff02::1", "100::1"],
        *["::ffff:127.0.0.1", "::ffff:169.254.169.254", "::7f00:1", "64:ff9b::7f00:1", "64:ff9b:1::808:808"],
        *["2002:7f00:1::", "2002:a9fe:a9fe::1", "2001:0:7f00:1::", "2001:db8::1", "3fff::1", "5f00::1"],
    ],
)
def test_an_address_that_leads_inside_is_not_public_in_whatever_dress(address: str) -> None:
    found = read_address(address)
    assert found is not None
    assert not is_public(found)


# ---- what is refused -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("url", "reason"),
    [
        ("https://127.0.0.1/", "not public"),
        ("https://169.254.169.254/", "not public"),
        ("https://[::1]/", "not public"),
        ("https://[::ffff:127.0.0.1]/", "not public"),
        ("https://[fe80::1%25lo]/", "not public"),
        ("https://2130706433/", "not public"),
        ("https://017700000001/", "not public"),
        ("https://127.1/", "not public"),
        ("https://127.0.0.1./", "not public"),
        ("https://①②⑦.0.0.1/", "not public"),
        ("https://127。0。0。1/", "not public"),
        ("https://0x7f.1/", "not public"),
        ("https://0x7f000001/", "not public"),
        ("https://localhost/", "not public"),
        ("https://%31%32%37.0.0.1/", "not the name of a host"),
        ("https://a..b/", "not the name of a host"),
        ("https://8.8.8.8:8443/", "not on port 443"),
        ("https://8.8.8.8:22/", "not on port 443"),
        ("http://8.8.8.8:443/", "not asked by https"),
        ("http://8.8.8.8/", "not asked by https"),
        ("https://ada:secret@example.org/", "credentials"),
        ("https://ada@example.org/", "credentials"),
        ("file:///etc/passwd", "not one of https"),
        ("gopher://8.8.8.8/", "not one of https"),
        ("//8.8.8.8/", "not one of https"),
        ("https:///path", "not one of https"),
        ("https://8.8.8.8:0/", "not one of https"),
        ("https://8.8.8.8:99999/", "cannot be read"),
        ("https://8.8.8.8\\@127.0.0.1/", "cannot be read"),
        ("https://[::1/", "cannot be read"),
        ("https://example.org/\r\nHost: x", "control characters"),
        ("https://example.org/a b", "spaces"),
        ("https://example.org/" + "x" * 9000, "8000 characters"),
        ("", "not one of https"),
    ],
)
async def test_a_url_that_leads_elsewhere_is_refused(url: str, reason: str) -> None:
    async with http_client() as client:
        with pytest.raises(HttpRefused, match=reason):
            await ask(client, url)


@pytest.mark.parametrize(
    "addresses", [["10.0.0.1"], ["8.8.8.8", "10.0.0.1"], ["8.8.8.8", "::ffff:169.254.169.254"], ["fe80::1%2"]]
)
async def test_a_name_is_refused_if_even_one_of_its_addresses_is_not_public(addresses: list[str]) -> None:
    async with http_client(lookup=Names(evil_example=[addresses])) as client:
        with pytest.raises(HttpRefused, match=r"evil\.example:443 leads to .* not public"):
            await ask(client, "https://evil.example/secret-path")


async def test_a_refusal_does_not_show_what_may_be_secret() -> None:
    async with http_client() as client:
        with pytest.raises(HttpRefused) as refused:
            await ask(client, "https://127.0.0.1/services/T0SECRET?token=SECRET")
        with pytest.raises(HttpRefused) as credentials:
            await ask(client, "https://ada:SECRET@127.0.0.1/")

    assert "SECRET" not in f"{refused.value} {credentials.value}"


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("X-Note", "a\r\nX-Admin: 1"),
        ("X-Note", "a\nb"),
        ("X-Note", "a\x00"),
        ("X-Note", "é"),
        ("X Note", "a"),
        ("X-Note:", "a"),
        ("", "a"),
        ("Host", "internal"),
        ("content-length", "0"),
        ("Transfer-Encoding", "chunked"),
    ],
)
async def test_a_header_cannot_bring_another_one(name: str, value: str) -> None:
    async with receiver() as server, http_client(LOCAL) as client:
        with pytest.raises(HttpRefused, match="header"):
            await client.request("POST", server.url, headers={name: value}, timeout=SECONDS, max_bytes=10)

        assert server.requests == []


# ---- what is allowed beside ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("form", ["127.0.0.0/8", "127.0.0.1", "127.0.0.1:{}", "localhost", "localhost:{}", "LOCALHOST"])
async def test_what_the_settings_allow_is_asked(form: str) -> None:
    async with receiver(web.Response(text="yes")) as server, http_client(form.format(server.port)) as client:
        answer = await ask(client, f"http://localhost:{server.port}/", limit=3)

    assert (answer.status, answer.body) == (200, b"yes")
    assert answer.headers["content-LENGTH"] == "3"


@pytest.mark.parametrize("form", ["127.0.0.1:1", "10.0.0.0/8", "localhost:1", "other", "::1"])
async def test_an_allowance_for_something_else_does_not_count(form: str) -> None:
    async with receiver() as server, http_client(form) as client:
        for host in ("127.0.0.1", "localhost"):
            with pytest.raises(HttpRefused, match="VERGER_HTTP_ALLOW"):
                await ask(client, f"http://{host}:{server.port}/")

        assert server.requests == []


async def test_an_ipv4_address_in_ipv6_dress_is_allowed_as_itself() -> None:
    allowed = Allowed.read(["10.0.0.0/8", "[2001:db8::1]:8443"])

    assert allowed.has_address("::ffff:10.0.0.1", 80)
    assert allowed.has_address("2001:db8::1", 8443)
    assert not allowed.has_address("2001:db8::1", 443)


@pytest.mark.parametrize("entry", ["10.0.0.0/33", "http://siem", "siem:port", "siem:99999", "a b", "*", "[::1", "-/-"])
def test_an_allowance_that_cannot_be_read_is_named(entry: str) -> None:
    with pytest.raises(ConfigError, match="VERGER_HTTP_ALLOW"):
        Allowed.read([entry])


# ---- one lookup, one connection --------------------------------------------------------------------------------------


async def test_it_connects_to_the_address_that_was_checked() -> None:
    """A name server of the attacker's tells another address when asked again."""
    names = Names(rebinding_example=[["127.0.0.1"], ["127.0.0.2"]])
    async with receiver() as server:
        async with http_client(f"127.0.0.1:{server.port}", lookup=names) as client:
            await ask(client, f"http://rebinding.example:{server.port}/")
            await ask(client, f"http://rebinding.example:{server.port}/")

            assert names.asked == ["rebinding.example"]
            assert len({request.peer for request in server.requests}) == 1, "the connection was not used again"
            assert server.requests[0].headers["Host"] == f"rebinding.example:{server.port}"

        async with http_client(f"127.0.0.1:{server.port}", lookup=names) as client:
            with pytest.raises(HttpRefused, match=r"127\.0\.0\.2"):
                await ask(client, f"http://rebinding.example:{server.port}/")


@pytest.mark.parametrize("status", [301, 302, 303, 307, 308])
async def test_a_redirect_is_an_answer_and_not_followed(status: int) -> None:
    redirect = web.Response(status=status, headers={"Location": METADATA})
    async with receiver(redirect) as server, http_client(LOCAL) as client:
        answer = await ask(client, server.url)

    assert (answer.status, answer.headers["Location"]) == (status, METADATA)
    assert len(server.requests) == 1


async def test_neither_proxies_nor_passwords_come_from_the_environment(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    (tmp_path / "netrc").write_text("machine 127.0.0.1 login ada password secret\n")
    monkeypatch.setenv("NETRC", str(tmp_path / "netrc"))
    async with receiver() as proxy, receiver() as server, http_client(LOCAL) as client:
        for name in ("http_proxy", "HTTP_PROXY", "all_proxy", "ALL_PROXY"):
            monkeypatch.setenv(name, proxy.url)
        await ask(client, server.url)

    assert proxy.requests == []
    assert "Authorization" not in server.requests[0].headers


async def test_what_one_server_sets_as_a_cookie_is_forgotten() -> None:
    async with receiver(web.Response(headers={"Set-Cookie": "a=b"})) as server, http_client("localhost") as client:
        for _ in range(2):
            await ask(client, f"http://localhost:{server.port}/")

    assert "Cookie" not in server.requests[1].headers


# ---- TLS -------------------------------------------------------------------------------------------------------------


async def test_a_certificate_is_verified_and_a_private_authority_is_named_by_ssl_cert_file(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    file, tls = certificate(tmp_path, "localhost")
    async with receiver(tls=tls) as server:
        settings = Settings(http_allow=("127.0.0.1",))
        url = f"https://localhost:{server.port}/"

        async for client in http.open(settings):
            with pytest.raises(HttpUnavailable, match="certificate"):
                await ask(client, url)
        monkeypatch.setenv("SSL_CERT_FILE", str(file))
        async for client in http.open(settings):
            assert (await ask(client, url)).status == 200
            with pytest.raises(HttpUnavailable, match="certificate"):  # it is for the name, not for the address
                await ask(client, f"https://127.0.0.1:{server.port}/")

        assert len(server.requests) == 1


# ---- answers that are none -------------------------------------------------------------------------------------------

HEAD = b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n"


def saying(*parts: bytes, then: asyncio.Event | None = None) -> Talk:
    """Takes a request, says this, and hangs up, or waits for the event."""

    async def talk(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await read_request(reader)
        for part in parts:
            writer.write(part)
            await writer.drain()
        if then is not None:
            await then.wait()

    return talk


@pytest.mark.parametrize(
    "said",
    [
        b"",
        b"HTTP/1.1 200 OK\r\nContent-Le",
        HEAD % 100 + b"half",
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhel",
        b"SSH-2.0-OpenSSH_9.2\r\n\r\n",
        b"HTTP/1.1 200 OK\r\n" + b"X-A: b\r\n" * 100_000 + b"\r\n",
        b"HTTP/1.1 200 OK\r\nX: " + b"a" * 100_000 + b"\r\n\r\n",
    ],
    ids=["nothing", "half a head", "half a body", "half a chunk", "no HTTP", "endless headers", "an endless header"],
)
async def test_a_connection_that_breaks_is_no_answer(said: bytes) -> None:
    async with raw_server(saying(said)) as port, http_client(LOCAL) as client:
        with pytest.raises(HttpUnavailable, match=f"http://127.0.0.1:{port}: ") as failure:
            await ask(client, f"http://127.0.0.1:{port}/SECRET")

    assert "SECRET" not in str(failure.value)


async def test_nobody_there_is_no_answer() -> None:
    async with raw_server(saying()) as port:
        pass
    async with http_client(LOCAL) as client:
        with pytest.raises(HttpUnavailable):
            await ask(client, f"http://127.0.0.1:{port}/")


async def test_a_name_that_is_not_known_is_no_answer() -> None:
    async def unknown(host: str, port: int) -> Sequence[str]:
        raise OSError(-2, "Name or service not known")

    async with http_client(lookup=unknown) as client:
        with pytest.raises(HttpUnavailable, match="not known"):
            await ask(client, "https://gone.example/")


async def test_an_answer_that_drips_ends_with_the_time_limit() -> None:
    async def drip(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await read_request(reader)
        for byte in HEAD % 100_000 + b"x" * 100_000:
            writer.write(bytes([byte]))
            await writer.drain()
            await asyncio.sleep(0.01)

    async with raw_server(drip) as port, http_client(LOCAL) as client:
        with pytest.raises(HttpUnavailable, match=r"within 0\.2 s"):
            await ask(client, f"http://127.0.0.1:{port}/", timeout=SHORT)


async def test_a_lookup_that_hangs_ends_with_the_time_limit() -> None:
    async def hang(host: str, port: int) -> Sequence[str]:
        await asyncio.Event().wait()
        return []

    async with http_client(lookup=hang) as client:
        with pytest.raises(HttpUnavailable, match="within"):
            await ask(client, "https://slow.example/", timeout=SHORT)


async def test_a_longer_answer_is_left_where_it_is() -> None:
    sent = 0

    async def flood(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        nonlocal sent
        await read_request(reader)
        writer.write(b"HTTP/1.1 200 OK\r\n\r\n")
        while True:
            writer.write(b"x" * 65536)
            await writer.drain()
            sent += 65536

    async with raw_server(flood) as port, http_client(LOCAL) as client:
        with pytest.raises(HttpUnavailable, match="longer than 1000 bytes"):
            await ask(client, f"http://127.0.0.1:{port}/")
        cut = await ask(client, f"http://127.0.0.1:{port}/", whole=False)

    assert (cut.status, cut.body) == (200, b"x" * 1000)
    assert sent < 64 * 1024 * 1024


async def test_a_status_is_enough_for_who_wants_no_more() -> None:
    stay = asyncio.Event()
    async with http_client(LOCAL) as client:
        async with raw_server(saying(HEAD % 100 + b"half")) as port:
            dropped = await ask(client, f"http://127.0.0.1:{port}/", whole=False)
        async with raw_server(saying(HEAD % 100 + b"half", then=stay)) as port:
            stuck = await ask(client, f"http://127.0.0.1:{port}/", timeout=SHORT, whole=False)
        async with raw_server(saying(b"HTTP/1.1 200", then=stay)) as port:
            with pytest.raises(HttpUnavailable):
                await ask(client, f"http://127.0.0.1:{port}/", timeout=SHORT, whole=False)

    assert (dropped.status, dropped.body) == (stuck.status, stuck.body) == (200, b"half")


async def test_a_short_answer_does_not_become_a_long_one_here() -> None:
    packed = web.Response(body=b"\x1f\x8b", headers={"Content-Encoding": "gzip"})
    async with receiver(packed) as server, http_client(LOCAL) as client:
        answer = await ask(client, server.url)

    assert server.requests[0].headers["Accept-Encoding"] == "identity"
    assert answer.body == b"\x1f\x8b"


# ---- Retry-After -----------------------------------------------------------------------------------------------------

NOW = datetime(2026, 11, 22, 12, 0, 0, 500_000, UTC)


@pytest.mark.parametrize(
    ("said", "seconds"),
    [
        ("120", 120),
        (" 120 ", 120),
        ("Sun, 22 Nov 2026 12:02:00 GMT", 120),
        ("Sunday, 22-Nov-26 12:02:00 GMT", 120),
        ("Sun Nov 22 12:02:00 2026", 120),
        ("Sun, 22 Nov 2026 13:02:00 +0100", 120),
        ("9" * 400, 86_400),
        ("Sun, 22 Nov 9999 12:02:00 GMT", 86_400),
        *[("0", 0), ("Wed, 21 Oct 2015 07:28:00 GMT", 0)],
        *[(f"{huge} Nov {huge} 12:02:{huge} GMT", 0) for huge in ("9" * 12, "9" * 30)],
        ("Sun, 22 Nov 2026 12:02:00 +" + "9" * 30, 0),
        *[(unclear, 0) for unclear in ("", "soon", "-1", "1.5", "1e9", "²", "Sun, 99 Nov 2026 12:02:00 GMT")],
    ],
)
def test_a_server_says_when_to_come_back_in_two_forms(said: str, seconds: int) -> None:
    assert retry_after({"Retry-After": said}, NOW) == timedelta(seconds=seconds)
    assert retry_after({}, NOW) == timedelta()


# ---- the resource ----------------------------------------------------------------------------------------------------


async def test_a_large_body_arrives_as_it_was() -> None:
    body = bytes(range(256)) * 8192
    async with receiver() as server, http_client(LOCAL) as client:
        await client.request("PUT", server.url, body=body, timeout=SECONDS, max_bytes=10)
        await client.request("GET", server.url, headers={"user-agent": "me"}, timeout=SECONDS, max_bytes=10)

    assert server.requests[0].body == body
    assert (server.requests[1].method, server.requests[1].body) == ("GET", b"")
    assert server.requests[1].headers.getall("User-Agent") == ["me"]  # type: ignore[attr-defined]


async def test_cancelled_it_hangs_up() -> None:
    gone = asyncio.Event()
    taken = asyncio.Event()

    async def wait(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await read_request(reader)
        taken.set()
        await reader.read()
        gone.set()

    async with raw_server(wait) as port, http_client(LOCAL) as client:
        asking = asyncio.create_task(ask(client, f"http://127.0.0.1:{port}/"))
        await taken.wait()
        asking.cancel()
        with pytest.raises(asyncio.CancelledError):
            await asking
        await gone.wait()


async def test_settings_that_cannot_be_read_end_the_worker_at_its_start() -> None:
    with pytest.raises(ConfigError, match="VERGER_HTTP_ALLOW"):
        await anext(http.open(Settings(http_allow=("http://x",))))
