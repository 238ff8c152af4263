"""Presets, the files of conf/backbone: a model's adapter, its expert block, and how its maps are read."""

import difflib
import posixpath
from collections.abc import Mapping
from dataclasses import dataclass, field
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException
from yaml import YAMLError

from seg4diff.errors import UserError
from seg4diff.resources import assets_dir, conf_dir

if TYPE_CHECKING:
    from seg4diff.backbones.pipeline import PipelineBackbone


@dataclass(frozen=True)
class Preset:
    """One file of conf/backbone, or the backbone of a run.

    Attributes:
        name: what to call it.
        path: folder or hub id of the model.
        revision: revision of a hub model, or None.
        adapter: the class of `seg4diff.backbones` that reads it.
        options: arguments of the adapter.
        expert: index of the expert block, or None where it is not known.
        dtype: torch dtype of the weights on an accelerator.
        image_size: (height, width) that the model sees.
        readout: arguments of `Readout`.
        merging: arguments of `ProposalReadout` besides the readout.
        samples: guidance, steps and size (height, width) with which images are generated.
        known_by: values of the transformer's configuration by which the model is recognised.
        parts: files of conf/reader, conf/presence and conf/refine for this model, by group and name.
    """

    name: str
    path: str
    revision: str | None
    adapter: "type[PipelineBackbone]"
    options: dict[str, Any]
    expert: int | None
    dtype: str
    image_size: tuple[int, int]
    readout: dict[str, Any]
    merging: dict[str, Any]
    samples: dict[str, Any]
    known_by: dict[str, Any] = field(default_factory=dict)
    parts: dict[str, dict[str, Any]] = field(default_factory=dict)

    @classmethod
    def named(cls, name: str) -> Self:
        """The preset of a file in conf/backbone.

        Raises:
            UserError: there is none of this name.
        """
        known = _pretrained()
        if name not in known:
            near = difflib.get_close_matches(name, known, n=1)
            meant = f" (did you mean {near[0]}?)" if near else ""
            raise UserError(f"there is no model called '{name}'{meant}: choose {', '.join(known)}, a folder or a hub id.")
        return cls.of(name, known[name])

    @classmethod
    def of(cls, name: str, backbone: Any) -> Self:
        """The preset of a `backbone` node."""
        groups = {group: {file.stem: OmegaConf.load(file) for file in files(group)} for group in ("reader", "presence", "refine")}
        places = {"backbone": backbone, "runtime": None, "paths": {"assets_dir": str(assets_dir())}, "parts": groups}
        whole = plain(OmegaConf.create(places))
        node = whole["backbone"]
        model, readout = node["model"], node["readout"]
        module, _, adapter = model["_target_"].removesuffix(".from_pretrained").rpartition(".")
        return cls(
            name=name,
            path=model["path"],
            revision=model.get("revision"),
            adapter=getattr(import_module(module), adapter),
            options={key: value for key, value in model.items() if key not in ("_target_", "path", "revision", "runtime")},
            expert=node["expert_layer"],
            dtype=node["dtype"],
            image_size=tuple(node["image_size"]),
            readout={key: value for key, value in readout.items() if key != "_target_"},
            merging=dict(node["merging"]),
            samples=node["samples"] | {"size": tuple(node["samples"]["size"])},
            known_by=node.get("known_by") or {},
            parts=whole["parts"],
        )

    def part(self, group: str, chosen: Any, **options: Any) -> Any:
        """A reader, a presence or a refinement: by the name of its file in conf/, with these options; an object stays as it is.

        Raises:
            UserError: there is none of this name, or the file has no such option.
        """
        known = self.parts[group]
        if not isinstance(chosen, str) and (hasattr(chosen, "read") if group == "reader" else callable(chosen)):
            return chosen
        if chosen not in known:
            raise UserError(f"`{group}` must be one of {', '.join(known)}, found '{chosen}'.")
        module, _, name = known[chosen]["_target_"].rpartition(".")
        given = {key: value for key, value in known[chosen].items() if key != "_target_"} | options
        return getattr(import_module(module), name)(**given)

    @classmethod
    def recognised(cls, what: str, pipeline_class: str, transformer: Mapping[str, Any]) -> Self:
        """The preset of a model that is given as a folder, a hub id or a pipeline.

        Args:
            what: what to call the model in an error.
            pipeline_class: name of its pipeline's class in diffusers.
            transformer: configuration of its transformer.

        Raises:
            UserError: it is none of those in conf/backbone.
        """
        presets = [cls.of(name, node) for name, node in _pretrained().items()]
        family = [preset for preset in presets if preset.adapter.pipeline_class.__name__ == pipeline_class]
        if not family:
            known = sorted({preset.adapter.pipeline_class.__name__ for preset in presets})
            raise UserError(f"{what} is a {pipeline_class}, and there are adapters for {', '.join(known)}.")
        for preset in family:
            if all(transformer.get(key) == value for key, value in preset.known_by.items()):
                return preset
        raise UserError(
            f"{what} is a {pipeline_class} of another size than those that are known ({', '.join(preset.name for preset in family)}): say "
            f"which of them it is to be read like, as in `like={family[0].name}`."
        )


def plain(config: DictConfig, *, resolve: bool = True) -> dict[str, Any]:
    """A configuration as plain dictionaries and lists; with `resolve`, interpolations are replaced by what they lead to."""
    content: Any = OmegaConf.to_container(config, resolve=resolve)
    return content


def names() -> list[str]:
    """The pretrained models of conf/backbone."""
    return list(_pretrained())


def files(group: str) -> list[Path]:
    """The files of a group of conf/, sorted."""
    return sorted((conf_dir() / group).glob("*.yaml"))


def _pretrained() -> dict[str, DictConfig]:
    """The files of conf/backbone but those of models that are built from scratch."""
    found = {file.stem: _composed(f"/backbone/{file.stem}") for file in files("backbone")}
    return {name: node for name, node in found.items() if not node.model._target_.endswith(".from_scratch")}


def _composed(name: str) -> DictConfig:
    """conf<name>.yaml over the files that its defaults name, as Hydra composes them; choices of groups in its defaults are left out."""
    own: Any = OmegaConf.load(f"{conf_dir()}{name}.yaml")
    named = [entry.partition("@")[0] for entry in own.pop("defaults", []) if isinstance(entry, str) and entry != "_self_"]
    whole = OmegaConf.merge(*(_composed(posixpath.join(posixpath.dirname(name), file)) for file in named), own)
    assert isinstance(whole, DictConfig), "a file of conf/ holds keys and values"
    return whole


def run_config(place: Path) -> DictConfig | None:
    """The configuration of the run that a LoRA or a checkpoint belongs to; None where there is none, or a file of another program."""
    file = run_file_of(place)
    config = None if file is None else read_config(file)
    return config if config is not None and "backbone" in config else None


def run_file_of(place: Path) -> Path | None:
    """The config.yaml of the run that a checkpoint or a LoRA folder lies in."""
    return next((folder / "config.yaml" for folder in place.resolve().parents[:2] if (folder / "config.yaml").is_file()), None)


def read_config(file: Path) -> DictConfig:
    """Read a run's config.yaml.

    Raises:
        UserError: it is damaged.
    """
    try:
        content = OmegaConf.load(file)
    except (YAMLError, OmegaConfBaseException, UnicodeDecodeError):
        content = None
    if not isinstance(content, DictConfig) or not content:
        raise UserError(f"{file} holds no configuration: it is damaged, so bring back the one of the run or remove it.")
    return content
