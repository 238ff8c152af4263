"""Options that several commands of the console have, and how errors call them."""

from pathlib import Path
from typing import Annotated, Any

import typer
from typer.core import TyperCommand

ModelName = Annotated[str | None, typer.Option(help="Preset, folder, hub id, or folder of a run; default: tiny_sd3.")]
Lora = Annotated[Path | None, typer.Option(help="Run folder, .ckpt, LoRA folder or file (.safetensors, .pth of the release).")]
Like = Annotated[str | None, typer.Option(help="Preset for a model that is not recognised by its size.")]
Device = Annotated[str | None, typer.Option(help="cpu, cuda, cuda:1, mps ...; default: the accelerator if there is one.")]
Dtype = Annotated[str | None, typer.Option(help="float32, bfloat16 or float16.")]
Quantized = Annotated[str | None, typer.Option(help="int8 or nf4, for a smaller card.")]
OffloadEncoders = Annotated[bool, typer.Option("--offload-encoders", help="Move the encoders off the accelerator after each use.")]
Autoencoder = Annotated[str | None, typer.Option(help="Folder or hub id of an AutoencoderTiny in place of the model's autoencoder.")]
WordsFile = Annotated[Path | None, typer.Option("--words", help="A text file with one word per line, instead of WORDS.")]
Recursive = Annotated[bool, typer.Option("--recursive", help="Also take the pictures of the folders in the folder.")]
Block = Annotated[int | None, typer.Option(help="Block that is read; default: the expert.")]
GeometryName = Annotated[str, typer.Option(help="letterbox (whole, padded), stretch, or crop (the centre).")]
ReaderName = Annotated[str, typer.Option(help="How the maps of words are read: expert, propagated, ... (conf/reader).")]
Sigma = Annotated[float | None, typer.Option(help="Noise level in [0, 1]; default: that of the model.")]
ImageSize = Annotated[tuple[int, int] | None, typer.Option(help="Height and width that the model sees.")]
MappedWords = Annotated[
    list[str] | None, typer.Option(help='A word that has a map, as in --word "traffic cone"; may be repeated; default: all.')
]
ImagesFolder = Annotated[
    Path | None, typer.Option(help="Where the images go; those that are there already are kept; default: outputs/generate/<time>.")
]


class Command(TyperCommand):
    """A command whose errors name its options instead of the library's parameters."""

    def invoke(self, ctx: Any) -> Any:
        """As typer's own, within `options_named`."""
        from seg4diff.commands.keys import options_named

        with options_named(ctx):
            return super().invoke(ctx)
