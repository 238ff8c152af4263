"""Every family through its file in conf/backbone: a tiny folder is segmented, trained on, evaluated and analysed."""

import httpx
import pytest
from huggingface_hub.errors import GatedRepoError
from PIL import Image

from seg4diff.backbones.hooks import see_arguments
from seg4diff.backbones.loading import load_pretrained
from seg4diff.commands.analysis import analyze
from seg4diff.commands.run import evaluate, train
from seg4diff.data.toyworld.scenes import make_scene
from seg4diff.errors import UserError
from seg4diff.loading import load
from seg4diff.presets import Preset, names
from seg4diff.segmentation.prompts import list_names, token_sets
from tests.hosts import random_flux, random_flux2
from tests.open_hosts import (
    random_aura_flow,
    random_chroma,
    random_cogvideox,
    random_longcat,
    random_lumina2,
    random_prx,
    random_qwen_image,
    random_z_image,
)
from tests.runs import QUICK, SMALL_WORLD, compose_config

MAKERS = {
    "aura_flow": random_aura_flow,
    "chroma": random_chroma,
    "cogvideox_2b": random_cogvideox,
    "flux1_dev": random_flux,
    "flux2_klein": random_flux2,
    "longcat_image": random_longcat,
    "lumina2": random_lumina2,
    "prx": random_prx,
    "qwen_image": random_qwen_image,
    "z_image": random_z_image,
}
OTHER = {"flux2_klein": {"text_layers": (1, 2, 3)}}
"""What depends on the size of a text encoder."""
SHORT = 192
"""Text tokens: 512, as published, take a tiny model minutes."""
OWN_LENGTH = {"cogvideox_2b": {"text_length": SHORT}}
"""Where the model itself fixes the number of text tokens."""
LONGER = {"lumina2": 256}
"""Where the words of a system prompt have a token for each letter."""
RUN = ["trainer.max_steps=10", "trainer.val_check_interval=10", "trainer.log_every_n_steps=5", "trainer.accelerator=cpu", "expert_layer=1"]


@pytest.fixture(params=MAKERS)
def name(request):
    return request.param


@pytest.fixture
def folder(name, tmp_path):
    """A random model in the layout of diffusers."""
    MAKERS[name](**OWN_LENGTH.get(name, {})).save_pretrained(tmp_path / "model")
    return tmp_path / "model"


@pytest.fixture
def given(name, folder, world):
    values = [
        f"backbone={name}",
        f"backbone.model.path={folder}",
        f"paths.data_dir={world}",
        "backbone.image_size=[32,32]",
        *SMALL_WORLD,
    ]
    values += [] if name in OWN_LENGTH else [f"backbone.model.text_length={LONGER.get(name, SHORT)}"]
    return values + [f"+backbone.model.{key}={list(value)}" for key, value in OTHER.get(name, {}).items()]


def test_a_folder_is_recognised_and_segmented(name, folder, tmp_path):
    if OTHER.get(name):
        return  # a preset describes the published text encoder
    Image.fromarray(make_scene(0, "test", 2, 48).image[:40]).save(tmp_path / "scene.png")
    model = load(folder, like=name, block=1, image_size=(32, 48))
    found = model.segment(tmp_path / "scene.png", ["apple", "traffic cone", "small green leaf"])
    assert found.labels.shape == (40, 48) and set(found.labels.flatten().tolist()) <= {0, 1, 2}


WORDS = ("traffic cone", "红苹果", "user", "image leaf")
"""Of several tokens, without Latin letters, and words of the templates themselves."""
BEFORE = {
    "longcat_image": lambda pipeline: len(pipeline.tokenizer(pipeline.prompt_template_encode_prefix).input_ids),
    "qwen_image": lambda pipeline: pipeline.prompt_template_encode_start_idx,
}
"""How many tokens of the template the language model reads and the transformer does not."""


def test_words_are_found_among_the_tokens_that_the_encoder_reads(name):
    """Also where the template has the same words: those before them are not theirs."""
    model, read = MAKERS[name](text_length=SHORT), []
    last = [part for part in model.encoders if part != "vae"][-1]
    encoder, tokenizer = (getattr(model._pipeline, part) for part in (last, last.replace("text_encoder", "tokenizer")))
    prompt = list_names(WORDS, range(len(WORDS)))
    with see_arguments(encoder, lambda arguments: read.append(arguments["input_ids"][0])):
        condition = model.encode_text([prompt.text])
    before = BEFORE[name](model._pipeline) if name in BEFORE else 0
    ids, sets = read[0][before:], token_sets(condition, 0, prompt)
    assert len({token for own in sets for token in own}) == sum(map(len, sets))
    for word, tokens in zip(WORDS, sets, strict=True):
        assert not condition.padding[0, tokens].any()
        known = tokenizer.unk_token_id is None or tokenizer.unk_token_id not in ids[tokens]
        assert tokenizer.decode(ids[tokens]).strip() == word if known else word == WORDS[1]


@pytest.mark.parametrize("name", [name for name in names() if name != "tiny_sd3"])
def test_a_model_that_is_not_here_is_one_sentence(name):
    """That of the preset, which the hub would have to give, and a folder that does not exist."""
    preset = Preset.named(name)
    with pytest.raises(UserError, match=rf"^the model {preset.path} is neither a folder nor complete in the local cache[^\n]*$"):
        preset.adapter.from_pretrained(path=preset.path, **preset.options)
    with pytest.raises(UserError, match=r"^no model folder at /no/such/folder: set `path`[^\n]*$"):
        preset.adapter.from_pretrained(path="/no/such/folder", **preset.options)


class Gated:
    """A class of diffusers, for weights behind a licence that was not accepted."""

    @staticmethod
    def from_pretrained(path, **options):
        refused = httpx.Response(403, request=httpx.Request("GET", "https://huggingface.co"))
        raise OSError(f"{path} cannot be loaded") from GatedRepoError("403 Client Error", response=refused)


def test_a_gated_model_is_one_sentence():
    path = Preset.named("sd3_medium").path
    with pytest.raises(UserError, match=rf"^the model {path} is gated: accept its licence at \S+, then run `hf auth login`[^\n]*$"):
        load_pretrained(Gated, path, None)


def test_a_model_is_trained_evaluated_and_analysed(given, tmp_path):
    quick = [*QUICK, "data=toyworld", "data.image_size=[32,32]", "data.batch_size=1", "trainer.accumulate_grad_batches=1"]
    report = train(compose_config("train", tmp_path / "run", "experiment=coco_lora", *quick, *given, *RUN, "trainer.limit_val_batches=1"))
    assert (tmp_path / "run" / "checkpoints" / "last-lora" / "pytorch_lora_weights.safetensors").is_file() and report
    own = ["trainer.accelerator=cpu", "data.image_size=[32,32]", "expert_layer=1"]
    scores = evaluate(compose_config("evaluate", tmp_path / "scores", *given, *own, "ckpt=base"))
    assert len(scores["miou_per_block"]) >= 3
    found = analyze(
        compose_config("analyze", tmp_path / "analysis", *given, *own, "analysis.sigmas=[0.5]", "studies=[budget,segmentation]", "images=2")
    )
    assert set(found["studies"]) >= {"budget", "segmentation"}
