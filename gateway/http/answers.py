"""Answers in JSON."""

from __future__ import annotations

import orjson
from starlette.responses import Response


def json_answer(value: object, status: int = 200) -> Response:
    return Response(
        orjson.dumps(value, option=orjson.OPT_NON_STR_KEYS), status, media_type="application/json"
    )
