"""The reference of the configuration as Markdown, made from the models so that it cannot drift from them.

`python -m gateway.config.reference FILE` replaces what stands below the marker in FILE.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from gateway.config.schema import json_schema

MARKER = "<!-- below: written by python -m gateway.config.reference -->\n"


def reference() -> str:
    """Return one table per section, in the order of a configuration file."""
    schema = json_schema()
    sections = [("The file", schema), *_sections(schema, "", schema)]
    return "\n".join(line for title, section in sections for line in _table(title, section, schema))


def updated(document: str) -> str:
    """`document` with the part below the marker made anew."""
    head, marker, _ = document.partition(MARKER)
    return f"{head}{marker or MARKER}\n{reference()}\n"


def _sections(
    node: dict[str, Any], path: str, schema: dict[str, Any]
) -> Iterator[tuple[str, dict[str, Any]]]:
    """Each section below `node` that is an object with keys, with its path such as `cloud.tls`."""
    for name, value in node.get("properties", {}).items():
        inner = f"{path}.{name}" if path else name
        for target, is_list in _objects(value, schema):
            kind = target["properties"].get("type", {})
            variants = [kind["const"]] if "const" in kind else kind.get("enum", [])
            title = f"{inner}[]" if is_list else inner
            yield title + (f" of type {' or '.join(variants)}" if variants else ""), target
            yield from _sections(target, title, schema)


def _objects(value: dict[str, Any], schema: dict[str, Any]) -> Iterator[tuple[dict[str, Any], bool]]:
    """The objects with keys that a value can be, and whether it is a list of them."""
    value = _target(value, schema)
    if "properties" in value:
        yield value, False
    for choice in (*value.get("anyOf", ()), *value.get("oneOf", ())):
        yield from _objects(choice, schema)
    if isinstance(value.get("additionalProperties"), dict):
        yield from _objects(value["additionalProperties"], schema)
    if "items" in value:
        yield from ((target, True) for target, _ in _objects(value["items"], schema))


def _table(title: str, section: dict[str, Any], schema: dict[str, Any]) -> Iterator[str]:
    yield f"### {title}"
    yield from ("", section["description"].split("\n")[0], "", "| key | value | default | meaning |")
    yield "|---|---|---|---|"
    required = section.get("required", ())
    for name, value in section["properties"].items():
        default = "required" if name in required else _default(value)
        kind, meaning = _kind(value, schema), _meaning(value, schema)
        yield f"| `{name}` | {kind} | {default} | {meaning} |"
    yield ""


def _default(value: dict[str, Any]) -> str:
    default = value.get("default")
    return "" if default in (None, {}, [], "") else f"`{_literal(default)}`"


def _meaning(value: dict[str, Any], schema: dict[str, Any]) -> str:
    described: str = value.get("description") or _target(value, schema).get("description", "")
    # Examples of a type, such as durations, are told once, in the text above the tables.
    own = () if value.get("$comment") in ("duration", "rate", "host:port") else value.get("examples", ())
    examples = " or ".join(f"`{_literal(example)}`" for example in own)
    return described.replace("|", "\\|") + (f" For example {examples}." if examples else "")


def _target(value: dict[str, Any], schema: dict[str, Any]) -> dict[str, Any]:
    """Return the target of a `$ref`, or the value itself."""
    found: dict[str, Any] = schema["$defs"][value["$ref"].rsplit("/", 1)[1]] if "$ref" in value else value
    return found


def _literal(value: object) -> str:
    text = value if isinstance(value, str) else json.dumps(value)
    return text.replace("|", "\\|")


def _kind(value: dict[str, Any], schema: dict[str, Any]) -> str:
    """Return the type of a value in a word or two."""
    value = _target(value, schema)
    choices = [choice for choice in value.get("anyOf", ()) if choice.get("type") != "null"]
    literals = [value["const"]] if "const" in value else value.get("enum", [])
    if "$comment" in value:
        kind = str(value["$comment"])
    elif choices and "properties" not in value:  # a section may say which of its keys go together
        kind = " or ".join(dict.fromkeys(_kind(choice, schema) for choice in choices))
    elif literals:
        kind = ", ".join(dict.fromkeys(f"`{_literal(literal)}`" for literal in literals))
    elif "properties" in value or "oneOf" in value:
        kind = "section"
    elif value["type"] == "array":
        kind = f"list of {_plural(_kind(value['items'], schema))}"
    else:
        kind = _KINDS.get(value["type"], value["type"]) + _range(value)
    return kind


_KINDS = {
    "object": "mapping",
    "integer": "whole number",
    "boolean": "`true`, `false`",
    "string": "text",
}


def _plural(kind: str) -> str:
    return kind if kind == "text" else f"{kind}s"


def _range(value: dict[str, Any]) -> str:
    if "minimum" not in value:
        return ""
    return f" {value['minimum']} – {value['maximum']}" if "maximum" in value else f" ≥ {value['minimum']}"


def main(path: str) -> None:
    """Bring the file at `path` up to date."""
    file = Path(path)
    file.write_text(updated(file.read_text("utf-8")), "utf-8")


if __name__ == "__main__":
    main(sys.argv[1])
