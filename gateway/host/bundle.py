"""A support bundle: a tar file out of which every known secret was taken."""

from __future__ import annotations

import io
import json
import tarfile
import time
from collections.abc import Iterable, Mapping

HIDDEN = "**********"
_SHORTEST = 4  # what is shorter hides nothing, and would take letters out of every word


def write_bundle(parts: Mapping[str, str], secrets: Iterable[str], most_bytes: int | None = None) -> bytes:
    """Return the parts, by their file names, as a compressed tar file.

    Where it has more than `most_bytes`, the longest parts lose their beginnings.
    """
    parts, secrets = dict(parts), tuple(secrets)
    packed = _packed(parts, secrets)
    while most_bytes is not None and len(packed) > most_bytes and any(parts.values()):
        longest = max(parts, key=lambda name: len(parts[name]))
        parts[longest] = parts[longest][len(parts[longest]) // 2 + 1 :]
        packed = _packed(parts, secrets)
    return packed


def _packed(parts: Mapping[str, str], secrets: Iterable[str]) -> bytes:
    found = {form for each in secrets if len(each) >= _SHORTEST for form in _forms(each)}
    hidden = sorted(found, key=len, reverse=True)
    packed = io.BytesIO()
    with tarfile.open(fileobj=packed, mode="w:gz") as archive:
        for name, text in parts.items():
            for secret in hidden:
                text = text.replace(secret, HIDDEN)  # noqa: PLW2901 - one after the other
            content = text.encode("utf-8", "replace")
            about = tarfile.TarInfo(f"gateway-support/{name}")
            about.size, about.mtime, about.mode = len(content), int(time.time()), 0o600
            archive.addfile(about, io.BytesIO(content))
    return packed.getvalue()


def _forms(secret: str) -> set[str]:
    """Return a secret as it is, and as it stands in JSON."""
    return {secret, *(json.dumps(secret, ensure_ascii=ascii_only)[1:-1] for ascii_only in (True, False))}
