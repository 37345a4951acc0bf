"""The section `notify`: who is told of alarms."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from typing import Annotated

from pydantic import BeforeValidator, SecretStr, ValidationInfo, field_validator

from gateway.alarms.apprise_sender import AppriseSender, scheme_of
from gateway.alarms.notices import NotifyTarget
from gateway.config.types import (
    FilePath,
    Name,
    PriorityName,
    Section,
    blank_as_none,
    fault,
    read_secret,
    setting,
)
from gateway.core.errors import NotifyError


class NotifyEntry(Section):
    """Somewhere to send notifications of alarms. Needs the extra `notify`."""

    url_file: FilePath | None = setting(
        None, description="File with the [Apprise URL](https://github.com/caronc/apprise/wiki), on one line."
    )
    url: Annotated[SecretStr | None, BeforeValidator(blank_as_none)] = setting(
        None,
        validate_default=True,
        description="The URL itself. It holds secrets: better `${VARIABLE}` or `url_file` than plain text.",
    )
    priority: PriorityName = setting(
        "low", description="Alarms of this priority (of their window) and of more urgent ones are sent."
    )
    name: Name | None = setting(
        None, description="Name for log and metrics. Unset: the URL's kind with a number, such as `mailto-1`."
    )

    @field_validator("url")
    @classmethod
    def _one_url(cls, url: SecretStr | None, info: ValidationInfo) -> SecretStr | None:
        if "url_file" not in info.data:
            return url  # it has a fault of its own
        path = info.data["url_file"]
        if (path is None) == (url is None):
            raise fault("give url_file or url", "url_file: notify-url, a file with one Apprise URL")
        found = url if path is None else read_secret(path)
        if found is not None:
            try:
                AppriseSender(found.get_secret_value())
            except NotifyError as exc:
                raise fault(str(exc), exc.hint) from None
        return found


def notify_targets(entries: Sequence[NotifyEntry]) -> list[NotifyTarget]:
    """Return the targets; those without a name get one that is no secret."""
    kinds: Counter[str] = Counter()
    found = []
    for entry in entries:
        url = entry.url.get_secret_value() if entry.url is not None else ""
        kinds[scheme_of(url)] += 1
        name = entry.name or f"{scheme_of(url)}-{kinds[scheme_of(url)]}"
        found.append(NotifyTarget(name, url, entry.priority))
    return found
