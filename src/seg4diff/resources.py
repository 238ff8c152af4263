"""Where the files are that come with the package: the configuration and the tiny model."""

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
