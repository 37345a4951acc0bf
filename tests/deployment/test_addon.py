"""The Home Assistant add-on: its files keep the linter's rules, its start what the Supervisor says."""

from __future__ import annotations

import importlib.util
import json
import re
import struct
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import yaml

from gateway import __version__
from gateway.config import parse_config, warnings_of
from tests.support.places import ROOT

ADDON = ROOT / "packaging" / "home-assistant" / "mqtt_edge_gateway"
SUPERVISORS_TOKEN = "supervisors"  # noqa: S105 - of the test
PASSWORD = "pass: $word"  # noqa: S105 - of the test
BROKER = {"host": "core-mosquitto", "port": 1883, "ssl": False, "username": "addons", "password": PASSWORD}

# Of the add-on linter (frenck/action-addon-linter): what each key that is used here may be, and the defaults,
# which it wants left out.
FORMS = {
    "name": r".+",
    "version": r"\d+\.\d+\.\d+",
    "slug": r"[-_.A-Za-z0-9]+",
    "description": r".+",
    "url": r"https://.+",
    "backup": r"cold",
    "webui": r"https?://\[HOST\]:\[PORT:\d+\].*",
}
ARCHITECTURES = {"amd64", "aarch64", "armhf", "armv7", "i386"}
FOLDERS = {
    "addon_config",
    "addons",
    "all_addon_configs",
    "backup",
    "homeassistant_config",
    "media",
    "share",
    "ssl",
}
IMAGE = r"([a-zA-Z\-.:\d]+/)*[-\w]+/[-\w]+:[-.\w]+"
DEFAULTS = {"timeout": 10, "init": True, "boot": "auto", "startup": "application", "apparmor": True}


def read(name: str) -> dict[str, Any]:
    return dict(yaml.safe_load((ADDON / name).read_text()))


def test_its_configuration_keeps_the_rules_of_the_linter() -> None:
    config = read("config.yaml")
    for key, form in FORMS.items():
        assert re.fullmatch(form, config.pop(key)), key
    assert set(config.pop("arch")) <= ARCHITECTURES
    assert all(re.fullmatch(r"(mqtt|mysql):(provide|want|need)", each) for each in config.pop("services"))
    assert all(each.keys() <= {"type", "read_only", "path"} for each in config["map"])
    assert {each["type"] for each in config.pop("map")} <= FOLDERS
    assert {key: value for key, value in DEFAULTS.items() if config.get(key) == value} == {}
    assert config.keys() == {"timeout", "ports", "ports_description", "options", "schema"}


def test_its_files_agree_with_each_other() -> None:
    config, build = read("config.yaml"), read("build.yaml")
    assert config["version"] == __version__
    assert f"## {__version__}\n" in (ADDON / "CHANGELOG.md").read_text()
    assert build["build_from"].keys() == set(config["arch"])
    for image in build["build_from"].values():
        assert re.fullmatch(IMAGE, image)
        assert image.endswith(f":{__version__}")
    assert config["options"].keys() <= config["schema"].keys()
    required = {key for key, kind in config["schema"].items() if not kind.endswith("?")}
    assert required <= config["options"].keys()
    for file in (ADDON / "translations").glob("*.yaml"):
        told = yaml.safe_load(file.read_text())
        assert told["configuration"].keys() == config["schema"].keys()
        assert told["network"].keys() == config["ports"].keys()


@pytest.mark.parametrize(("name", "size"), [("icon.png", (128, 128)), ("logo.png", (250, 100))])
def test_its_pictures_have_the_size_that_the_store_shows(name: str, size: tuple[int, int]) -> None:
    assert struct.unpack(">II", (ADDON / name).read_bytes()[16:24]) == size


@pytest.fixture(scope="module")
def start() -> ModuleType:
    spec = importlib.util.spec_from_file_location("addon_start", ADDON / "start.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture
def supervisor() -> Iterator[str]:
    """The address of one that knows the MQTT service, and asks for the add-on's token."""

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            admitted = self.headers["Authorization"] == f"Bearer {SUPERVISORS_TOKEN}"
            self.send_response(200 if admitted and self.path == "/services/mqtt" else 400)
            self.end_headers()
            self.wfile.write(json.dumps({"result": "ok", "data": BROKER}).encode())

        def log_message(self, *_: object) -> None:
            """Say nothing."""

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        thread = threading.Thread(target=server.serve_forever, args=(0.02,))
        thread.start()
        yield f"http://127.0.0.1:{server.server_port}"
        server.shutdown()
        thread.join()


@pytest.fixture
def volumes(tmp_path: Path) -> tuple[Path, Path]:
    """What the Supervisor mounts: data with the user's options, and the folder for the configuration."""
    data, config = tmp_path / "data", tmp_path / "config"
    data.mkdir()
    config.mkdir()
    (data / "options.json").write_text('{"gateway_id": "home", "token": "the-token-of-the-user"}')
    return data, config


def test_the_first_start_makes_a_configuration_for_the_supervisors_broker(
    start: ModuleType, supervisor: str, volumes: tuple[Path, Path]
) -> None:
    data, folder = volumes
    environment = start.prepare(data, folder, start.broker_of(supervisor, SUPERVISORS_TOKEN))
    config = parse_config((folder / "gateway.yaml").read_text(), folder, environ=environment)
    assert config.gateway.id == "home"
    local = config.local
    assert (local.url, local.username) == ("mqtt://core-mosquitto:1883", "addons")
    assert local.password_file == data / "secrets" / "mqtt-password"
    assert local.password_file.read_text() == PASSWORD
    assert warnings_of(config) == ("local: the password travels unencrypted; use mqtts://",)  # within the box
    for secret in ("http-token", "mqtt-password"):
        assert (data / "secrets" / secret).stat().st_mode & 0o777 == 0o600


def test_the_users_configuration_and_a_token_that_was_made_up_stay(
    start: ModuleType, volumes: tuple[Path, Path]
) -> None:
    data, folder = volumes
    (data / "options.json").write_text('{"gateway_id": "home"}')
    (folder / "gateway.yaml").write_text("# mine\n")
    start.prepare(data, folder, BROKER)
    token = (data / "secrets" / "http-token").read_text()
    assert len(token) > 20
    start.prepare(data, folder, BROKER | {"password": "changed"})
    assert (data / "secrets" / "http-token").read_text() == token
    assert (data / "secrets" / "mqtt-password").read_text() == "changed"
    assert (folder / "gateway.yaml").read_text() == "# mine\n"


def test_without_a_broker_it_says_what_to_install(start: ModuleType, supervisor: str) -> None:
    with pytest.raises(SystemExit, match="Install and start the add-on Mosquitto"):
        start.broker_of(supervisor, "of another add-on")
