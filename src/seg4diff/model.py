"""What a person holds: a `Model` segments pictures, generates images and shows what its blocks attend to."""

from collections.abc import Iterator, Sequence
from itertools import product
from pathlib import Path
from typing import Any

import torch

from seg4diff.attention.seam import visits
from seg4diff.backbones.base import Backbone
from seg4diff.data.geometry import Geometry
from seg4diff.data.sample import IGNORE
from seg4diff.errors import UserError, of_kind, renamed
from seg4diff.generation.requests import Request, Sampling
from seg4diff.generation.sampler import MapReader, draw
from seg4diff.inputs import CanvasPicture, Picture, check_use, check_words, to_presence, to_size, words_of_each
from seg4diff.presets import Preset
from seg4diff.results import BlockAttention, Generated, Segmentation, by_size
from seg4diff.segmentation.clips import check_clip, clip_maps
from seg4diff.segmentation.presence import Presence
from seg4diff.segmentation.prompts import split_names
from seg4diff.segmentation.proposals import ProposalReadout, label_proposals
from seg4diff.segmentation.readers.base import Reader
from seg4diff.segmentation.readout import Readout
from seg4diff.segmentation.refine import Refiner


class Model:
    """A text-to-image transformer, and how segmentations are read from it.

    Args:
        backbone: the model.
        preset: how it is read.
        block: block that is read; None = the preset's expert.
        sigma: noise level at which maps are read; None = the preset's.
        image_size: (height, width) that the model sees; None = the preset's.
        lora: file or folder that its LoRA was loaded from.

    Attributes:
        backbone: the model.
        block: block that is read.
        preset: how models of its kind are read.
        readout: how it is read.
        lora: file or folder that its LoRA was loaded from; None = there is none, or it came with a pipeline.
        image_size: (height, width) that the model sees; pictures of another shape are padded.

    Raises:
        UserError: the block is not known or does not exist, or the model does not take the size.
    """

    def __init__(
        self,
        backbone: Backbone,
        preset: Preset,
        *,
        block: int | None = None,
        sigma: float | None = None,
        image_size: int | Sequence[int] | None = None,
        lora: Path | None = None,
    ) -> None:
        of_kind("a whole number", int, block=block)
        of_kind("a number", int, float, sigma=sigma)
        chosen = preset.expert if block is None else block
        if chosen is None:
            raise UserError("no expert block is known for this model: say which block is to be read, as in `block=9`.")
        self.backbone, self.block, self.lora = backbone, chosen, lora
        self.image_size = preset.image_size if image_size is None else to_size(image_size)
        self._samples = preset.samples | ({} if image_size is None else {"size": self.image_size})
        self.preset, self.readout = preset, Readout(**preset.readout | ({} if sigma is None else {"sigma": sigma}))
        if not 0 <= chosen < (blocks := len(backbone.attention_sites())):
            raise UserError(f"`block` must be one of this model's joint-attention blocks, 0 to {blocks - 1}, found {chosen}.")
        backbone.token_grid(*self.image_size)

    def at(self, *, block: int | None = None, sigma: float | None = None) -> "Model":
        """The same model, read at another block or noise level; the weights are shared.

        Raises:
            UserError: the block does not exist, or the noise level is out of range.
        """
        chosen, level = self.block if block is None else block, self.readout.sigma if sigma is None else sigma
        other = Model(self.backbone, self.preset, block=chosen, sigma=level, image_size=self.image_size, lora=self.lora)
        other._samples = self._samples
        return other

    @torch.no_grad()
    def segment(
        self,
        pictures: Picture | Sequence[Picture],
        words: Sequence[str] | Sequence[Sequence[str]] | None = None,
        *,
        geometry: Geometry = "letterbox",
        background: float | None = None,
        threshold: float | None = None,
        reader: str | Reader = "expert",
        presence: str | Path | Presence = "none",
        refine: str | Refiner = "none",
        clip: bool = False,
    ) -> Segmentation | list[Segmentation]:
        """Find words in pictures, or regions without words.

        Args:
            pictures: one picture, or a list of them, which is one batch.
            words: what to look for; for a list of pictures also a list of words for each. None: regions, numbered from the largest.
            geometry: how a picture meets `image_size`: "letterbox" whole and padded, "stretch" whole in another shape, "crop" its centre.
            background: with words, the level in [0, 1] that the map of some word, scaled to [0, 1], must reach where a pixel gets a label.
                None: every pixel has the word whose map is highest there.
            reader: with words, how their maps are read: the name of a file in conf/reader, or a reader.
            presence: with words, which of them are in the picture: "none" for any, "words" by comparing their maps, or a calibration, see
                `seg4diff.calibration.calibrate`, or its file.
            refine: with words, what becomes of their maps at the pixels of the picture: the name of a file in conf/refine, or a refiner.
            clip: with words, whether the pictures are the frames of one clip, in order, which a video model sees together.
            threshold: without words, the divergence in nats below which two maps are one region; None: that of the preset.

        Returns:
            A `Segmentation`, or a list of them for a list of pictures.

        Raises:
            UserError: a picture cannot be read, a word is empty, repeated or too long, or an argument is of no use with or without words.
        """
        sources: list[Any] = list(pictures) if isinstance(pictures, list | tuple) else [pictures]
        check_use(words, threshold=threshold, background=background, clip=clip, chosen=(reader, presence, refine))
        asked = words_of_each(words, len(sources))
        placed = [CanvasPicture(source, self.image_size, geometry) for source in sources]
        if clip:
            check_clip(self.backbone, [one.picture.size for one in placed], asked)
        if words is None:
            found = self._regions(placed, threshold)
        else:
            known = to_presence(presence, self.preset, [self.about(reader, own, geometry) for own in asked], clip)
            level = {} if background is None else {"background": background}
            found = self._words(placed, asked, self.read_by(reader, refine).changed(presence=known, **level), clip)
        return found if isinstance(pictures, list | tuple) else found[0]

    def read_by(self, reader: str | Reader, refine: str | Refiner = "none") -> Readout:
        """The readout with a reader and a refinement: see `segment`."""
        return self.readout.changed(reader=self.preset.part("reader", reader), refine=self.preset.part("refine", refine))

    def about(self, reader: str | Reader, words: Sequence[str], geometry: Geometry) -> dict[str, str]:
        """What the maps of words depend on, by name: what a calibration must have in common with its use."""
        own = self.preset.part("reader", reader)
        options = f"{type(own).__name__} {vars(own)}"
        found = {"model": self.backbone.fingerprint(), "block": self.block, "reader": options, "noise level": self.readout.sigma}
        found |= {"image size": self.image_size, "vocabulary": ", ".join(words)}
        found |= {"content of the maps": self.readout.scores, "choice of heads": self.readout.heads, "geometry": geometry}
        return {name: str(value) for name, value in found.items()}

    def _words(self, placed: Sequence[CanvasPicture], asked: Sequence[Sequence[str]], readout: Readout, clip: bool) -> list[Segmentation]:
        prompts = [split_names(names, range(len(names)), self.backbone.fits) for names in asked]
        if clip:
            maps = clip_maps(self.backbone, readout, torch.stack([one.image for one in placed]), prompts[0], self.block)
        else:
            maps = readout.class_maps(self.backbone, self._stacked(placed), prompts, [0] * len(placed), [self.block])[self.block]
        level = None if readout.background is None else IGNORE
        return [one.of_words(own_names, own, readout, unlabelled=level) for one, own_names, own in zip(placed, asked, maps, strict=True)]

    def _stacked(self, placed: Sequence[CanvasPicture]) -> torch.Tensor:
        return torch.stack([one.image for one in placed]).to(self.backbone.device)

    def _regions(self, placed: Sequence[CanvasPicture], threshold: float | None) -> list[Segmentation]:
        merging = self.preset.merging | ({} if threshold is None else {"threshold": threshold})
        proposals = ProposalReadout(readout=self.readout, **merging)
        found = proposals.proposals(self.backbone, self._stacked(placed), [0] * len(placed), [self.block])[self.block]
        regions = [(one, *by_size(label_proposals(own, one.frame))) for one, own in zip(placed, found, strict=True)]
        return [one.result(numbers, labels, torch.zeros(0, 1, 1)) for one, labels, numbers in regions]

    def generate(
        self,
        prompts: str | Sequence[str],
        *,
        seeds: int | Sequence[int] = 0,
        guidance: float | None = None,
        steps: int | None = None,
        size: int | Sequence[int] | None = None,
        lora_scale: float | Sequence[float] | None = None,
        perturbed_guidance: float | None = None,
        perturbed_block: int | None = None,
        maps: bool | Sequence[str] = True,
        map_step: int | None = None,
        at_once: int = 1,
    ) -> Generated | list[Generated]:
        """Generate images with the plain diffusers pipeline, each with the map of every word over it.

        Args:
            prompts: one prompt, or a list of them.
            seeds: seed of the noise, or a list of them; every prompt is drawn with every seed.
            guidance: see `draw`.
            steps: see `draw`.
            size: see `draw`.
            lora_scale: factor on the LoRA, or a list: 0 = the base model, 1 = the LoRA as it was trained. None: the model as it stands.
            perturbed_guidance: see `draw`.
            perturbed_block: see `draw`.
            maps: see `draw`.
            map_step: see `draw`.
            at_once: see `draw`.

        Returns:
            A `Generated`, or, where one of the arguments is a list, a list of them: by prompt, then scale, then seed.

        Raises:
            UserError: see `draw`.
        """
        given = (prompts, lora_scale, seeds)
        lists = [list(value) if isinstance(value, list | tuple | range) else [value] for value in given]
        asked = [Request(prompt, seed, scale) for prompt, scale, seed in product(*lists)]
        order = sorted(range(len(asked)), key=lambda k: lists[1].index(asked[k].scale))  # what is drawn together has one scale
        options: dict[str, Any] = {"guidance": guidance, "steps": steps, "size": size, "maps": maps, "map_step": map_step}
        options |= {"perturbed_guidance": perturbed_guidance, "perturbed_block": perturbed_block, "at_once": at_once}
        drawn = dict(zip(order, self.draw([asked[k] for k in order], **options), strict=True))
        found = [drawn[k] for k in range(len(asked))]
        return found if any(isinstance(value, list | tuple | range) for value in given) else found[0]

    def draw(
        self,
        requests: Sequence[Request],
        *,
        guidance: float | None = None,
        steps: int | None = None,
        size: int | Sequence[int] | None = None,
        perturbed_guidance: float | None = None,
        perturbed_block: int | None = None,
        maps: bool | Sequence[str] = True,
        map_step: int | None = None,
        at_once: int = 1,
        share: tuple[int, int] = (0, 1),
        strip: Sequence[int] = (),
    ) -> Iterator[Generated]:
        """Generate the images of a list one after the other, without those whose file exists.

        Whoever takes an image writes it to `request.path`. A list that is stopped is then continued by the same call.

        Args:
            requests: prompts, seeds, LoRA scales and files.
            guidance: guidance scale; None: that of the preset, like `steps` and `size`.
            steps: sampling steps.
            size: (height, width) in pixels, or one number for a square.
            perturbed_guidance: scale of perturbed-I2T guidance (paper, Fig. 6), see `seg4diff.attention.guidance`; None: without it.
            perturbed_block: block that it perturbs; None: the block that is read.
            maps: whether the map of every word is read; or the words, which may have several parts, as in ["traffic cone"].
            map_step: sampling step from 0 at which maps are read; None: the one whose noise level is nearest to `sigma`.
            at_once: images that are drawn as one batch. Another number may change the last bit of an image.
            share: (k, n) = the k-th of n equal shares of the batches, for n processes with one list.
            strip: further steps from 0 whose maps `Generated.strip` holds.

        Raises:
            UserError: a value is out of range, a prompt is too long, a word stands in no prompt, or there is no LoRA to scale.
        """
        sampling, reader = self.sampling(guidance, steps, size, perturbed_guidance, perturbed_block), None
        if maps is not False:
            words = None if maps is True else check_words(maps, "maps")
            reader = MapReader(self.backbone, self.block, self.readout, map_step, words, strip)
        elif map_step is not None or strip:
            raise UserError(f"`{'strip' if strip else 'map_step'}` says when maps are read, and no map is read: leave it out.")
        return draw(self.backbone, requests, sampling, reader, at_once=at_once, share=share)

    def sampling(
        self,
        guidance: float | None = None,
        steps: int | None = None,
        size: int | Sequence[int] | None = None,
        perturbed_guidance: float | None = None,
        perturbed_block: int | None = None,
    ) -> Sampling:
        """How images are sampled: these values, and those of the preset for what is None; see `draw`."""
        names: dict[str, str] = {} if size is None else {"image_size": "`size`"}
        with renamed(names.get):
            given = {"guidance": guidance, "steps": steps, "size": None if size is None else to_size(size)}
            place = self.block if perturbed_block is None else perturbed_block
            perturbed = {"perturbed_guidance": perturbed_guidance, "perturbed_block": place}
            sampling = Sampling(**self._samples | {name: value for name, value in given.items() if value is not None} | perturbed)
            self.backbone.token_grid(*sampling.size)
        return sampling

    def attention(self, picture: Picture, prompt: str, *, blocks: Sequence[int] | str = "all") -> Iterator[BlockAttention]:
        """The attention of each block in one pass over a noisy picture, one block after the other; nothing is kept between them.

        Args:
            picture: the picture, padded to `image_size`.
            prompt: the text; its words can be looked up in each block.
            blocks: indices of the blocks, or "all".

        Raises:
            UserError: the picture cannot be read, the prompt is no text or too long, or a block does not exist.
        """
        every = range(len(self.backbone.attention_sites()))
        wanted: Any = every if blocks == "all" else blocks
        if isinstance(wanted, str) or not isinstance(wanted, Sequence) or not all(block in every for block in wanted):
            raise UserError(f"`blocks` must be 'all' or a list of this model's blocks, 0 to {len(every) - 1}, found {blocks!r}.")
        if not isinstance(prompt, str):
            raise UserError(f"`prompt` must be text, found {prompt!r}.")
        placed = CanvasPicture(picture, self.image_size, "letterbox")
        image = placed.image[None].to(self.backbone.device)
        with torch.no_grad():
            noisy, sigma = self.readout.noisy(self.backbone, image, [0])
            condition = self.backbone.encode_text([prompt])
        grid = self.backbone.token_grid(*self.image_size)
        for visit in visits(self.backbone, wanted, lambda: self.backbone.predict_velocity(noisy, sigma, condition)):
            yield BlockAttention(visit, grid, condition, prompt)
