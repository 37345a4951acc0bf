"""Configurations of many sites out of one template: `${NAME}` is filled in where the site has a value.

What the site has no value for stays, for the environment of the gateway to fill in.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping

from gateway.config.document import Document, Path, read_document
from gateway.core.errors import ConfigError

_VARIABLE = re.compile(r"\$(?:\$|\{(?P<name>[A-Za-z_][A-Za-z0-9_]*)(?::-[^}]*)?\})")


def read_sites(text: str, source: str) -> dict[str, dict[str, str]]:
    """Return the values of each site: `plant-7: {CLOUD: mqtts://…}`. Raises ConfigError."""
    document = read_document(text, {})
    problems = [f"{source}:{problem.line or 1}: {problem.message}" for problem in document.problems]
    sites = document.data if isinstance(document.data, dict) else {}
    for name, values in sites.items():
        line = document.lines.get((name,), 1)
        if not isinstance(values, dict) or any(isinstance(each, dict | list) for each in values.values()):
            problems.append(f"{source}:{line}: {name}: a site has values: {{CLOUD: mqtts://cloud.example}}")
    if not sites and not problems:
        problems.append(f"{source}:1: there is no site; write NAME: {{VARIABLE: value}}, one a line")
    if problems:
        raise ConfigError(f"{source} cannot be used", tuple(problems))
    return {name: {key: _text(value) for key, value in values.items()} for name, values in sites.items()}


def render(template: str, values: Mapping[str, str], site: str) -> str:
    """Return the configuration of one site. Raises ConfigError where a value would change the structure."""

    def fill(match: re.Match[str]) -> str:
        name = match["name"]
        return values[name] if name in values else match[0]

    text = _VARIABLE.sub(fill, template)
    meant, made = _leaves(template, values), _leaves(text, {})
    if isinstance(meant, str):
        raise ConfigError(f"the template: {meant}", hint='write places in quotes: level: "${LEVEL}"')
    if meant != made:
        wrong = [key for key, value in values.items() if value and not _is_plain(value)]
        raise ConfigError(
            f"{site}: a value changes what the file says: {', '.join(wrong) or 'unknown'}",
            hint='write the place in the template in quotes: password: "${PASSWORD}"',
        )
    return text


def unused(template: str, values: Mapping[str, str]) -> list[str]:
    """Return the values that the template has no place for."""
    named = {match["name"] for match in _VARIABLE.finditer(template)}
    return [name for name in values if name not in named]


def open_variables(text: str) -> list[str]:
    """Return the variables without a default that the gateway's environment must bring."""
    found = (match for match in _VARIABLE.finditer(text) if match["name"] and ":-" not in match[0])
    return [*dict.fromkeys(match["name"] for match in found)]


def _leaves(text: str, values: Mapping[str, str]) -> dict[Path, str] | str:
    """Return the values in a text by their places; variables that stay are equal in both."""
    document = read_document(text, _Stays(values))
    problems = [problem.message for problem in document.problems]
    return "; ".join(problems) if problems else dict(_walk(document, document.data, ()))


def _walk(document: Document, data: object, path: Path) -> Iterator[tuple[Path, str]]:
    if isinstance(data, dict):
        for key, value in data.items():
            yield from _walk(document, value, (*path, key))
    elif isinstance(data, list):
        for position, value in enumerate(data):
            yield from _walk(document, value, (*path, position))
    else:
        yield path, _text(data)


class _Stays(dict[str, str]):
    """The values of a site; any other variable stands for itself."""

    def __contains__(self, name: object) -> bool:
        return True

    def get(self, name: str, default: object = None) -> str:
        return self[name] if name in self.keys() else f"${{{name}}}"


def _text(value: object) -> str:
    if value is None:
        return ""
    return str(value).lower() if isinstance(value, bool) else str(value)


def _is_plain(value: str) -> bool:
    return re.fullmatch(r"[A-Za-z0-9_./-]*", value) is not None
