"""Serve the page to this machine, and to others only with a password; nothing that it serves leads to another host."""

import json
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any

from starlette.middleware import Middleware
from starlette.responses import PlainTextResponse
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from seg4diff.app.desk import Desk
from seg4diff.app.limits import BYTES
from seg4diff.errors import UserError
from seg4diff.loading import load

if TYPE_CHECKING:
    import gradio as gr

HERE = ("127.0.0.1", "localhost", "::1")
"""Addresses that only this machine reaches."""
WAITING, MESSAGE_BYTES = 64, 2**20
"""Requests that wait for the model, and size of a message from a browser without its files, at most."""
POLICY = (
    "default-src 'self' data: blob: 'unsafe-inline' 'unsafe-eval'; base-uri 'self'; form-action 'self'; frame-ancestors 'self'; "
    "object-src 'none'"
)
"""What a browser may load for this page: what this server sends, and nothing from other hosts."""


class Guard:
    """Refuses messages that are too large or name a file on another host, and tells browsers to stay with this one.

    Args:
        app: the page, as an ASGI application.
    """

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """See ASGI."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return

        async def guarded(message: Message) -> None:
            if message["type"] == "http.response.start":
                extra = {b"content-security-policy": POLICY, b"referrer-policy": "no-referrer", b"x-content-type-options": "nosniff"}
                message["headers"] = [*message["headers"], *((name, value.encode()) for name, value in extra.items())]
            await send(message)

        kinds = [value for name, value in scope["headers"] if name == b"content-type"]
        if "=http" in scope["path"] or "proxy=" in scope["path"]:
            await PlainTextResponse("This page serves no file of another host.", 403)(scope, receive, guarded)
        elif scope["method"] == "POST" and not any(kind.startswith(b"multipart/") for kind in kinds):
            body = await _read(receive)
            if body is None or _names_another_host(body):
                reason = "This message is too large." if body is None else "This page takes uploaded files, and no addresses of files."
                await PlainTextResponse(reason, 413 if body is None else 403)(scope, receive, guarded)
            else:
                await self._app(scope, _again(body, receive), guarded)
        else:
            await self._app(scope, receive, guarded)


async def _read(receive: Receive) -> bytes | None:
    """The body of a message; None if it is too large."""
    parts, size, more = [], 0, True
    while more:
        message = await receive()
        parts.append(message.get("body", b""))
        size, more = size + len(parts[-1]), message.get("more_body", False)
        if size > MESSAGE_BYTES:
            return None
    return b"".join(parts)


def _again(body: bytes, receive: Receive) -> Receive:
    """Hand out a body that was read, then what comes after it."""
    waiting: list[Message] = [{"type": "http.request", "body": body, "more_body": False}]

    async def next_message() -> Message:
        return waiting.pop() if waiting else await receive()

    return next_message


def _names_another_host(body: bytes) -> bool:
    """Whether a message in JSON names a file by an address instead of a path."""
    try:
        content = json.loads(body or b"null")
    except (ValueError, RecursionError):
        return False  # the page refuses it
    met = [content]
    while met:
        value = met.pop()
        if isinstance(value, dict):
            if "://" in str(value.get("path", "")):
                return True
            met.extend(value.values())
        elif isinstance(value, list):
            met.extend(value)
    return False


@contextmanager
def served(
    load_options: dict[str, Any],
    *,
    analysis: Path | None = None,
    host: str = HERE[0],
    port: int = 7860,
    password: str | None = None,
) -> Iterator["gr.Blocks"]:
    """Within the block, the page of a model is served; afterwards uploads and results are deleted.

    Args:
        load_options: arguments of `seg4diff.load`.
        analysis: folder of a stored analysis of every block; None = none.
        host: address to serve on.
        port: port; 0 = the first free one from 7860 on.
        password: what the user "seg4diff" types to come in; None = nothing, on this machine alone.

    Raises:
        UserError: the page is to be served to other machines without a password, the model cannot be loaded, or the port is taken.
    """
    if host not in HERE and not password:
        raise UserError(f"`host={host}` lets other machines in, so it needs a password: set SEG4DIFF_APP_PASSWORD, or leave the host out.")
    given: dict[str, Any] = {
        key: str(value) if isinstance(value, Path) else value for key, value in load_options.items() if value not in (None, False)
    }
    os.environ["GRADIO_ANALYTICS_ENABLED"] = "False"  # read when gradio is imported, as is the next one by every page
    with TemporaryDirectory(prefix="seg4diff-app-") as folder:
        os.environ["GRADIO_TEMP_DIR"] = folder
        from seg4diff.app.page import CSS, build_page

        page = build_page(Desk(load(**given), given), Path(folder), analysis)
        page.queue(max_size=WAITING, api_open=False)
        try:
            _launch(page, host, port, password, CSS)
            yield page
        finally:
            page.close(verbose=False)


def _launch(page: "gr.Blocks", host: str, port: int, password: str | None, style: str) -> None:
    try:
        page.launch(
            server_name=host,
            server_port=port or None,
            auth=None if password is None else ("seg4diff", password),
            max_file_size=BYTES,
            state_session_capacity=WAITING,
            share=False,
            enable_monitoring=False,
            ssr_mode=False,
            pwa=False,
            mcp_server=False,
            footer_links=[],
            quiet=True,
            show_error=True,
            prevent_thread_lock=True,
            app_kwargs={"middleware": [Middleware(Guard)], "docs_url": None, "redoc_url": None},
            css=style,
            _frontend=False,  # gradio would ask the page for itself, and give up after three seconds on a busy machine
        )
    except OSError as error:
        raise UserError(f"the page cannot be served on `port={port}`: choose another one, as in `port={port + 1}`.") from error
