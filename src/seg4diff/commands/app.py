"""`seg4diff app`: a page in the browser; docs/app.md says what it shows."""

import os
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from seg4diff.backbones.loading import quiet_hosts
from seg4diff.errors import UserError

PASSWORD = "SEG4DIFF_APP_PASSWORD"
"""Environment variable of the password: what stands in a command is seen by every user of a machine."""


def serve_page(load_options: dict[str, Any], *, analysis: Path | None, host: str, port: int) -> None:
    """Serve the page until Ctrl-C; see `seg4diff.app.server.serve` for the arguments.

    Raises:
        UserError: gradio is not installed, or see `serve`.
    """
    if find_spec("gradio") is None:
        raise UserError('the page needs gradio: pip install "seg4diff[app]", or in a checkout pip install -e ".[app]".')
    from seg4diff.app.server import serve

    quiet_hosts()
    serve(load_options, analysis=analysis, host=host, port=port, password=os.environ.get(PASSWORD))
