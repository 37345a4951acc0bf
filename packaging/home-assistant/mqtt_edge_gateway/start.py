"""Start the gateway as an add-on, with the broker that the Supervisor names, as a user without rights.

It runs in the image on its own, so it takes nothing but the standard library.
"""

from __future__ import annotations

import json
import os
import secrets
import shutil
import sys
import urllib.request
from collections.abc import Iterable
from pathlib import Path
from typing import Any

DATA = Path("/data")
"""The add-on's volume, with the options that the user has chosen."""
CONFIG = Path("/config")
"""The add-on's folder that the user sees."""
USER_ID = 10001  # as in docker/Dockerfile
SUPERVISOR = "http://supervisor"
GATEWAY = "/opt/gateway/bin/gateway"


def main() -> None:
    environment = prepare(DATA, CONFIG, broker_of(SUPERVISOR, os.environ["SUPERVISOR_TOKEN"]))
    if os.geteuid() == 0:
        become(USER_ID, (DATA / "gateway", DATA / "secrets"))
    os.environ.pop("SUPERVISOR_TOKEN")  # the gateway has no business with it
    os.environ.update(environment)
    os.execv(GATEWAY, ["gateway", "run", "-c", str(CONFIG / "gateway.yaml")])  # noqa: S606 - no shell needed


def broker_of(supervisor: str, token: str) -> dict[str, Any]:
    """Return host, port, username, password and ssl of the MQTT service."""
    headers = {"Authorization": f"Bearer {token}"}
    request = urllib.request.Request(f"{supervisor}/services/mqtt", headers=headers)  # noqa: S310 - http
    try:
        with urllib.request.urlopen(request, timeout=30) as answer:  # noqa: S310
            broker: dict[str, Any] = json.load(answer)["data"]
    except OSError as exc:
        sys.exit(f"There is no MQTT broker ({exc}). Install and start the add-on Mosquitto broker.")
    return broker


def prepare(data: Path, config: Path, broker: dict[str, Any]) -> dict[str, str]:
    """Write what the configuration refers to; return the variables in it. The user's configuration stays."""
    options = json.loads((data / "options.json").read_text())
    for name in ("gateway", "secrets"):
        (data / name).mkdir(mode=0o700, exist_ok=True)
    if not (config / "gateway.yaml").exists():
        shutil.copyfile(Path(__file__).with_name("gateway.yaml"), config / "gateway.yaml")
    token, password = data / "secrets" / "http-token", data / "secrets" / "mqtt-password"
    if options.get("token") or not token.exists():
        _write_secret(token, options.get("token") or secrets.token_urlsafe(24))
    _write_secret(password, broker.get("password") or "")
    scheme = "mqtts" if broker.get("ssl") else "mqtt"
    return {
        "GATEWAY_ID": options["gateway_id"],
        "MQTT_URL": f"{scheme}://{broker['host']}:{broker['port']}",
        "MQTT_USERNAME": broker.get("username") or "",
        "MQTT_PASSWORD_FILE": str(password),
        "TOKEN_FILE": str(token),
    }


def _write_secret(path: Path, text: str) -> None:
    path.touch(mode=0o600)
    path.write_text(text)


def become(user_id: int, folders: Iterable[Path]) -> None:
    """Give `folders` to a user without rights, and go on as that user."""
    for folder in folders:
        for each in (folder, *folder.rglob("*")):
            os.chown(each, user_id, user_id, follow_symlinks=False)
    os.setgroups([])
    os.setgid(user_id)
    os.setuid(user_id)


if __name__ == "__main__":
    main()
