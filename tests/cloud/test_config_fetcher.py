"""Configurations that are pulled from an HTTPS server: a real one, with certificates of its own."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from gateway.cloud import config_fetcher
from gateway.cloud.config_fetcher import ConfigFetcher, FetchSpec
from gateway.wire.signed_config import MAX_BYTES
from tests.support.certificates import make_authority, make_certificate
from tests.support.gateways import wait_until
from tests.support.https_server import Asked, HttpsServer, Reply


@pytest.fixture(scope="module")
def certificates(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("certificates")
    make_authority(folder)
    make_authority(folder, "stranger")
    make_certificate(folder, "server")
    return folder


@pytest.fixture
def server(certificates: Path) -> Iterator[HttpsServer]:
    made = HttpsServer(certificates / "server.pem", certificates / "server.key", lambda _: Reply())
    with made.running() as running:
        yield running


class Pulled:
    """A fetcher that asks all the time, and what it brought."""

    def __init__(self, server: HttpsServer, certificates: Path) -> None:
        self.spec = FetchSpec(f"{server.url}/g1.json", 0.02, 5.0, ca_file=certificates / "ca.pem")
        self.offered: list[bytes] = []
        self.full = False

    def offer(self, payload: bytes) -> None:
        if self.full:
            raise OSError("no space left")
        self.offered.append(payload)

    def start(self, **settings: object) -> ConfigFetcher:
        self.fetcher = ConfigFetcher(replace(self.spec, **settings), self.offer)  # type: ignore[arg-type]
        self.fetcher.start()
        return self.fetcher

    def fails(self) -> str:
        """Wait until it says that it fails; return what it says."""
        wait_until(lambda: self.fetcher.problem, "it says so")
        assert not self.fetcher.reached
        return self.fetcher.problem


@pytest.fixture
def pulled(server: HttpsServer, certificates: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Pulled]:
    monkeypatch.setattr(config_fetcher, "_RETRY_S", 0.01)
    found = Pulled(server, certificates)
    yield found
    if hasattr(found, "fetcher"):
        found.fetcher.stop()


def by_tag(body: bytes, tag: str) -> Reply:
    return Reply(200, body, {"ETag": tag})


def test_what_is_new_is_taken_once_and_then_only_asked_for_by_its_tag(
    server: HttpsServer, pulled: Pulled
) -> None:
    version = b"one"

    def reply(asked: Asked) -> Reply:
        tag = f'"{version.decode()}"'
        return Reply(304) if asked.headers.get("If-None-Match") == tag else by_tag(version, tag)

    server.reply = reply
    fetcher = pulled.start()
    wait_until(lambda: fetcher.metrics.outcomes["unchanged"] > 2, "it is asked for again")
    assert pulled.offered == [b"one"]
    version = b"two"
    wait_until(lambda: len(pulled.offered) > 1, "the new one")
    assert pulled.offered == [b"one", b"two"]
    assert fetcher.reached
    assert fetcher.problem == ""
    assert {asked.path for asked in server.asked} == {"/g1.json"}


def test_what_could_not_be_kept_is_asked_for_again_without_its_tag(
    server: HttpsServer, pulled: Pulled
) -> None:
    server.reply = lambda _: by_tag(b"one", '"1"')
    pulled.full = True
    fetcher = pulled.start()
    assert "no space left" in pulled.fails()
    assert not any("If-None-Match" in asked.headers for asked in server.asked)
    pulled.full = False
    wait_until(lambda: fetcher.problem == "", "it is taken")
    assert pulled.offered[0] == b"one"


def test_no_content_is_nothing_for_this_gateway(server: HttpsServer, pulled: Pulled) -> None:
    server.reply = lambda _: Reply(204)
    fetcher = pulled.start()
    wait_until(lambda: fetcher.reached, "it is answered")
    assert pulled.offered == []


@pytest.mark.parametrize(
    ("reply", "why"),
    [
        (Reply(404), "it answers 404 Not Found"),
        (Reply(500), "it answers 500"),
        (Reply(302, headers={"Location": "http://localhost:9/x"}), "redirects to http, and only https"),
        (Reply(302, headers={"Location": "file:///etc/passwd"}), "file:///etc/passwd' is not allowed"),
        (Reply(200, b"x" * (MAX_BYTES + 1)), "more than 2,097,152 bytes"),
        (Reply(200, b"part", length=100), "ended 96 bytes before its end"),
    ],
)
def test_what_is_no_answer_is_said_and_nothing_is_taken(
    server: HttpsServer, pulled: Pulled, reply: Reply, why: str
) -> None:
    server.reply = lambda _: reply
    pulled.start(timeout_s=1.0 if reply.length else 30.0)
    assert why in pulled.fails()
    assert pulled.offered == []


def test_a_server_of_another_authority_is_not_believed(pulled: Pulled, certificates: Path) -> None:
    pulled.start(ca_file=certificates / "stranger.pem")
    assert "certificate verify failed" in pulled.fails()


def test_a_file_that_is_missing_is_said_and_read_once_it_is_there(
    server: HttpsServer, pulled: Pulled, tmp_path: Path
) -> None:
    token = tmp_path / "token"
    fetcher = pulled.start(token_file=token)
    assert str(token) in pulled.fails()
    token.write_text("of-the-site\n")
    wait_until(lambda: fetcher.reached, "it is answered")
    assert {asked.headers.get("Authorization") for asked in server.asked} == {"Bearer of-the-site"}


def test_another_address_is_followed_but_gets_no_credentials(
    server: HttpsServer, pulled: Pulled, tmp_path: Path
) -> None:
    (tmp_path / "password").write_text("secret")

    def reply(asked: Asked) -> Reply:
        there = Reply(302, headers={"Location": f"{server.url}/elsewhere"})
        return there if asked.path == "/g1.json" else Reply(200, b"found")

    server.reply = reply
    pulled.start(username="g1", password_file=tmp_path / "password")
    wait_until(lambda: pulled.offered, "it is found")
    sent = {asked.path: asked.headers.get("Authorization") for asked in server.asked}
    assert sent == {"/g1.json": "Basic ZzE6c2VjcmV0", "/elsewhere": None}
