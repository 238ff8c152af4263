"""What a report says about each study: what is measured, the formula, the paper's figure, and what it showed on this model."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass

from seg4diff.analysis import showed
from seg4diff.analysis.stored import Analysis


@dataclass(frozen=True)
class Section:
    """The words of a section.

    Attributes:
        measured: what is measured.
        formula: as plain text.
        paper: the figures or tables of the paper that show the same.
        found: what it showed, in a sentence or two with numbers; "" = nothing.
    """

    measured: str
    formula: str
    paper: str
    found: Callable[[Analysis], str]


SECTIONS: Mapping[str, Section] = {
    "budget": Section(
        "How much of the joint attention falls into each quadrant: image or text queries (first word), image or text keys (second word). "
        "Dotted: the share under uniform attention, which is the share of the keys. Attention for each key is the share divided by that.",
        "share(I→T) = mean over image queries i and heads of Σ over text keys t of softmax(q_i · k / √d)_t",
        "Figure 2",
        showed.budget,
    ),
    "norms": Section(
        "How long the values are that tokens bring into the attention. Tokens of the prompt alone are text tokens without padding.",
        "norm = 1/N Σ_i ‖v_i‖₂ over the N tokens of a part, all heads side by side; heat maps: of each head",
        "Figures 4 and 28",
        showed.norms,
    ),
    "features": Section(
        "What queries, keys and values of image tokens hold: position or content. The variance in three principal components, and how much "
        "of the variance is explained by a linear map of the token's row and column, by any function of the row plus any of the column "
        "(which sees stripes too), and by a linear map of the shares of the true classes in its cell. "
        "Dotted: what features without any structure would give.",
        "R² = 1 - Σ‖x - x̂‖² / Σ‖x - mean x‖², x̂ = the best linear map of the regressors",
        "Figures 3 and 29, which show pictures and no numbers",
        showed.features,
    ),
    "segmentation": Section(
        "How well the maps of the prompt's words segment the image: the class of a pixel is the one with the highest map. I2T: attention "
        "of image queries on the tokens of a word. T2I: attention of these tokens on the image. Below, four normalisations of I2T maps.",
        "class(pixel) = argmax over classes c of the upsampled mean over the tokens of c, and over heads, of softmax(q_i · k / √d)_t",
        "Figures 8, 15, 16 and 17, table 5",
        showed.segmentation,
    ),
    "granularity": Section(
        "How coarse the map of a word is: its entropy, the connected regions in which it is above half of its maximum, and their area; of "
        "the mean over the heads, and of single heads.",
        "entropy = - Σ_i p_i log p_i / log N, p = the map over its sum",
        "Figures 9 a, 26 and 27, which show pictures and no numbers",
        showed.granularity,
    ),
    "empty_prompt": Section(
        "What a block groups without any word: the maps of all tokens of the empty prompt, merged to proposals, each matched with one "
        "class of the image.",
        "mIoU after the best one-to-one matching of proposals with the classes of each image",
        "Figures 9 b and 30",
        showed.empty,
    ),
    "affinity": Section(
        "Which block's attention among image tokens groups what belongs together: it is applied to the class maps of the expert block.",
        "refined = A m, A = the block's I2I attention, m = the expert's class maps",
        "no figure of the paper",
        showed.affinity,
    ),
    "causal": Section(
        "What a block is for: it is perturbed, and what the model then does is compared with what it does otherwise, from the same noise. "
        "Blur: image queries' attention on text is blurred along the text. Remove: the block is skipped. Text zero, text doubled: factors "
        "on the text states that enter the block. Temperature: of the scores of text keys.",
        "change = |v' - v| / |v| of the velocity, |z' - z| / |z| of the last latents, root mean square difference of pixels",
        "Figures 5, 18 and 31 (blur)",
        showed.causal,
    ),
}
