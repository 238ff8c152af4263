"""Where the files that come with the package are: the configuration and the tiny model."""

import os
from pathlib import Path

PACKAGE = Path(__file__).parent
CHECKOUT = PACKAGE.parents[1]


def in_checkout() -> bool:
    """Whether the package lies in a checkout of its repository and not in an installed wheel."""
    return (CHECKOUT / "conf" / "train.yaml").is_file() and (CHECKOUT / "pyproject.toml").is_file()


def conf_dir() -> Path:
    """The folder conf/: the top level of a checkout, inside the package in a wheel."""
    return (CHECKOUT if in_checkout() else PACKAGE) / "conf"


def assets_dir() -> Path:
    """The folder assets/ with the tiny model, as `conf_dir`."""
    return (CHECKOUT if in_checkout() else PACKAGE) / "assets"


def set_places() -> None:
    """Tell conf/paths where the checkout and the tiny model are, where that is not the present folder; child processes inherit it."""
    if not in_checkout():
        os.environ.setdefault("SEG4DIFF_ASSETS", str(assets_dir()))
    elif Path.cwd().resolve() != CHECKOUT.resolve():
        os.environ.setdefault("SEG4DIFF_ROOT", str(CHECKOUT))
