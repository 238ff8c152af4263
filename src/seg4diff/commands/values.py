"""Values of the configuration against the constructors that they are for: 1e4 is a whole number, and banana is no seed."""

import math
from collections.abc import Mapping, Sequence
from collections.abc import Set as AbstractSet
from inspect import isclass
from types import NoneType, UnionType
from typing import Any, Literal, Union, get_args, get_origin, get_type_hints

from hydra.utils import get_object
from omegaconf import DictConfig, ListConfig, OmegaConf
from omegaconf.errors import InterpolationResolutionError

from seg4diff.commands.keys import key_to_set
from seg4diff.errors import UserError

Kinds = Mapping[str, Any]
TOP: Kinds = {
    "": {
        "seed": int,
        "expert_layer": int | None,
        "protocol": str,
        "task_name": str,
        "mode": str,
        "validate_first": bool,
        "ckpt_path": str | None,
        "ckpt": str,
        "split": str,
        "geometry": str,
        "release_compat": bool,
        "sweep_objective": str,
        "decode": int | str,
        "images": int | str,
        "layer_sweep": str | None,
        "expert_from": str | None,
    },
    "backbone": {"image_size": tuple[int, int], "dtype": str, "precision": str},
    "backbone.samples": {"guidance": float, "steps": int, "size": tuple[int, int]},
    "backbone.merging": {"threshold": float, "rounds": int},
}
"""Types of the values that belong to no constructor, by their group."""
WORDS = {int: "a whole number", float: "a number", bool: "true or false", str: "text", NoneType: "null"}
EXAMPLES = {int: "[1,2]", float: "[0.5,1.0]"}
OURS = ("seg4diff.", "lightning.")
"""Packages whose constructors have type hints."""


class Misfit(ValueError):
    """A value is of another kind."""


def check_values(config: DictConfig) -> None:
    """Bring the values of a configuration, or of a node of it, to the kind that they are for, in place.

    A whole number may be written as 1e4 or 2.0, and one number stands for a square size.

    Raises:
        UserError: a value is of another kind.
    """
    kinds = {**TOP.get(config._get_full_key(None), {}), **constructor_kinds(config.get("_target_"))}
    name: Any
    for name in config:
        if OmegaConf.is_missing(config, name):
            continue
        try:
            value = config[name] if name in kinds or not OmegaConf.is_interpolation(config, name) else None
        except InterpolationResolutionError:  # whoever needs the value reports it
            continue
        nodes = _nodes(value)
        for node in nodes:
            check_values(node)
        if name not in kinds or any("_target_" in node for node in nodes):
            continue
        key = key_to_set(config._get_root(), config._get_full_key(name))
        plain = OmegaConf.to_container(value, resolve=True) if OmegaConf.is_config(value) else value
        try:
            fitted = fit(plain, kinds[name])
        except Misfit:
            raise UserError(f"{key} must be {words(kinds[name])}, found {_shown(plain)}.") from None
        if repr(fitted) != repr(plain):  # 2 and 2.0 are equal
            OmegaConf.update(config._get_root(), key, fitted)


def constructor_kinds(target: str | None) -> Kinds:
    """The type hints of what `_target_` names, those of the classes it inherits from included."""
    if target is None or not target.startswith(OURS):
        return {}
    found = get_object(target)
    owner = found if isclass(found) else getattr(found, "__self__", None)  # a classmethod hands its options to the constructor
    functions = [kind.__dict__["__init__"] for kind in reversed(owner.__mro__) if "__init__" in kind.__dict__] if isclass(owner) else []
    kinds: dict[str, Any] = {}
    for function in functions if isclass(found) else [*functions, found]:
        try:
            kinds |= get_type_hints(function)
        except NameError:  # a library's hint that exists for its own checks alone
            continue
    return {name: kind for name, kind in kinds.items() if name != "return"}


def fit(value: Any, kind: Any) -> Any:
    """The value as the kind that a type hint names.

    Raises:
        Misfit: it is of another kind.
    """
    origin, arguments = get_origin(kind), get_args(kind)
    if origin in (Union, UnionType):
        return _fit_one_of(value, arguments)
    if origin is Literal:
        return _fit_one_of(value, tuple({type(choice) for choice in arguments}))
    if isclass(origin) and issubclass(origin, tuple) and arguments and Ellipsis not in arguments:
        parts = [value] * len(arguments) if isinstance(value, int | float) else value
        if not isinstance(parts, list | tuple) or len(parts) != len(arguments):
            raise Misfit
        return [fit(part, own) for part, own in zip(parts, arguments, strict=True)]
    if isclass(origin) and issubclass(origin, Mapping):
        if not isinstance(value, Mapping):
            raise Misfit
        return {key: fit(own, arguments[1]) for key, own in value.items()}
    if isclass(origin) and issubclass(origin, Sequence | AbstractSet):
        if not isinstance(value, list | tuple):
            raise Misfit
        return [fit(own, arguments[0]) for own in value]
    return _fit_single(value, kind) if isclass(kind) and kind is not Any else value


def _fit_single(value: Any, kind: type) -> Any:
    if kind in (int, float) and isinstance(value, bool):
        raise Misfit
    if kind is int and isinstance(value, float) and value.is_integer():
        return int(value)
    if kind is float and isinstance(value, int | float) and math.isfinite(value):
        return float(value)
    if kind is str and isinstance(value, int) and not isinstance(value, bool):
        return str(value)  # a folder may be called 2017
    if kind is float or not isinstance(value, kind):
        raise Misfit
    return value


def _fit_one_of(value: Any, kinds: Sequence[Any]) -> Any:
    """As the first of these kinds that takes the value as it is, or else at all; where counts and shares are taken, 1e3 is a count."""
    if isinstance(value, float) and value > 1 and int in kinds and value.is_integer():
        return int(value)
    fitted = []
    for kind in kinds:
        try:
            fitted.append(fit(value, kind))
        except Misfit:
            continue
    if not fitted:
        raise Misfit
    return next((one for one in fitted if type(one) is type(value)), fitted[0])


def words(kind: Any) -> str:
    """A type hint in words."""
    origin, arguments = get_origin(kind), get_args(kind)
    if origin in (Union, UnionType):
        *others, last = dict.fromkeys(words(own) for own in arguments if own in WORDS or not isclass(own))
        return f"{', '.join(others)} or {last}" if others else last
    if origin is Literal:
        return "one of " + ", ".join(map(str, arguments))
    if isclass(origin) and issubclass(origin, tuple) and Ellipsis not in arguments:
        return f"{words(arguments[0])} or a list of {len(arguments)} of them"
    if isclass(origin) and issubclass(origin, Mapping):
        return f"names with {words(arguments[1])} for each, as in {{name: value}}"
    if isclass(origin) and issubclass(origin, Sequence | AbstractSet):
        return f"a list such as {EXAMPLES.get(arguments[0], '[a,b]')}"
    return WORDS.get(kind, f"a group with a _target_ ({getattr(kind, '__name__', kind)})")


def _nodes(value: Any) -> Sequence[DictConfig]:
    """The nodes in a value."""
    if isinstance(value, DictConfig):
        return [value]
    return [own for own in value if isinstance(own, DictConfig)] if isinstance(value, ListConfig) else []


def _shown(value: Any) -> str:
    return {None: "null", True: "true", False: "false"}.get(value, repr(value)) if isinstance(value, bool | None) else repr(value)
