"""Write docs/models.md from conf/backbone and the published configurations: `python -m docs.models`."""

import re
from collections import Counter
from pathlib import Path
from typing import Any

import torch
from speed import REPO
from speed.forecast import encode_bytes
from speed.published import PUBLISHED, build, read_config, read_facts

from seg4diff.backbones.pipeline import PipelineBackbone
from seg4diff.backbones.runtime import Runtime

PAGE = REPO / "docs" / "models.md"
HEAD = """# Models

Written by `python -m docs.models` from conf/backbone and from the configurations that the authors published; do not edit it by hand.

Without an account you can fetch every model whose gate is "no": `{free}`.

- **blocks**: joint-attention blocks by kind, in the order of their numbers. Refiners, which see one of the two alone, do not count.
- **order**: what stands first in the joint sequence.
- **text**: the encoders of the words, and the tokens that a prompt may have.
- **16 bit**: GB of the weights of transformer, autoencoder and text encoders. **segment**: GB that a 1024 x 1024 picture needs, with them.
- **expert**: the block that is read. Where it is not published, the number is a place to start; `python analyze.py` finds the expert.

"""
COLUMNS = ("name", "parameters", "blocks", "order", "text", "licence", "gate", "expert", "16 bit", "segment")


def rows(memory: bool) -> list[dict[str, str]]:
    """A row for each model; `memory` also counts what segmentation needs, which takes a minute."""
    return [_row(path.stem, memory) for path in sorted(PUBLISHED.glob("*.json"))]


def _row(name: str, memory: bool) -> dict[str, str]:
    facts, config = read_facts(name, quick=False), read_config(name)
    backbone = build(config, facts, torch.device("meta"), Runtime())
    weights = 2 * sum(weight.numel() for weight in backbone.parameters())
    row = {
        "name": f"`{name}`",
        "parameters": f"{facts['parameters'] / 1e9:.1f} B",
        "blocks": _blocks(backbone),
        "order": "text" if backbone.text_first else "image",
        "text": f"{_encoders(backbone, facts)}; {backbone.text_window}",
        "licence": facts["licence"],
        "gate": "yes" if facts["gated"] else "no",
        "expert": _expert(name, config.backbone.expert_layer),
        "16 bit": f"{weights / 1e9:.1f}",
    }
    if memory:
        row["segment"] = f"{(weights + encode_bytes(facts['vae'], 1024, torch.bfloat16)) / 1e9:.1f}"
    return row


def _blocks(backbone: PipelineBackbone) -> str:
    kinds = Counter("single" if "add_k_proj" not in dict(site.module.named_modules()) else "double" for site in backbone.attention_sites())
    return " + ".join(f"{count} {kind}-stream" for kind, count in kinds.items())


def _encoders(backbone: PipelineBackbone, facts: dict[str, Any]) -> str:
    names = [facts[name]["_class_name"] for name in backbone.encoders if name != "vae"]
    return " + ".join(re.sub(r"(TextModel|EncoderModel|ForC|Model).*", "", name).replace("_", ".") for name in names)


def _expert(name: str, block: int) -> str:
    line = next(line for line in (REPO / "conf" / "backbone" / f"{name}.yaml").read_text().splitlines() if line.startswith("expert_layer"))
    return f"{block}, not published" if "not published" in line else f"{block}, paper"


def page(found: list[dict[str, str]]) -> str:
    """The page with these rows."""
    lines = [COLUMNS, tuple("---" for _ in COLUMNS), *(tuple(row.get(column, "") for column in COLUMNS) for row in found)]
    free = "`, `".join(row["name"].strip("`") for row in found if row["gate"] == "no")
    return HEAD.format(free=free) + "\n".join(f"| {' | '.join(cells)} |" for cells in lines) + "\n"


def main(path: Path = PAGE) -> None:
    """Write the page."""
    path.write_text(page(rows(memory=True)), encoding="utf-8")


if __name__ == "__main__":
    main()
