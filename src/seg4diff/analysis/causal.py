"""What a block is for: it is perturbed while the model segments, and while it generates (paper, figures 5, 18 and 31)."""

from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager

import torch
from PIL import Image
from torch import Tensor

from seg4diff.analysis.scene import Case, LabelledScene, Place, Scene
from seg4diff.analysis.scored import label_map, pool_classes
from seg4diff.analysis.study import Findings, OwnPasses, Row, Setting
from seg4diff.analysis.tallies import ClassCounts, ImageValues
from seg4diff.attention.perturb import blur_text, remove, scale_text, text_temperature
from seg4diff.attention.seam import Visit, stream
from seg4diff.backbones.base import Backbone, TextCondition
from seg4diff.evaluation.metrics import confusion_of, counts_of, mean_iou
from seg4diff.finite import require_finite
from seg4diff.generation.sampler import sample_images

TEMPERATURE = 1.5
Perturb = Callable[[Backbone, int], AbstractContextManager[None]]
PERTURBATIONS: Mapping[str, Perturb] = {
    "blur": blur_text,
    "remove": remove,
    "text zero": lambda backbone, block: scale_text(backbone, block, 0.0),
    "text doubled": lambda backbone, block: scale_text(backbone, block, 2.0),
    "temperature": lambda backbone, block: text_temperature(backbone, block, TEMPERATURE),
}
"""See `seg4diff.attention.perturb`."""
CHANGE_INPUT = ("text zero",)
"""Those that change the queries and keys of the block itself, and so its own maps. A doubled input is normalised away."""
SEGMENTING = ("velocity", "estimate")


class Causal(OwnPasses):
    """Distance to what the model does without the perturbation, for every block and each of `PERTURBATIONS`.

    While segmenting, from the same noisy latents:
    velocity: |v' - v| / |v| of the predicted velocity.
    estimate: root mean square difference, in [0, 1], of the pixels of the image estimated in one step, latents - sigma v, decoded.
    gain: change of the mIoU of the maps of all later blocks together, whose pixels are pooled; and of the perturbed block's own maps if the
        perturbation changes what they are made of. The last block has no later ones.
    miou: of a block's own maps of these images without a perturbation.

    While generating, from the same noise:
    latents: |z' - z| / |z| of the last latents.
    pixels: root mean square difference of the pixels, in [0, 1]; and what networks say of the two images, where weights are named.
    Change of the agreement with the prompt, by each judge.
    """

    title = "causal tests"

    def __init__(self, setting: Setting) -> None:
        super().__init__(setting)
        kinds, trials = len(PERTURBATIONS), setting.trials
        self.distances = ImageValues(setting.levels, setting.blocks, kinds * len(SEGMENTING))
        self.maps = ClassCounts(setting.levels, setting.blocks, 2 * kinds + 2, len(setting.vocabulary))
        self.quantities = ("latents", *trials.pairs, *trials.texts)
        self.drawn = ImageValues(1, setting.blocks, kinds * len(self.quantities))
        self.clean = ImageValues(1, 1, len(trials.texts))

    def run(self, scene: Scene) -> None:
        """Count the images of a scene that are among the first of the analysis."""
        trials, numbers = self.setting.trials, list(self.setting.numbers)
        if isinstance(scene, LabelledScene) and (count := sum(case.number in numbers[: trials.segmented] for case in scene.cases)):
            for level in range(self.setting.levels):
                self._segment(scene, level, count)
        if count := sum(case.number in numbers[: trials.generated] for case in scene.cases):
            self._generate(scene.backbone, scene.cases[:count], numbers)

    def _segment(self, scene: LabelledScene, level: int, count: int) -> None:
        """The first images of a scene at one noise level."""
        cases, backbone = scene.cases[:count], scene.backbone
        noisy, sigma = (part[:count] for part in scene.noisy(level))
        inputs = (noisy, sigma, scene.condition[:count])
        clean, own = self._pass(backbone, inputs, cases, scene.blocks)
        image = estimate(backbone, noisy, sigma, clean)
        for block in scene.blocks:
            distances, labels = list[Tensor](), list[dict[int, list[Tensor]]]()
            for name, perturb in PERTURBATIONS.items():
                with perturb(backbone, block):
                    velocity, found = self._pass(backbone, inputs, cases, scene.blocks[block:])
                require_finite(velocity, f"the velocity under the perturbation {name} of block {block}")
                distances += [relative(velocity, clean), pixel_distance(estimate(backbone, noisy, sigma, velocity), image)]
                labels.append(found)
            for row, case in enumerate(cases):
                place = Place(case, level, block)
                self.distances.update(place, torch.stack([values[row] for values in distances]))
                self._count(place, [{at: maps[row] for at, maps in found.items() if at >= block} for found in [*labels, own]])

    def _pass(
        self, backbone: Backbone, inputs: tuple[Tensor, Tensor, TextCondition], cases: Sequence[Case], blocks: Sequence[int]
    ) -> tuple[Tensor, dict[int, list[Tensor]]]:
        """The velocity, and the label map of each image at each of these blocks."""
        labels = dict[int, list[Tensor]]()

        def read(visit: Visit) -> None:
            maps = self.setting.readout.token_maps(visit.joint, visit.block)
            labels[visit.block] = [self._labels(own, case) for own, case in zip(maps, cases, strict=True)]

        with stream(backbone, blocks, read):
            return backbone.predict_velocity(*inputs), labels

    def _labels(self, maps: Tensor, case: Case) -> Tensor:
        """Token maps (T, N) of an image as a label map."""
        return label_map(pool_classes(maps, case), case, self.setting.readout, self.setting)

    def _count(self, place: Place, labels: Sequence[dict[int, Tensor]]) -> None:
        """Label maps of a block and of those behind it, under each perturbation and without one: count its own, and the others together."""
        mask, classes = place.case.mask, len(self.setting.vocabulary)
        if mask is None or not classes:
            return
        ways = list[Tensor]()
        for found in labels:
            counts = {block: counts_of(confusion_of(own, mask, classes)) for block, own in found.items()}
            own = counts.pop(place.block)
            ways += [sum(counts.values(), torch.zeros_like(own)), own]
        self.maps.update(place, ways)

    def _generate(self, backbone: Backbone, cases: Sequence[Case], numbers: Sequence[int]) -> None:
        """The first images of a scene, or of the prompts that a judge has."""
        trials = self.setting.trials
        trials.move(backbone.device)
        pairs, texts = list(trials.pairs.values()), list(trials.texts.values())
        places = [numbers.index(case.number) for case in cases]
        seeds = [trials.seed + place for place in places]
        prompts = [trials.prompt(place, case.prompt.text) for place, case in zip(places, cases, strict=True)]

        def draw() -> tuple[list[Image.Image], Tensor]:
            last = dict[str, Tensor]()
            images = sample_images(backbone, prompts, seeds, trials.sampling, lambda _, latents: last.update(latents=latents))
            return images, last["latents"]

        images, latents = draw()
        agreement = torch.tensor([judge(images, prompts) for judge in texts]).reshape(len(texts), len(cases))
        for row, case in enumerate(cases):
            self.clean.update(Place(case, 0, 0), agreement[:, row])
        for block in range(self.setting.blocks):
            values = list[Tensor]()
            for perturb in PERTURBATIONS.values():
                with perturb(backbone, block):
                    others, ends = draw()
                values.append(relative(ends, latents))
                values += [torch.tensor(judge(others, images)) for judge in pairs]
                values += [torch.tensor(judge(others, prompts)) - before for judge, before in zip(texts, agreement, strict=True)]
            for row, case in enumerate(cases):
                self.drawn.update(Place(case, 0, block), torch.stack([own.float()[row] for own in values]))

    def result(self) -> Findings:
        """Quantities: see the class. "task" is segmenting or generating, which has no noise level; "maps" are whose the gain is of."""
        (segmented, distances), (generated, drawn), (_, clean) = self.distances.of_images(), self.drawn.of_images(), self.clean.of_images()
        rows, evidence = list[Row](), dict[str, Tensor]()
        if len(segmented):
            rows += self._segmented_rows(distances)
            evidence |= {"segmented": torch.tensor(segmented), "segmenting": distances}
        if len(generated):
            values = drawn.nanmean(dim=0)[0].unflatten(-1, (len(PERTURBATIONS), -1))  # (B, kinds, Q)
            for kind, name in enumerate(PERTURBATIONS):
                rows += _without_level(values[:, kind], self.quantities, name)
            before = dict(zip(self.setting.trials.texts, clean.nanmean(dim=0)[0, 0].tolist(), strict=True))
            rows += [_row(None, "none", "generating", None, name, value) for name, value in before.items()]
            evidence |= {"generated": torch.tensor(generated), "generating": drawn}
        return Findings(rows, evidence)

    def _segmented_rows(self, distances: Tensor) -> list[Row]:
        rows, means = list[Row](), distances.nanmean(dim=0).unflatten(-1, (len(PERTURBATIONS), -1))  # (L, B, kinds, Q)
        counts = self.maps.compute()
        miou = mean_iou(counts) if len(self.setting.vocabulary) else torch.full(counts.shape[:3], float("nan"))
        later, own = miou[:, :, 0::2], miou[:, :, 1::2]  # (L, B, kinds + 1), the last without a perturbation
        for kind, name in enumerate(PERTURBATIONS):
            more = {"perturbation": name, "task": "segmenting", "maps": None}
            rows += self.rows(means[:, :, kind], SEGMENTING, more)
            rows += self.rows((later[..., kind] - later[..., -1])[..., None], ("gain",), more | {"maps": "later blocks"})
            if name in CHANGE_INPUT:
                rows += self.rows((own[..., kind] - own[..., -1])[..., None], ("gain",), more | {"maps": "own"})
        return rows + self.rows(own[..., -1:], ("miou",), {"perturbation": "none", "task": "segmenting", "maps": "own"})


def _without_level(values: Tensor, quantities: Sequence[str], perturbation: str) -> list[Row]:
    """Values (B, Q) of generated images as lines of the table."""
    return [
        _row(block, perturbation, "generating", None, name, value)
        for block, own in enumerate(values.tolist())
        for name, value in zip(quantities, own, strict=True)
    ]


def _row(block: int | None, perturbation: str, task: str, maps: str | None, quantity: str, value: float) -> Row:
    columns = {"perturbation": perturbation, "task": task, "maps": maps}
    return {"sigma": None, "block": block, "head": None, **columns, "quantity": quantity, "value": value}


def estimate(backbone: Backbone, noisy: Tensor, sigma: Tensor, velocity: Tensor) -> Tensor:
    """The image (B, 3, H, W) in [-1, 1] that one step to the end arrives at: latents - sigma v, decoded."""
    return backbone.decode_image(noisy - sigma.view(-1, 1, 1, 1).to(velocity) * velocity)


def relative(values: Tensor, clean: Tensor) -> Tensor:
    """|values - clean| / |clean| of each row, (B,) on the CPU."""
    own, other = values.float().flatten(1).cpu(), clean.float().flatten(1).cpu()
    return (own - other).norm(dim=1) / other.norm(dim=1).clamp_min(torch.finfo(torch.float32).tiny)


def pixel_distance(images: Tensor, clean: Tensor) -> Tensor:
    """Root mean square difference of images (B, 3, H, W) in [-1, 1], as a share of the whole range: (B,) on the CPU."""
    return ((images.float() - clean.float()) / 2).flatten(1).square().mean(dim=1).sqrt().cpu()
