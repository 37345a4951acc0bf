"""The Debian package: scripts that a shell takes, a configuration that starts, a purge that keeps events."""

from __future__ import annotations

import os
import shutil
import subprocess
from pathlib import Path

import pytest

from gateway.config import parse_config, warnings_of
from tests.support.places import ROOT

DEBIAN = ROOT / "packaging" / "debian"


@pytest.mark.parametrize("name", ["build.sh", "postinst", "prerm", "postrm"])
def test_a_script_is_one_that_a_plain_shell_takes(name: str) -> None:
    script = DEBIAN / name
    assert os.access(script, os.X_OK)
    subprocess.run(["sh", "-n", str(script)], check=True)


def test_the_configuration_of_the_package_is_sound_and_keeps_to_its_folder() -> None:
    config = parse_config((DEBIAN / "gateway.yaml").read_text(), DEBIAN, environ={})
    assert config.gateway.data_dir == Path("/var/lib/gateway")  # the only one that the unit may write
    assert warnings_of(config) == ()


@pytest.mark.slow
@pytest.mark.skipif(not shutil.which("strip") or not shutil.which("dpkg-deb"), reason="needs binutils")
def test_the_package_holds_the_gateway_its_unit_and_its_configuration(tmp_path: Path) -> None:
    subprocess.run([str(DEBIAN / "build.sh"), str(tmp_path)], check=True, capture_output=True, timeout=900)
    (package,) = tmp_path.glob("*.deb")
    subprocess.run(["dpkg-deb", "-x", str(package), str(tmp_path / "tree")], check=True)
    tree = tmp_path / "tree"
    unit = (tree / "usr/lib/systemd/system/gateway.service").read_text()
    assert "ExecStart=/usr/bin/gateway run" in unit
    assert "User=gateway\n" in unit
    assert (tree / "etc/gateway/gateway.yaml").stat().st_mode & 0o777 == 0o640
    command = [
        "/usr/bin/python3",
        "-I",
        "-c",
        "import sys; sys.path.insert(0, sys.argv.pop()); import gateway.cli",
    ]
    subprocess.run([*command, str(tree / "usr/lib/mqtt-edge-gateway")], check=True)
