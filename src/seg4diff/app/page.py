"""The page: four tabs over one model."""

from pathlib import Path

import gradio as gr

from seg4diff.app.blocks_tab import blocks_tab
from seg4diff.app.compare_tab import compare_tab
from seg4diff.app.desk import Desk
from seg4diff.app.examples import draw_examples
from seg4diff.app.generate_tab import generate_tab
from seg4diff.app.parts import KEPT_SECONDS
from seg4diff.app.segment_tab import segment_tab

TITLE = "seg4diff"
CSS = """
body:not(.dark) { --body-text-color-subdued: var(--neutral-600); --block-info-text-color: var(--neutral-600); }
.bars { width: 100%; border-collapse: collapse; font-size: var(--text-sm); margin: 0.25rem 0; }
.bars caption { text-align: left; color: var(--body-text-color-subdued); padding-bottom: 0.25rem; }
.bars th { text-align: left; font-weight: 400; width: 34%; padding: 2px 0.5rem 2px 0; overflow-wrap: anywhere; }
.bars td { padding: 2px 0; }
.bars.bars, .figures.figures, .strip.strip, .bars *, .figures *, .strip * { border: 0 !important; }
.bars td:last-child { width: 3rem; text-align: right; font-variant-numeric: tabular-nums; }
.figures { width: 100%; border-collapse: collapse; font-size: var(--text-sm); }
.figures caption, .strip caption { text-align: left; padding-bottom: 0.25rem; }
.figures th, .figures td { text-align: right; font-weight: 400; padding: 2px 0.5rem; font-variant-numeric: tabular-nums; }
.figures th:first-child { text-align: left; overflow-wrap: anywhere; }
.strip { width: 100%; table-layout: fixed; border-collapse: collapse; font-size: var(--text-sm); }
.strip th { font-weight: 400; padding: 2px; overflow-wrap: anywhere; }
.strip td { padding: 2px; }
.strip img { width: 100%; display: block; margin: 0; border-radius: 2px; }
.bars .bar { display: block; height: 0.7rem; min-width: 1px; border-radius: 2px; }
.bars .swatch { display: inline-block; width: 0.7rem; height: 0.7rem; margin-right: 0.5rem; border-radius: 2px; }
.report { width: 100%; height: 80vh; border: 1px solid var(--border-color-primary); border-radius: 4px; background: Canvas; }
#blocks .caption-label { white-space: normal; }
#blocks .grid-wrap, #images .grid-wrap { max-height: none; }
#blocks .grid-container { grid-template-columns: repeat(auto-fill, minmax(max(130px, 22%), 1fr)); }
#pixel:not(:has(table)), #legend:not(:has(table)), #strip:not(:has(table)), #agreement:not(:has(table)) { display: none; }
#shown img { cursor: crosshair; }
"""


def build_page(desk: Desk, folder: Path, analysis: Path | None) -> gr.Blocks:
    """The page, which is not served yet.

    Args:
        desk: the model.
        folder: where its examples and files to download are written.
        analysis: folder of a stored analysis of every block; None = none.

    Raises:
        UserError: the folder holds no analysis.
    """
    with gr.Blocks(title=TITLE, analytics_enabled=False, delete_cache=(KEPT_SECONDS // 6, KEPT_SECONDS)) as page:
        gr.Markdown(f"# {TITLE}\nWhere the words of a text-to-image transformer are in a picture. {_about(desk)}")
        with gr.Tabs() as tabs:
            with gr.Tab("Segment", id="segment"):
                segment = segment_tab(desk, folder / "results", draw_examples(folder / "examples"))
            with gr.Tab("Generate", id="generate"):
                generate_tab(desk, folder / "images")
            with gr.Tab("Blocks", id="blocks"):
                blocks_tab(desk, segment, analysis, tabs)
            with gr.Tab("Compare", id="compare"):
                compare_tab(desk, segment)
    return page


def _about(desk: Desk) -> str:
    """The model in one sentence."""
    lora = f", with the LoRA `{desk.loaded_by['lora']}`" if "lora" in desk.loaded_by else ", with a LoRA" if desk.has_lora else ""
    return f"Model: `{desk.loaded_by.get('model', desk.model.preset.name)}`{lora}, on {desk.model.backbone.device.type}."
