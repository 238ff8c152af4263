"""`seg4diff app`: a page in the browser; docs/app.md says what it shows."""

import logging
import os
from importlib.util import find_spec
from pathlib import Path
from threading import Event
from typing import Any

from seg4diff.backbones.loading import quiet_hosts
from seg4diff.errors import UserError

log = logging.getLogger(__name__)

PASSWORD = "SEG4DIFF_APP_PASSWORD"
"""Environment variable of the password: what stands in a command is seen by every user of a machine."""


def serve_page(load_options: dict[str, Any], *, analysis: Path | None, host: str, port: int) -> None:
    """Serve the page until Ctrl-C; see `seg4diff.app.server.served` for the arguments.

    Raises:
        UserError: gradio is not installed, or see `served`.
    """
    if find_spec("gradio") is None:
        raise UserError('the page needs gradio: pip install "seg4diff[app]", or in a checkout pip install -e ".[app]".')
    from seg4diff.app.server import served

    quiet_hosts()
    with served(load_options, analysis=analysis, host=host, port=port, password=os.environ.get(PASSWORD)) as page:
        log.info("the page is at %s (Ctrl-C stops it)", page.local_url)
        Event().wait()
