"""Passwords that are made or read anew at each connect. Each raises BrokerError when it has none to give."""

from __future__ import annotations

import base64
import binascii
import hashlib
import hmac
import math
import shlex
import subprocess
import time
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import quote

from gateway.core.errors import BrokerError, plain_reason

_COMMAND_TIMEOUT_S = 30.0


@dataclass(frozen=True)
class CommandPassword:
    """A password printed by a command, without the white space around it."""

    command: str

    def __call__(self) -> str:
        try:
            done = subprocess.run(  # noqa: S603 - the operator's own
                shlex.split(self.command),
                capture_output=True,
                text=True,
                timeout=_COMMAND_TIMEOUT_S,
                check=True,
                stdin=subprocess.DEVNULL,
            )
        except subprocess.CalledProcessError as exc:
            said = exc.stderr.strip().splitlines()
            reason = f"ended with {exc.returncode}" + (f": {said[-1][:200]}" if said else "")
            raise BrokerError(f"password.command {reason}") from exc
        except (OSError, ValueError, subprocess.TimeoutExpired) as exc:
            raise BrokerError(f"password.command does not run: {plain_reason(exc)}") from exc
        return done.stdout.strip()


@dataclass(frozen=True)
class AzureSas:
    """A shared access signature, as Azure IoT Hub and Event Grid take them."""

    resource: str  # such as myhub.azure-devices.net/devices/plant-7
    key_file: Path
    ttl_s: float

    def __call__(self) -> str:
        key = _content(self.key_file, "password.azure_sas.key_file")
        return azure_sas(self.resource, key, math.ceil(time.time() + self.ttl_s))


def azure_sas(resource: str, key: str, expires_s: int) -> str:
    """The token for `resource` (not yet quoted), signed with a key as the console shows it, in Base64."""
    quoted = quote(resource, safe="")
    try:
        secret = base64.b64decode(key, validate=True)
    except binascii.Error as exc:
        raise BrokerError("password.azure_sas.key_file holds no key in Base64") from exc
    digest = hmac.new(secret, f"{quoted}\n{expires_s}".encode(), hashlib.sha256).digest()
    signature = quote(base64.b64encode(digest), safe="")
    return f"SharedAccessSignature sr={quoted}&sig={signature}&se={expires_s}"


def _content(path: Path, key: str) -> str:
    try:
        return path.read_text("utf-8").strip()
    except (OSError, UnicodeDecodeError) as exc:
        raise BrokerError(f"{key} {path}: {plain_reason(exc)}") from exc
