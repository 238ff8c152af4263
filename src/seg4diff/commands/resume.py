"""Whether a run that is continued is still the same run: each field of its configuration has a class, which docs/resume.md shows."""

import logging
from collections.abc import Iterator, Mapping
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any

import torch
from omegaconf import DictConfig, OmegaConf

from seg4diff.commands.inherit import relocate
from seg4diff.commands.outputs import is_first_process
from seg4diff.errors import UserError
from seg4diff.presets import read_config, run_file_of

log = logging.getLogger(__name__)

REFUSED, APPLIED, FREE = "refused", "applied", "free"
FIELDS = (
    ("seed", REFUSED, "the order of the images, their noise and the first weights"),
    ("expert_layer", REFUSED, "the block that is aligned"),
    ("expert_from", FREE, "where expert_layer=auto looks; what it found is in expert_layer"),
    ("*runtime._target_", REFUSED, "the model"),
    ("*runtime.dtype", REFUSED, "the rounding of every step"),
    ("*runtime.preferred", FREE, "only the default of runtime.dtype"),
    ("*runtime.quantize", REFUSED, "the rounding of every step"),
    ("*runtime.attention", FREE, "speed and memory"),
    ("*runtime.gradient_checkpointing", FREE, "speed and memory"),
    ("*runtime.compile", FREE, "speed and memory"),
    ("*runtime.offload_encoders", FREE, "speed and memory"),
    ("*runtime.cache", FREE, "speed and memory"),
    ("*runtime.autoencoder*", REFUSED, "the latents"),
    ("*readout.*", APPLIED, "validation and test read with it from here on"),
    ("*protocol", APPLIED, "validation and test build their prompts by it from here on"),
    ("backbone.merging*", APPLIED, "the test reads with it"),
    ("backbone.samples*", APPLIED, "samples are drawn with it from here on"),
    ("backbone.model*", REFUSED, "the model, its revision and how it takes text"),
    ("backbone.expert_layer", FREE, "only the default of expert_layer"),
    ("backbone.dtype", FREE, "only the default of runtime.dtype"),
    ("backbone.precision", FREE, "only the default of trainer.precision"),
    ("backbone.image_size", FREE, "only the default of data.image_size and of the size of samples"),
    ("backbone.known_by*", FREE, "how a folder is recognised as this model"),
    ("backbone.lora_targets*", FREE, "only the default of lora.targets"),
    ("backbone.release*", FREE, "only what release_compat sets"),
    ("backbone.paper", FREE, "only which figures of the paper the tables show for comparison"),
    ("data._target_", REFUSED, "the images"),
    ("data.source*", REFUSED, "the images, how many, and their labels and captions"),
    ("data.image_size", REFUSED, "the images"),
    ("data.geometry", REFUSED, "the images"),
    ("data.resample", REFUSED, "the images"),
    ("data.scenes", REFUSED, "the images, how many"),
    ("data.root", FREE, "a place"),
    ("data.seed", REFUSED, "the order of the images"),
    ("data.batch_size", FREE, "how a step is divided"),
    ("data.eval_batch_size", FREE, "speed and memory"),
    ("data.num_workers", FREE, "speed and memory"),
    ("data.skip_unreadable", APPLIED, "how many unreadable images end the run, counted from its start"),
    ("data.test_split", APPLIED, "what the test counts"),
    ("lora*", REFUSED, "the LoRA: another alpha fits the same tensors and is another LoRA"),
    ("model._target_", REFUSED, "the method"),
    ("model.backbone*", REFUSED, "the model, its revision and how it takes text"),
    ("model.lora*", REFUSED, "the LoRA"),
    ("model.expert_layer", REFUSED, "the block that is aligned"),
    ("model.objective*", REFUSED, "the loss"),
    ("model.sigma*", REFUSED, "the noise levels"),
    ("model.prompt", REFUSED, "the loss"),
    ("model.align", REFUSED, "the loss"),
    ("model.flow_target", REFUSED, "the loss"),
    ("model.affinity_layer", REFUSED, "the loss"),
    ("model.seed", REFUSED, "the noise and the first weights"),
    ("model.lr", REFUSED, "the optimiser's state belongs to the earlier rate"),
    ("model.muon_lr", REFUSED, "as model.lr"),
    ("model.weight_decay", REFUSED, "as model.lr"),
    ("model.warmup_steps", REFUSED, "the rates of steps that are taken already"),
    ("model.decay_share", REFUSED, "the rates"),
    ("model.caption_dropout", REFUSED, "the captions"),
    ("model.vae*", REFUSED, "the model"),
    ("model.teacher*", REFUSED, "the latents that are learned"),
    ("model.kl_weight", REFUSED, "the loss"),
    ("model.edge_weight", REFUSED, "the loss"),
    ("model.latent_noise", REFUSED, "the loss"),
    ("model.crop", REFUSED, "the images"),
    ("model.save_to", FREE, "a place"),
    ("trainer._target_", REFUSED, "the steps"),
    ("trainer.precision", REFUSED, "the rounding of every step"),
    ("trainer.gradient_clip_*", REFUSED, "the size of every step"),
    ("trainer.use_distributed_sampler", REFUSED, "the order of the images"),
    ("trainer.max_steps", APPLIED, "the length, and with it the rates of the steps to come; not below the step reached"),
    ("trainer.max_epochs", APPLIED, "when this job ends"),
    ("trainer.max_time", APPLIED, "when this job ends"),
    ("trainer.val_check_interval", APPLIED, "when validation comes"),
    ("trainer.check_val_every_n_epoch", APPLIED, "when validation comes"),
    ("trainer.num_sanity_val_steps", APPLIED, "when validation comes"),
    ("trainer.limit_*_batches", APPLIED, "how many batches a validation or the test counts, or training takes before one"),
    ("trainer.accumulate_grad_batches", FREE, "how a step is divided"),
    ("trainer.devices", FREE, "how a step is divided"),
    ("trainer.num_nodes", FREE, "how a step is divided"),
    ("trainer.strategy*", FREE, "how processes talk to each other"),
    ("trainer.accelerator", FREE, "the machine"),
    ("trainer.plugins", FREE, "how files are written"),
    ("trainer.default_root_dir", FREE, "a place"),
    ("trainer.log_every_n_steps", FREE, "what is shown"),
    ("trainer.enable_*", FREE, "what is shown"),
    ("callbacks.average*", REFUSED, "the moving average is a result of all steps"),
    ("callbacks*", APPLIED, "pictures, checkpoints and progress bars from here on"),
    ("evaluation*", APPLIED, "what the test counts"),
    ("reader*", APPLIED, "the test reads with it"),
    ("presence*", APPLIED, "the test weighs classes with it"),
    ("refine*", APPLIED, "the test refines with it"),
    ("backbone.affinity_layer", APPLIED, "the test reads with it"),
    ("validate_first", FREE, "it is over"),
    ("sweep_objective", FREE, "what a search looks at"),
    ("ckpt_path", FREE, "it says that the run is continued"),
    ("task_name", FREE, "a name"),
    ("mode", FREE, "it says that this is a training"),
    ("logger*", FREE, "what is shown, and where"),
    ("paths.*", FREE, "places; values below them go along"),
)
"""(Fields, class, what they decide); the first row that fits counts, and * stands for any text."""
FOUND = {
    "images_per_step": "keep the product of data.batch_size, trainer.accumulate_grad_batches and the number of processes",
    "precision": "set trainer.precision to that of the run",
    "weights": "set runtime.dtype to that of the run",
}
"""What the machine makes of the configuration and must not change, and what to do about it."""


def class_of(field: str) -> str | None:
    """The class of a field by its dotted name; None for one that is in no row."""
    return next((kind for pattern, kind, _ in FIELDS if fnmatchcase(field, pattern)), None)


def settings(config: DictConfig, images_per_step: int, precision: str, weights: set[torch.dtype]) -> dict[str, Any]:
    """What a checkpoint keeps of its run, as plain values: the configuration, and what the machine made of it.

    Args:
        config: of the run.
        images_per_step: over all processes and accumulated batches.
        precision: of the trainer.
        weights: dtypes of the model and its LoRA.
    """
    names = ", ".join(sorted(str(dtype).removeprefix("torch.") for dtype in weights))
    found = {"images_per_step": images_per_step, "precision": precision, "weights": names}
    return {"configuration": OmegaConf.to_container(config, resolve=True)} | found


def check_same_run(path: Path, checkpoint: dict[str, Any], present: dict[str, Any], max_steps: int) -> None:
    """Compare what is asked for now with the settings in a checkpoint and with the config.yaml of its run; say where the run goes on.

    Args:
        path: the checkpoint.
        checkpoint: its content.
        present: `settings` of this start.
        max_steps: length of the run that is asked for.

    Raises:
        UserError: a field that must not change has changed, or the run is longer already.
    """
    step, changed = checkpoint["global_step"], dict[str, tuple[Any, Any]]()
    own = checkpoint.get("hyper_parameters", {})
    records = {path: own.get("configuration")}
    if file := run_file_of(path):
        records[file] = OmegaConf.to_container(read_config(file))
    for place, earlier in records.items():
        if earlier is not None:
            found = differences(earlier, present["configuration"])
            _refuse(place, found)
            changed |= found
    for name, remedy in FOUND.items():
        if name in own and own[name] != present[name]:
            raise UserError(f"{name} of the run of {path} was {own[name]}, is {present[name]}: {remedy}.")
    if step > max_steps:
        raise UserError(f"{path} is at step {step} and trainer.max_steps is {max_steps}: a run can be made longer, but not shorter.")
    if is_first_process():
        _say(path, step, max_steps, changed, known=any(records.values()))


def _say(path: Path, step: int, max_steps: int, changed: dict[str, tuple[Any, Any]], known: bool) -> None:
    """One line says where the run goes on, another what has changed."""
    log.info("continuing %s at step %d of %d", path, step, max_steps)
    if not known:
        log.warning("the configuration of %s is not recorded, so it could not be checked that this is the same run", path)
    if changed:
        log.info("changed since then: %s", "; ".join(_name_changes(changed)))


def differences(earlier: Mapping[str, Any], present: Mapping[str, Any]) -> dict[str, tuple[Any, Any]]:
    """Fields whose values differ, with both values, by dotted name; a value below one of `paths` may have moved with it.

    A field that one side lacks is null there.
    """
    moves = {place: present["paths"][name] for name, place in earlier.get("paths", {}).items() if present.get("paths", {}).get(name)}
    old, new = dict(_leaves(relocate(earlier, moves))), dict(_leaves(present))
    return {field: (old.get(field), new.get(field)) for field in sorted(old | new) if old.get(field) != new.get(field)}


def _leaves(node: Mapping[str, Any], above: str = "") -> Iterator[tuple[str, Any]]:
    for name, value in node.items():
        if isinstance(value, Mapping) and value:
            yield from _leaves(value, f"{above}{name}.")
        else:
            yield f"{above}{name}", value or None if isinstance(value, Mapping) else value


def _refuse(place: Path, found: dict[str, tuple[Any, Any]]) -> None:
    refused = {field: values for field, values in found.items() if class_of(field) in (REFUSED, None)}
    if refused:
        raise UserError(
            f"the run of {place} cannot go on as another one ({'; '.join(_name_changes(refused))}): set these as they were, or start "
            "a new run in another hydra.run.dir."
        )


def _name_changes(found: dict[str, tuple[Any, Any]]) -> list[str]:
    """Each change once, under the shortest of the names that lead to it: lora.alpha is also model.lora.alpha."""
    changes: dict[str, str] = {}
    for field in sorted(found, key=lambda field: (field.count("."), len(field))):
        before, now = ("null" if value is None else value for value in found[field])
        changes.setdefault(f"{field.rpartition('.')[2]} {before} {now}", f"{field} was {before}, is {now}")
    return list(changes.values())
