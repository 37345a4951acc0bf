"""The wheel holds everything that the gateway needs beside its code."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from tests.support.places import ROOT

PAGE = {file.name for file in (ROOT / "gateway" / "http" / "page").iterdir()}
PLUGINS = {file.stem for file in (ROOT / "plugins").glob("*.py")}
LOOK = """
import gateway, sys
from gateway.http.assets import Assets
from gateway.pipeline.plugins_loader import find_plugins
assert gateway.__file__.startswith(sys.argv[1]), gateway.__file__
print(*sorted(Assets()._assets))
print(*find_plugins())
"""


@pytest.mark.slow  # pip fetches the build backend
def test_page_licence_and_plugins_are_in_the_wheel(tmp_path: Path) -> None:
    assert {"index.html", "uPlot.iife.min.js", "uPlot-LICENSE.txt"} <= PAGE
    pip = [sys.executable, "-m", "pip", "--quiet", "--disable-pip-version-check"]
    subprocess.run([*pip, "wheel", ROOT, "--no-deps", "-w", tmp_path], check=True)
    (wheel,) = tmp_path.glob("*.whl")
    installed = tmp_path / "installed"
    subprocess.run([*pip, "install", wheel, "--no-deps", "--target", installed], check=True)
    found = subprocess.run(
        [sys.executable, "-c", LOOK, installed],
        cwd=tmp_path,
        env={"PYTHONPATH": str(installed), "PATH": ""},
        capture_output=True,
        text=True,
        check=True,
    )
    page, plugins = found.stdout.splitlines()
    assert set(page.split()) == PAGE
    assert set(plugins.split()) >= PLUGINS
    assert [*installed.glob("*.dist-info/licenses/LICENSE")]
