"""The pages for people: the reference at /docs and the problems at /docs/problems.

They are rendered from the OpenAPI document, need no script, and load nothing from elsewhere.
"""

from collections.abc import Iterable
from html import escape
from pathlib import Path
from typing import Any

from overnight.api.openapi import PROBLEM_MEDIA
from overnight.api.problems import KINDS

Json = dict[str, Any]


def style() -> bytes:
    return Path(__file__).with_name("docs.css").read_bytes()


def reference(document: Json) -> str:
    operations = [
        (path, method, operation)
        for path, methods in document["paths"].items()
        for method, operation in methods.items()
    ]
    tags = list(dict.fromkeys(operation["tags"][0] for *_, operation in operations))
    parts = [
        f"<h1>overnight {escape(document['info']['version'])}</h1>",
        f"<p>{_prose(document['info']['description'])}</p>",
        '<p><a href="/openapi.json">OpenAPI 3.1</a> · <a href="/docs/problems">Problems</a></p>',
    ]
    for tag in tags:
        parts.append(f"<h2>{escape(tag)}</h2>")
        parts += [_operation(*called) for called in operations if called[2]["tags"][0] == tag]
    parts.append("<h2>Schemas</h2>")
    parts += [_schema(name, schema) for name, schema in document["components"]["schemas"].items()]
    return _page("overnight: HTTP API", parts)


def problems() -> str:
    parts = [
        "<h1>Problems</h1>",
        '<p>Codes stay the same; the list can grow. <a href="/docs">Reference</a></p>',
    ]
    for code, kind in KINDS.items():
        parts.append(
            f'<section id="{code}"><h3><b>{kind.status}</b> <code>{code}</code>: {escape(kind.title)}</h3>'
            f"<p>{_prose(kind.meaning)}</p></section>"
        )
    return _page("overnight: problems", parts)


def _page(title: str, parts: Iterable[str]) -> str:
    return (
        '<!doctype html>\n<html lang="en"><head><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width">'
        f'<title>{escape(title)}</title><link rel="stylesheet" href="/docs/style.css"></head>\n'
        f"<body>{chr(10).join(parts)}</body></html>\n"
    )


def _operation(path: str, method: str, operation: Json) -> str:
    parts = [
        f'<section id="{operation["operationId"]}">',
        f"<h3><b>{method.upper()}</b> <code>{escape(path)}</code></h3>",
        f"<p>{_prose(operation['summary'])}. {_prose(operation['description'])}</p>",
    ]
    if operation["parameters"]:
        rows = [
            (
                parameter["name"],
                f"{parameter['in']}, {_type(parameter['schema'])}",
                parameter.get("description", ""),
            )
            for parameter in operation["parameters"]
        ]
        parts.append(_table("Parameters", rows))
    if "requestBody" in operation:
        content = operation["requestBody"]["content"]
        parts.append(f"<p>Body: {_media(content)}</p>")
    rows = [
        (status, _media(reply["content"]), reply["description"])
        for status, reply in operation["responses"].items()
    ]
    return "\n".join([*parts, _table("Answers", rows, linked=True), "</section>"])


def _media(content: Json) -> str:
    """HTML: each media type but that of problems, with a link to its schema."""
    shown = [
        f"<code>{escape(media)}</code> {_link(told['schema'])}"
        for media, told in content.items()
        if media != PROBLEM_MEDIA
    ]
    return ", ".join(shown)


def _link(schema: Json) -> str:
    if "$ref" not in schema:
        return ""
    name = schema["$ref"].rpartition("/")[2]
    return f'<a href="#{name}">{name}</a>'


def _schema(name: str, schema: Json) -> str:
    required = set(schema.get("required", ()))
    rows = [
        (field, _type(told) + (", required" if field in required else ""), _description(told))
        for field, told in schema.get("properties", {}).items()
    ]
    values = ", ".join(f"<code>{escape(str(value))}</code>" for value in schema.get("enum", ()))
    parts = [
        f'<section id="{name}"><h3>{name}</h3>',
        f"<p>{_prose(schema.get('description', ''))} {values}</p>",
    ]
    return "\n".join([*parts, _table("", rows) if rows else "", "</section>"])


def _description(schema: Json) -> str:
    choices = schema.get("anyOf", ())
    return schema.get("description") or next(
        (told["description"] for told in choices if "description" in told), ""
    )


def _type(schema: Json) -> str:
    """In words, as short as they help: `string or null`, `array of ToolRule`."""
    if "$ref" in schema:
        return str(schema["$ref"].rpartition("/")[2])
    if "anyOf" in schema:
        return " or ".join(_type(choice) for choice in schema["anyOf"])
    if schema.get("type") == "array":
        return f"array of {_type(schema.get('items', {}))}"
    return str(schema.get("format") or schema.get("type", "any"))


def _table(caption: str, rows: Iterable[tuple[str, str, str]], *, linked: bool = False) -> str:
    """The first cell is a name, the second plain text (or HTML if `linked`), the third prose."""
    body = "".join(
        f"<tr><td><code>{escape(name)}</code></td><td>{what if linked else escape(what)}</td>"
        f"<td>{_prose(told)}</td></tr>"
        for name, what, told in rows
    )
    heading = f"<caption>{escape(caption)}</caption>" if caption else ""
    return f"<table>{heading}{body}</table>"


def _prose(text: str) -> str:
    """Paragraphs, and `code` between backticks."""
    pieces = escape(text).replace("\n\n", "</p><p>").split("`")
    return "".join(f"<code>{piece}</code>" if odd % 2 else piece for odd, piece in enumerate(pieces))
