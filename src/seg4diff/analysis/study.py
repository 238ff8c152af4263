"""What a study is, and what it finds."""

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, ClassVar

from torch import Tensor, nn

from seg4diff.analysis.album import Album
from seg4diff.analysis.scene import LabelledScene, Look, Scene
from seg4diff.analysis.trials import Trials
from seg4diff.data.sample import Vocabulary
from seg4diff.segmentation.proposals import ProposalReadout
from seg4diff.segmentation.readout import Readout


@dataclass(frozen=True)
class Setting:
    """What all studies of an analysis know.

    Attributes:
        sigmas: noise levels in [0, 1].
        blocks: number of joint-attention blocks.
        heads: attention heads of each.
        text_attends: whether text tokens look at anything.
        vocabulary: the classes of the masks; without names where images have no masks.
        readout: how class maps are read and segmented.
        proposals: how maps of the empty prompt are merged.
        expert_layer: block whose maps the study of affinity refines.
        trials: what the causal tests work on.
        numbers: numbers of all images, in order.
        album: keeps pictures of the example images.
    """

    sigmas: Sequence[float]
    blocks: int
    heads: int
    text_attends: bool
    vocabulary: Vocabulary
    readout: Readout
    proposals: ProposalReadout
    expert_layer: int
    trials: Trials
    numbers: Sequence[int]
    album: Album

    @property
    def levels(self) -> int:
        return len(self.sigmas)


Row = dict[str, Any]
"""One line of a tidy table: sigma, block, head (None: all heads together), what else tells lines apart, quantity, value."""


@dataclass(frozen=True)
class Findings:
    """What a study found.

    Attributes:
        rows: the tidy table; a value is NaN where the model has no such thing.
        evidence: values of each image, by name, see the study.
    """

    rows: list[Row]
    evidence: dict[str, Tensor] = field(default_factory=dict)


class Study(nn.Module, ABC):
    """Measures one thing about every block; what it has counted is in the metrics that it holds.

    Args:
        setting: see `Setting`.
    """

    title: ClassVar[str]
    """What is measured, for tables and reports."""
    needs_masks: ClassVar[bool] = False
    """Whether it needs images with label maps."""

    def __init__(self, setting: Setting) -> None:
        super().__init__()
        self.setting = setting

    @abstractmethod
    def result(self) -> Findings:
        """Everything that was counted, on all processes, each of which must call this."""

    def rows(self, values: Tensor, quantities: Sequence[str], more: Mapping[str, Any] | None = None) -> list[Row]:
        """Values (L, B, Q) of whole blocks, or (L, B, H, Q) of heads, as lines of a tidy table."""
        with_heads = values if values.dim() == 4 else values.unsqueeze(2)
        return [
            {"sigma": sigma, "block": block, "head": head if values.dim() == 4 else None, **(more or {}), "quantity": name, "value": value}
            for sigma, blocks in zip(self.setting.sigmas, with_heads.tolist(), strict=True)
            for block, heads in enumerate(blocks)
            for head, own in enumerate(heads)
            for name, value in zip(quantities, own, strict=True)
        ]


class Reader(Study):
    """A study that looks at the passes which all readers share."""

    @abstractmethod
    def see(self, look: Look) -> None:
        """Count one image at one block and noise level."""


class OwnPasses(Study):
    """A study that runs the model by itself."""

    @abstractmethod
    def run(self, scene: Scene) -> None:
        """Count the images of a scene."""


class MaskPasses(OwnPasses):
    """A study that runs the model by itself on labelled images."""

    needs_masks = True

    def run(self, scene: Scene) -> None:
        """Count the images of a scene that has masks."""
        assert isinstance(scene, LabelledScene), "a study that needs masks is left out without them"
        self.measure(scene)

    @abstractmethod
    def measure(self, scene: LabelledScene) -> None:
        """As `run`."""
