"""Serve the page and the endpoint as a FastAPI application on 127.0.0.1."""

from __future__ import annotations

import asyncio
import json
import socket
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Annotated, Any, Literal

import uvicorn
from fastapi import FastAPI, Query, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse
from fastapi.staticfiles import StaticFiles
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect
from starlette.responses import FileResponse, Response

from ssfer import __version__
from ssfer.app.answers import Answer, ModelAnswer, Problem
from ssfer.app.limits import CONTENT_TYPES, Limits
from ssfer.app.recognition import Recognition, Refused
from ssfer.app.security import LocalOnly
from ssfer.app.work import Busy, Line
from ssfer.core.errors import SsferError, unknown_name

HOST = "127.0.0.1"
STATIC = Path(__file__).with_name("static")
PAGES = {"/": "index.html", "/docs": "docs.html"}
BACKLOG = 128  # connections that wait to be accepted
SERVER_LIMIT = 256  # connections; more than Limits.waiting, so that clients over that limit get a response, not a reset
_BODY = {
    "requestBody": {
        "required": True,
        "description": "The bytes of one picture, not a form.",
        "content": {kind: {"schema": {"type": "string", "format": "binary"}} for kind in CONTENT_TYPES},
    }
}
PARAMETERS = ("faces", "explain", "abstain")  # of POST /predict
_PROBLEMS = {
    400: "Not a usable picture, or a wrong parameter.",
    403: "The Host or Origin header names another machine.",
    408: "The upload took too long.",
    413: "Too many bytes or pixels.",
    415: "Not a picture of a known format.",
    503: "Too many requests; Retry-After says when to try again.",
    504: "The work took too long.",
}


def create_app(recognition: Recognition) -> FastAPI:
    """Return the application; `recognition` is called in one thread."""
    limits = recognition.limits
    app = FastAPI(title="ssfer", version=__version__, description="Facial expressions.", docs_url=None, redoc_url=None)
    app.add_middleware(LocalOnly)
    _add_errors(app, limits)
    line = Line(limits.waiting, limits.work_seconds)

    @app.post("/predict", openapi_extra=_BODY, responses={code: _problem(text) for code, text in _PROBLEMS.items()})
    async def predict(
        request: Request,
        faces: Annotated[Literal["all", "largest"], Query(description="Which faces.")] = "all",
        explain: Annotated[bool, Query(description="With a Grad-CAM map over each face.")] = False,
        abstain: Annotated[float, Query(ge=0, le=1, description="No class below this confidence.")] = 0.0,
    ) -> Answer:
        """Return the faces of the picture in the body, highest detector score first. Nothing is stored."""
        if len(request.query_params.multi_items()) > len(request.query_params):
            raise Refused(400, "a parameter is given twice; expected each once at most")
        if unknown := sorted(set(request.query_params) - set(PARAMETERS)):
            raise Refused(400, str(unknown_name("parameter", unknown[0], PARAMETERS)))
        with line.place():
            data = await _body(request, limits)
            return await line.run(partial(recognition, data, faces, explain, abstain))

    @app.get("/model")
    async def model() -> ModelAnswer:
        """Return the model's name and classes, and the limits of requests."""
        return ModelAnswer(
            **recognition.facts,
            max_bytes=limits.bytes,
            max_pixels=limits.pixels,
            content_types=list(CONTENT_TYPES),
        )

    for path, name in PAGES.items():
        app.get(path, include_in_schema=False)(_page(STATIC / name))
    app.mount("/static", StaticFiles(directory=STATIC))
    return app


def serve(recognition: Recognition, port: int) -> None:
    """Run the server on 127.0.0.1 until Ctrl-C.

    Raises:
        SsferError: the port is taken or not allowed.
    """
    listener = socket.socket()
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        listener.bind((HOST, port))
        listener.listen(BACKLOG)
    except OSError as error:
        raise SsferError(
            f"port {port} of {HOST} cannot be used ({error.strerror}); name another with --port"
        ) from error
    print(f"ssfer app: http://{HOST}:{listener.getsockname()[1]}   (Ctrl-C ends it; nothing is stored)", flush=True)
    config = uvicorn.Config(
        create_app(recognition),
        access_log=False,
        log_level="warning",
        server_header=False,
        proxy_headers=False,
        ws="none",
        lifespan="off",
        limit_concurrency=SERVER_LIMIT,
        timeout_keep_alive=10,
        timeout_graceful_shutdown=5,
    )
    uvicorn.Server(config).run(sockets=[listener])


async def _body(request: Request, limits: Limits) -> bytes:
    """Return the body; one that is too long is read to its end and dropped, so that the client gets the response.

    Raises:
        Refused: wrong content type, too long, or too slow.
    """
    kind = request.headers.get("content-type", "").partition(";")[0].strip().lower()
    if not kind.startswith("image/") and kind != "application/octet-stream":  # the decoder tells what it can read
        raise Refused(
            415,
            f"expected the bytes of a picture with Content-Type {', '.join(CONTENT_TYPES)}, found "
            f"'{kind[:80] or 'none'}'; send the file itself, not a form or a path",
        )
    kept, size = bytearray(), 0
    try:
        async with asyncio.timeout(limits.upload_seconds):
            async for chunk in request.stream():
                size += len(chunk)
                if size <= limits.bytes:
                    kept += chunk
                else:
                    kept.clear()
    except ClientDisconnect as error:
        raise Refused(400, "the connection ended before the upload did; send the picture again") from error
    except TimeoutError as error:
        raise Refused(
            408, f"the upload took longer than {limits.upload_seconds:g} s; send a smaller picture"
        ) from error
    if size > limits.bytes:
        raise Refused(413, f"expected at most {limits.bytes:,} bytes, found {size:,}; send a smaller picture")
    return bytes(kept)


def _add_errors(app: FastAPI, limits: Limits) -> None:
    """Make every error response one sentence under the key `error`."""

    def answer(status: int, sentence: str, headers: dict[str, str] | None = None) -> Response:
        return JSONResponse({"error": sentence}, status, headers)

    @app.exception_handler(Refused)
    async def refused(request: Request, error: Refused) -> Response:
        return answer(error.status, str(error))

    @app.exception_handler(Busy)
    async def busy(request: Request, error: Busy) -> Response:
        again = limits.retry_seconds
        sentence = f"{limits.waiting} requests are being processed already; try again after {again} s"
        return answer(503, sentence, {"Retry-After": str(again)})

    @app.exception_handler(TimeoutError)
    async def late(request: Request, error: TimeoutError) -> Response:
        return answer(504, f"no answer within {limits.work_seconds:g} s; send a smaller picture or fewer at a time")

    @app.exception_handler(RequestValidationError)
    async def invalid(request: Request, error: RequestValidationError) -> Response:
        first = error.errors()[0]
        found = json.dumps(first.get("input"), default=str)[:80]
        return answer(400, f"parameter {first['loc'][-1]}: {first['msg']}, found {found}; see /docs")

    @app.exception_handler(HTTPException)
    async def http(request: Request, error: HTTPException) -> Response:
        return answer(error.status_code, f"{error.detail}; see /docs for what there is", dict(error.headers or {}))

    @app.exception_handler(Exception)
    async def failed(request: Request, error: Exception) -> Response:
        return answer(500, "the server failed on this request; its terminal says why")


def _problem(text: str) -> dict[str, Any]:
    return {"model": Problem, "description": text}


def _page(path: Path) -> Callable[[], Response]:
    return lambda: FileResponse(path, media_type="text/html")
