"""Certificates that expire when a test wants them to, made by OpenSSL."""

from __future__ import annotations

import subprocess
from pathlib import Path


def openssl(folder: Path, *arguments: str) -> str:
    done = subprocess.run(["openssl", *arguments], cwd=folder, check=True, capture_output=True, text=True)
    return done.stdout


def make_authority(folder: Path, name: str = "ca", days: int = 100, curve: bool = True) -> Path:
    """A self-signed certificate. `days` may be -1: it has expired."""
    kind = ("ec", "-pkeyopt", "ec_paramgen_curve:P-256") if curve else ("rsa:2048",)
    subject = ("-subj", f"/CN={name}", "-keyout", f"{name}.key", "-out", f"{name}.csr")
    openssl(folder, "req", "-newkey", *kind, "-nodes", *subject)
    (folder / "ca.ext").write_text("basicConstraints=critical,CA:TRUE\n")
    signed = ("-signkey", f"{name}.key", "-days", str(days), "-extfile", "ca.ext", "-out", f"{name}.pem")
    openssl(folder, "x509", "-req", "-in", f"{name}.csr", *signed)
    return folder / f"{name}.pem"


def make_certificate(folder: Path, name: str, days: int = 100, authority: str = "ca") -> Path:
    """A certificate of `authority` for `name` and localhost."""
    subject = ("-subj", f"/CN={name}", "-keyout", f"{name}.key", "-out", f"{name}.csr")
    kind = ("ec", "-pkeyopt", "ec_paramgen_curve:P-256")
    openssl(folder, "req", "-newkey", *kind, "-nodes", *subject)
    (folder / "names.ext").write_text("subjectAltName=DNS:localhost,IP:127.0.0.1\n")
    signer = ("-CA", f"{authority}.pem", "-CAkey", f"{authority}.key", "-CAcreateserial")
    made = ("-days", str(days), "-extfile", "names.ext", "-out", f"{name}.pem")
    openssl(folder, "x509", "-req", "-in", f"{name}.csr", *signer, *made)
    return folder / f"{name}.pem"
