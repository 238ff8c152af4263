"""The console command `seg4diff`, with ordinary arguments. Heavy libraries are imported inside the commands that need them."""

import logging
import sys
from pathlib import Path
from typing import Annotated, Any

import typer

from seg4diff.commands import options as given

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


@app.command(cls=given.Command, epilog='Example: seg4diff segment photo.jpg cat "traffic light" --model sd3_medium --out masks')
def segment(
    pictures: Annotated[Path, typer.Argument(help="A picture, a folder of pictures, or a clip.", metavar="PICTURE")],
    words: Annotated[list[str] | None, typer.Argument(help="What to look for; without words there are numbered regions.")] = None,
    words_file: given.WordsFile = None,
    recursive: given.Recursive = False,
    out: Annotated[Path | None, typer.Option(help="Where the results go; default: outputs/segment/<time>.")] = None,
    model: given.ModelName = None,
    lora: given.Lora = None,
    like: given.Like = None,
    block: given.Block = None,
    geometry: given.GeometryName = "letterbox",
    background: Annotated[float | None, typer.Option(help="Level in [0, 1]; pixels where no word's map reaches it get no label.")] = None,
    threshold: Annotated[float | None, typer.Option(help="Without words: divergence below which two maps are one region.")] = None,
    reader: given.ReaderName = "expert",
    presence: Annotated[str, typer.Option(help="Which words are there: none (any), words, or a file of calibrate.")] = "none",
    refine: Annotated[str, typer.Option(help="Refine the maps at the pixels: none, guided, pamr or sam.")] = "none",
    sam_weights: Annotated[str | None, typer.Option(help="With --refine sam: folder or hub id of a SAM or SAM 2 model.")] = None,
    instances: Annotated[bool, typer.Option("--instances", help="Also write the connected parts of each word as COCO JSON.")] = False,
    sigma: given.Sigma = None,
    image_size: given.ImageSize = None,
    device: given.Device = None,
    dtype: given.Dtype = None,
    quantize: given.Quantized = None,
    offload_encoders: given.OffloadEncoders = False,
    cache: Annotated[Path | None, typer.Option(help="Folder that keeps encodings, so that each is made once.")] = None,
    autoencoder: given.Autoencoder = None,
    at_once: Annotated[int, typer.Option(help="Pictures that are read as one batch.")] = 1,
    clip: Annotated[bool, typer.Option("--clip", help="The pictures of the folder are the frames of one clip, for a video model.")] = False,
) -> None:
    """Find words in your own pictures: a label map, an overlay and a heat map for each word."""
    from seg4diff.commands.segment import segment_files

    options: dict[str, Any] = {"like": like, "block": block, "sigma": sigma, "image_size": image_size, "device": device, "dtype": dtype}
    options |= {"quantize": quantize, "cache": cache, "autoencoder": autoencoder}
    segment_files(
        pictures,
        words or None,
        words_file=words_file,
        recursive=recursive,
        out=out,
        geometry=geometry,
        background=background,
        threshold=threshold,
        reader=reader,
        presence=presence,
        refine=refine,
        sam_weights=sam_weights,
        instances=instances,
        at_once=at_once,
        clip=clip,
        load_options={"model": model, "lora": lora, "offload_encoders": offload_encoders} | options,
    )


@app.command(cls=given.Command, epilog="Example: seg4diff calibrate holiday --words words.txt --out words.safetensors")
def calibrate(
    pictures: Annotated[Path, typer.Argument(help="A folder of pictures, whatever they show.", metavar="PICTURES")],
    words: Annotated[list[str] | None, typer.Argument(help="All words that will be looked for together, in this order.")] = None,
    words_file: given.WordsFile = None,
    recursive: given.Recursive = False,
    out: Annotated[Path, typer.Option(help="The file that is written.")] = Path("calibration.safetensors"),
    model: given.ModelName = None,
    lora: given.Lora = None,
    like: given.Like = None,
    block: given.Block = None,
    geometry: given.GeometryName = "letterbox",
    reader: given.ReaderName = "expert",
    sigma: given.Sigma = None,
    image_size: given.ImageSize = None,
    device: given.Device = None,
    dtype: given.Dtype = None,
    autoencoder: given.Autoencoder = None,
) -> None:
    """Measure over pictures how high the map of each word reaches, so that segment --presence tells which words are there."""
    from seg4diff.commands.segment import calibrate_files

    options = {"like": like, "block": block, "sigma": sigma, "image_size": image_size, "device": device, "dtype": dtype}
    calibrate_files(
        pictures,
        words or None,
        words_file=words_file,
        recursive=recursive,
        out=out,
        geometry=geometry,
        reader=reader,
        load_options={"model": model, "lora": lora, "autoencoder": autoencoder} | options,
    )


@app.command(
    cls=given.Command,
    epilog='Example: seg4diff generate "two fishes on water" "a cup on sand" --lora outputs/quickstart/<time> --seeds 0-3',
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
    word: given.MappedWords = None,
    map_step: Annotated[int | None, typer.Option(help="Step, from 0, at which maps are read; default: the one nearest to --sigma.")] = None,
    at_once: Annotated[int, typer.Option(help="Images that are drawn as one batch.")] = 1,
    out: given.ImagesFolder = None,
    model: given.ModelName = None,
    lora: given.Lora = None,
    like: given.Like = None,
    block: Annotated[int | None, typer.Option(help="Block that maps are read from; default: the expert.")] = None,
    sigma: Annotated[float | None, typer.Option(help="Noise level in [0, 1] of the maps; default: that of the model.")] = None,
    image_size: Annotated[tuple[int, int] | None, typer.Option(help="Height and width of the images.")] = None,
    device: given.Device = None,
    dtype: given.Dtype = None,
    quantize: given.Quantized = None,
    offload_encoders: given.OffloadEncoders = False,
    autoencoder: given.Autoencoder = None,
) -> None:
    """Generate images of your prompts, base and LoRA side by side, and show where each word went over them."""
    from seg4diff.commands.generate import generate_files

    options = {"like": like, "block": block, "sigma": sigma, "image_size": image_size, "device": device, "dtype": dtype}
    options |= {"quantize": quantize, "autoencoder": autoencoder}
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
        load_options={"model": model, "lora": lora, "offload_encoders": offload_encoders} | options,
    )


@app.command("app", cls=given.Command, epilog="Example: seg4diff app --model sd3_medium --lora outputs/coco")
def page(
    analysis: Annotated[Path | None, typer.Option(help="Folder of a run of analyze.py whose report the page shows.")] = None,
    host: Annotated[str, typer.Option(help="Address; one for other machines needs a password in SEG4DIFF_APP_PASSWORD.")] = "127.0.0.1",
    port: Annotated[int, typer.Option(help="Port; 0: the first free one from 7860 on.")] = 7860,
    model: given.ModelName = None,
    lora: given.Lora = None,
    like: given.Like = None,
    block: Annotated[int | None, typer.Option(help="Block that is read at first; default: the expert.")] = None,
    device: given.Device = None,
    dtype: given.Dtype = None,
    quantize: given.Quantized = None,
    offload_encoders: given.OffloadEncoders = False,
) -> None:
    """Serve a page that segments and generates pictures, to this machine alone: drop a picture, type words, see where they are."""
    from seg4diff.commands.app import serve_page

    options = {"model": model, "lora": lora, "like": like, "block": block, "device": device, "dtype": dtype, "quantize": quantize}
    serve_page(options | {"offload_encoders": offload_encoders}, analysis=analysis, host=host, port=port)


@app.command(cls=given.Command, epilog="Example: seg4diff check coco_stuff --root /data/coco")
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


@app.command(cls=given.Command, epilog="Example: seg4diff sweep outputs/quickstart/sweeps/2026-01-31_12-00-00")
def sweep(folder: Annotated[Path, typer.Argument(help="The folder of a sweep, with a folder for each run.")]) -> None:
    """Make table, CSV and plot of a sweep again: while its jobs still run, or for several sweeps in one folder."""
    from seg4diff.commands.sweep import read_runs, summarise_folder
    from seg4diff.errors import UserError

    if not read_runs(folder):
        raise UserError(f"there is no run in {folder}: give the folder of a sweep, which has a folder for each run.")
    summarise_folder(folder)


@app.command(cls=given.Command, epilog="Example: seg4diff atlas outputs/analyze/<time> outputs/analyze/<another time> --out atlas")
def atlas(
    folders: Annotated[list[Path], typer.Argument(help="Folders of analyze.py, of one model or of several.", metavar="FOLDER...")],
    out: Annotated[Path | None, typer.Option(help="Where the results go; default: outputs/atlas/<time>.")] = None,
) -> None:
    """Lay stored analyses of several models side by side, over the depth of their blocks: a table and a figure. Loads no model."""
    from seg4diff.commands.atlas import lay_side_by_side

    lay_side_by_side(folders, out)


@app.command(cls=given.Command, epilog="Example: seg4diff report outputs/analyze/<time>")
def report(folder: Annotated[Path, typer.Argument(help="The folder of a run of analyze.py.")]) -> None:
    """Draw the report of a stored analysis again: report.html and its figures. Loads no model."""
    from seg4diff.commands.atlas import redraw

    redraw(folder)


@app.command(
    cls=given.Command,
    epilog="Example: seg4diff export geneval --prompts evaluation_metadata.jsonl --model sd3_medium --out geneval --seeds 0-3",
)
def export(
    layout: Annotated[str, typer.Argument(help="geneval, geneval2 or compbench.")],
    prompts: Annotated[Path, typer.Option(help="The benchmark's own file of prompts.")],
    out: Annotated[Path, typer.Option(help="Folder of the images; what it holds already is not drawn again.")],
    seeds: Annotated[str, typer.Option(help="Seeds of the images of each prompt, as in 0-3 or 0,5,7-9.")] = "0-3",
    guidance: Annotated[float | None, typer.Option(help="Guidance scale; default: that of the model.")] = None,
    steps: Annotated[int | None, typer.Option(help="Sampling steps; default: those of the model.")] = None,
    at_once: Annotated[int, typer.Option(help="Images that are drawn as one batch.")] = 1,
    model: given.ModelName = None,
    lora: given.Lora = None,
    like: given.Like = None,
    image_size: Annotated[tuple[int, int] | None, typer.Option(help="Height and width of the images.")] = None,
    device: given.Device = None,
    dtype: given.Dtype = None,
    quantize: given.Quantized = None,
    offload_encoders: given.OffloadEncoders = False,
    autoencoder: given.Autoencoder = None,
) -> None:
    """Draw the images of a benchmark in its own layout, for its own judge. Started again, it draws what is missing."""
    from seg4diff.commands.export import export_images

    options = {"model": model, "lora": lora, "like": like, "image_size": image_size, "device": device, "dtype": dtype}
    options |= {"quantize": quantize, "autoencoder": autoencoder}
    export_images(
        layout,
        prompts,
        out,
        seeds=seeds,
        guidance=guidance,
        steps=steps,
        at_once=at_once,
        load_options=options | {"offload_encoders": offload_encoders},
    )


@app.command(
    cls=given.Command, epilog="Example: seg4diff score geneval images/lora --base images/base --detector google/owlv2-base-patch16-ensemble"
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
    device: given.Device = None,
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
