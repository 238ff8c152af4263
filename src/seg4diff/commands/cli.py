"""The console command `seg4diff`, with ordinary arguments. Heavy libraries are imported inside the commands that need them."""

import logging
import sys
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
"""Options that several commands have."""


class Command(TyperCommand):
    """A command whose errors name its options instead of the library's parameters."""

    def invoke(self, ctx: Any) -> Any:
        """As typer's own, within `options_named`."""
        from seg4diff.commands.keys import options_named

        with options_named(ctx):
            return super().invoke(ctx)


app = typer.Typer(
    name="seg4diff",
    help="Segment and generate pictures with a text-to-image transformer, and see what its words attend to.",
    no_args_is_help=True,
    add_completion=False,
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
)


def main() -> None:
    """Run the command line; what the user can fix ends in one sentence and exit code 1.

    SEG4DIFF_DEBUG=1 shows the traceback in every case.
    """
    from seg4diff.commands.console import main as guarded

    logging.basicConfig(format="%(message)s", stream=sys.stdout)
    logging.getLogger("seg4diff").setLevel(logging.INFO)
    guarded(app, places="--out")


@app.command(cls=Command, epilog='Example: seg4diff segment photo.jpg cat "traffic light" --model sd3_medium --out masks')
def segment(
    pictures: Annotated[Path, typer.Argument(help="A picture, or a folder of pictures.", metavar="PICTURE")],
    words: Annotated[list[str] | None, typer.Argument(help="What to look for; without words there are numbered regions.")] = None,
    words_file: Annotated[Path | None, typer.Option("--words", help="A text file with one word per line, instead of WORDS.")] = None,
    recursive: Annotated[bool, typer.Option("--recursive", help="Also take the pictures of the folders in the folder.")] = False,
    out: Annotated[Path | None, typer.Option(help="Where the results go; default: outputs/segment/<time>.")] = None,
    model: ModelName = None,
    lora: Lora = None,
    like: Like = None,
    block: Annotated[int | None, typer.Option(help="Block that is read; default: the expert.")] = None,
    geometry: Annotated[str, typer.Option(help="letterbox (whole, padded), stretch, or crop (the centre).")] = "letterbox",
    background: Annotated[float | None, typer.Option(help="Level in [0, 1]; pixels where no word's map reaches it get no label.")] = None,
    threshold: Annotated[float | None, typer.Option(help="Without words: divergence below which two maps are one region.")] = None,
    sigma: Annotated[float | None, typer.Option(help="Noise level in [0, 1]; default: that of the model.")] = None,
    image_size: Annotated[tuple[int, int] | None, typer.Option(help="Height and width that the model sees.")] = None,
    device: Device = None,
    dtype: Dtype = None,
    quantize: Quantized = None,
    offload_encoders: OffloadEncoders = False,
    cache: Annotated[Path | None, typer.Option(help="Folder that keeps encodings, so that each is made once.")] = None,
) -> None:
    """Find words in your own pictures: a label map, an overlay and a heat map for each word."""
    from seg4diff.commands.segment import segment_files

    options = {
        "like": like,
        "block": block,
        "sigma": sigma,
        "image_size": image_size,
        "device": device,
        "dtype": dtype,
        "quantize": quantize,
        "cache": cache,
    }
    segment_files(
        pictures,
        words or None,
        words_file=words_file,
        recursive=recursive,
        out=out,
        geometry=geometry,
        background=background,
        threshold=threshold,
        load_options={"model": model, "lora": lora, "offload_encoders": offload_encoders} | options,
    )


@app.command(
    cls=Command, epilog='Example: seg4diff generate "two fishes on water" "a cup on sand" --lora outputs/quickstart/<time> --seeds 0-3'
)
def generate(
    prompts: Annotated[list[str] | None, typer.Argument(help="What to draw, each prompt in quotes.", metavar="PROMPT")] = None,
    prompts_file: Annotated[Path | None, typer.Option("--prompts", help="A text file with one prompt per line, instead of PROMPT.")] = None,
    seeds: Annotated[str, typer.Option(help="Seeds of every prompt, as in 0-3 or 0,5,7-9.")] = "0",
    guidance: Annotated[float | None, typer.Option(help="Guidance scale; default: that of the model.")] = None,
    steps: Annotated[int | None, typer.Option(help="Sampling steps; default: those of the model.")] = None,
    perturbed_guidance: Annotated[float | None, typer.Option(help="Scale of perturbed-I2T guidance; default: without it.")] = None,
    perturbed_block: Annotated[int | None, typer.Option(help="Block that it perturbs; default: the block that is read.")] = None,
    lora_scale: Annotated[str | None, typer.Option(help="Factors on the LoRA, 0 = without it; default: 0,1 where there is one.")] = None,
    maps: Annotated[bool, typer.Option("--maps/--no-maps", help="Read where each word went over each image.")] = True,
    word: Annotated[
        list[str] | None, typer.Option(help='A word that has a map, as in --word "traffic cone"; may be repeated; default: all.')
    ] = None,
    map_step: Annotated[int | None, typer.Option(help="Step, from 0, at which maps are read; default: the one nearest to --sigma.")] = None,
    at_once: Annotated[int, typer.Option(help="Images that are drawn as one batch.")] = 1,
    out: Annotated[
        Path | None, typer.Option(help="Where the images go; those that are there already are kept; default: outputs/generate/<time>.")
    ] = None,
    model: ModelName = None,
    lora: Lora = None,
    like: Like = None,
    block: Annotated[int | None, typer.Option(help="Block that maps are read from; default: the expert.")] = None,
    sigma: Annotated[float | None, typer.Option(help="Noise level in [0, 1] of the maps; default: that of the model.")] = None,
    image_size: Annotated[tuple[int, int] | None, typer.Option(help="Height and width of the images.")] = None,
    device: Device = None,
    dtype: Dtype = None,
    quantize: Quantized = None,
    offload_encoders: OffloadEncoders = False,
) -> None:
    """Generate images of your prompts, base and LoRA side by side, and show where each word went over them."""
    from seg4diff.commands.generate import generate_files

    options = {"like": like, "block": block, "sigma": sigma, "image_size": image_size, "device": device, "dtype": dtype}
    generate_files(
        prompts or (),
        prompts_file=prompts_file,
        seeds=seeds,
        lora_scale=lora_scale,
        out=out,
        guidance=guidance,
        steps=steps,
        perturbed_guidance=perturbed_guidance,
        perturbed_block=perturbed_block,
        maps=maps,
        words=word or (),
        map_step=map_step,
        at_once=at_once,
        load_options={"model": model, "lora": lora, "quantize": quantize, "offload_encoders": offload_encoders} | options,
    )


@app.command("app", cls=Command, epilog="Example: seg4diff app --model sd3_medium --lora outputs/coco")
def page(
    analysis: Annotated[Path | None, typer.Option(help="Folder of a run of analyze.py whose report the page shows.")] = None,
    host: Annotated[str, typer.Option(help="Address; one for other machines needs a password in SEG4DIFF_APP_PASSWORD.")] = "127.0.0.1",
    port: Annotated[int, typer.Option(help="Port.")] = 7860,
    model: ModelName = None,
    lora: Lora = None,
    like: Like = None,
    block: Annotated[int | None, typer.Option(help="Block that is read at first; default: the expert.")] = None,
    device: Device = None,
    dtype: Dtype = None,
    quantize: Quantized = None,
    offload_encoders: OffloadEncoders = False,
) -> None:
    """Serve a page that segments and generates pictures, to this machine alone: drop a picture, type words, see where they are."""
    from seg4diff.commands.app import serve_page

    options = {"model": model, "lora": lora, "like": like, "block": block, "device": device, "dtype": dtype, "quantize": quantize}
    serve_page(options | {"offload_encoders": offload_encoders}, analysis=analysis, host=host, port=port)


@app.command(cls=Command, epilog="Example: seg4diff check coco_stuff --root /data/coco")
def check(
    data: Annotated[str, typer.Argument(help="A data set of conf/data.")],
    root: Annotated[Path | None, typer.Option(help="Its folder; default: that of its file in conf/data.")] = None,
    split: Annotated[str, typer.Option(help="train, validation, test or all.")] = "all",
    decode: Annotated[str, typer.Option(help="How many images and masks of a split are opened, or all.")] = "100",
    images: Annotated[int, typer.Option(help="How many of them are drawn on the sheet of a split.")] = 16,
    out: Annotated[Path | None, typer.Option(help="Where the results go; default: outputs/check/<time>.")] = None,
    settings: Annotated[list[str] | None, typer.Option("--set", help="KEY=VALUE as train.py takes it; may be repeated.")] = None,
) -> None:
    """Check a data set before you train on it: missing and broken files, labels, a sheet of images with masks. Loads no model."""
    from seg4diff.commands.check import check_data

    check_data(data, root=root, split=split, decode=decode, images=images, out=out, settings=settings or ())


@app.command(cls=Command, epilog="Example: seg4diff sweep outputs/quickstart/sweeps/2026-01-31_12-00-00")
def sweep(folder: Annotated[Path, typer.Argument(help="The folder of a sweep, with a folder for each run.")]) -> None:
    """Make table, CSV and plot of a sweep again: while its jobs still run, or for several sweeps in one folder."""
    from seg4diff.commands.sweep import read_runs, summarise_folder
    from seg4diff.errors import UserError

    if not read_runs(folder):
        raise UserError(f"there is no run in {folder}: give the folder of a sweep, which has a folder for each run.")
    summarise_folder(folder)


@app.command(cls=Command, epilog="Example: seg4diff atlas outputs/analyze/<time> outputs/analyze/<another time> --out atlas")
def atlas(
    folders: Annotated[list[Path], typer.Argument(help="Folders of analyze.py, of one model or of several.", metavar="FOLDER...")],
    out: Annotated[Path | None, typer.Option(help="Where the results go; default: outputs/atlas/<time>.")] = None,
) -> None:
    """Lay stored analyses of several models side by side, over the depth of their blocks: a table and a figure. Loads no model."""
    from seg4diff.commands.atlas import lay_side_by_side

    lay_side_by_side(folders, out)


@app.command(cls=Command, epilog="Example: seg4diff report outputs/analyze/<time>")
def report(folder: Annotated[Path, typer.Argument(help="The folder of a run of analyze.py.")]) -> None:
    """Draw the report of a stored analysis again: report.html and its figures. Loads no model."""
    from seg4diff.commands.atlas import redraw

    redraw(folder)


@app.command(
    cls=Command, epilog="Example: seg4diff export geneval --prompts evaluation_metadata.jsonl --model sd3_medium --out geneval --seeds 0-3"
)
def export(
    layout: Annotated[str, typer.Argument(help="geneval, geneval2 or compbench.")],
    prompts: Annotated[Path, typer.Option(help="The benchmark's own file of prompts.")],
    out: Annotated[Path, typer.Option(help="Folder of the images; what it holds already is not drawn again.")],
    seeds: Annotated[str, typer.Option(help="Seeds of the images of each prompt, as in 0-3 or 0,5,7-9.")] = "0-3",
    guidance: Annotated[float | None, typer.Option(help="Guidance scale; default: that of the model.")] = None,
    steps: Annotated[int | None, typer.Option(help="Sampling steps; default: those of the model.")] = None,
    at_once: Annotated[int, typer.Option(help="Images that are drawn as one batch.")] = 1,
    model: ModelName = None,
    lora: Lora = None,
    like: Like = None,
    image_size: Annotated[tuple[int, int] | None, typer.Option(help="Height and width of the images.")] = None,
    device: Device = None,
    dtype: Dtype = None,
    quantize: Quantized = None,
    offload_encoders: OffloadEncoders = False,
) -> None:
    """Draw the images of a benchmark in its own layout, for its own judge. Started again, it draws what is missing."""
    from seg4diff.commands.export import export_images

    options = {"model": model, "lora": lora, "like": like, "image_size": image_size, "device": device, "dtype": dtype}
    export_images(
        layout,
        prompts,
        out,
        seeds=seeds,
        guidance=guidance,
        steps=steps,
        at_once=at_once,
        load_options=options | {"quantize": quantize, "offload_encoders": offload_encoders},
    )


@app.command(
    cls=Command, epilog="Example: seg4diff score geneval images/lora --base images/base --detector google/owlv2-base-patch16-ensemble"
)
def score(
    layout: Annotated[str, typer.Argument(help="geneval, geneval2 or compbench.")],
    folder: Annotated[Path, typer.Argument(help="Images in this layout, from seg4diff export or another program.")],
    base: Annotated[Path | None, typer.Option(help="A second such folder: differences are paired by prompt and number.")] = None,
    detector: Annotated[str | None, typer.Option(help="Folder or hub id of a zero-shot detector, for GenEval.")] = None,
    clip: Annotated[str | None, typer.Option(help="Folder or hub id of a CLIP model: CLIPScore, CLIP-I, GenEval's colours.")] = None,
    pickscore: Annotated[str | None, typer.Option(help="Folder or hub id of a CLIP model trained on preferences.")] = None,
    vqa: Annotated[str | None, typer.Option(help="Folder or hub id of a vision-language model, for VQAScore.")] = None,
    dino: Annotated[str | None, typer.Option(help="Folder or hub id of a vision transformer, for similarity with --base.")] = None,
    fid: Annotated[str | None, typer.Option(help="Folder or hub id of any network of images, for FID with --references.")] = None,
    references: Annotated[Path | None, typer.Option(help="Folder of pictures for FID.")] = None,
    threshold: Annotated[float, typer.Option(help="GenEval: confidence that a detection must exceed.")] = 0.3,
    counting_threshold: Annotated[float, typer.Option(help="GenEval: the same where things are counted.")] = 0.9,
    max_overlap: Annotated[
        float, typer.Option(help="GenEval: IoU from which the weaker of two boxes of a class is dropped; 1: none is.")
    ] = 1.0,
    sentence: Annotated[str, typer.Option(help="Prompt of the detector, with {} for the name of a class.")] = "{}",
    out: Annotated[Path | None, typer.Option(help="Where the results go; default: outputs/score/<time>.")] = None,
    device: Device = None,
    at_once: Annotated[int, typer.Option(help="Images that a network sees together.")] = 16,
) -> None:
    """Score generated images with networks that you name, with intervals over prompts. What is not named is skipped."""
    from seg4diff.commands.score import Weights, score_folder
    from seg4diff.evaluation.judges.geneval import Rules

    score_folder(
        layout,
        folder,
        weights=Weights(detector, clip, pickscore, vqa, dino, fid),
        rules=Rules(threshold=threshold, counting_threshold=counting_threshold, max_overlap=max_overlap),
        sentence=sentence,
        base=base,
        references=references,
        out=out,
        device=device,
        at_once=at_once,
    )
