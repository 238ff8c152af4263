"""Random networks of the classes that judge images, small enough for a test, in folders as `save_pretrained` writes them."""

import torch
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import (
    BertConfig,
    BertTokenizer,
    CLIPConfig,
    CLIPImageProcessorPil,
    CLIPModel,
    CLIPProcessor,
    CLIPVisionConfig,
    Dinov2Config,
    Dinov2Model,
    GroundingDinoConfig,
    GroundingDinoForObjectDetection,
    GroundingDinoImageProcessorPil,
    GroundingDinoProcessor,
    LlamaConfig,
    LlavaConfig,
    LlavaForConditionalGeneration,
    LlavaProcessor,
    Owlv2Config,
    Owlv2ForObjectDetection,
    Owlv2ImageProcessorPil,
    Owlv2Processor,
    PreTrainedTokenizerFast,
    SwinConfig,
)

from seg4diff.evaluation.judges.geneval import COLOURS
from seg4diff.tiny.tokenizer import build_clip_tokenizer

WORDS = ["a", "photo", "of", "object", "-", "colored", "dog", "cat", "apple", "bowl", *COLOURS]
SIDE, PATCH, TEXT = 16, 8, 16
SIZES = {"hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2}
VISION = SIZES | {"image_size": SIDE, "patch_size": PATCH}
CHAT = "{% for m in messages %}{% for c in m.content %}{{ '<image>' if c.type == 'image' else c.text }}{% endfor %}{% endfor %} :"


def scattered(kind, config, seed=0, spread=0.3):
    """A network whose outputs differ between inputs: transformers' own spread of 0.02 leaves them nearly equal."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        network = kind(config)
        for weight in network.parameters():
            if weight.ndim > 1:
                weight.data = torch.randn(weight.shape) * spread
    return network.eval()


def _text(tokenizer):
    ends = {"bos_token_id": tokenizer.bos_token_id, "eos_token_id": tokenizer.eos_token_id, "pad_token_id": tokenizer.pad_token_id}
    return SIZES | ends | {"vocab_size": len(tokenizer), "max_position_embeddings": TEXT}


def _save(folder, *parts):
    for part in parts:
        part.save_pretrained(folder)
    return str(folder)


def make_clip(folder, seed=0):
    tokenizer = build_clip_tokenizer(WORDS, TEXT)
    config = CLIPConfig(
        text_config=_text(tokenizer) | {"projection_dim": 8}, vision_config=VISION | {"projection_dim": 8}, projection_dim=8
    )
    images = CLIPImageProcessorPil(size={"shortest_edge": SIDE}, crop_size={"height": SIDE, "width": SIDE})
    return _save(folder, scattered(CLIPModel, config, seed), CLIPProcessor(images, tokenizer))


def make_owl(folder, seed=0):
    tokenizer = build_clip_tokenizer(WORDS, TEXT)
    config = Owlv2Config(text_config=_text(tokenizer), vision_config=VISION, projection_dim=16)
    images = Owlv2ImageProcessorPil(size={"height": SIDE, "width": SIDE})
    return _save(folder, scattered(Owlv2ForObjectDetection, config, seed), Owlv2Processor(images, tokenizer))


def make_grounding_dino(folder, seed=0):
    """A detector that answers with phrases; scattered weights would make its boxes thinner than a pixel."""
    words = dict.fromkeys(["[PAD]", "[UNK]", "[CLS]", "[SEP]", ".", "?", *WORDS])
    tokenizer = BertTokenizer(vocab={word: k for k, word in enumerate(words)})
    swin = {"image_size": 128, "patch_size": 4, "embed_dim": 8, "depths": [1, 1, 1, 1], "num_heads": [1, 1, 2, 2], "window_size": 2}
    config = GroundingDinoConfig(
        backbone_config=SwinConfig(**swin, out_features=["stage2", "stage3", "stage4"]),
        text_config=BertConfig(**SIZES, vocab_size=len(tokenizer), max_position_embeddings=32),
        **{f"{half}_{name}": 2 for half in ("encoder", "decoder") for name in ("layers", "attention_heads")},
        encoder_ffn_dim=16,
        decoder_ffn_dim=16,
        d_model=32,
        num_queries=9,
        max_text_len=32,
    )
    images = GroundingDinoImageProcessorPil(size={"height": 128, "width": 128})
    network = scattered(GroundingDinoForObjectDetection, config, seed, spread=0.05)
    return _save(folder, network, GroundingDinoProcessor(images, tokenizer))


def make_dino(folder, seed=0):
    config = Dinov2Config(hidden_size=16, num_hidden_layers=2, num_attention_heads=2, mlp_ratio=2, image_size=SIDE, patch_size=PATCH)
    images = CLIPImageProcessorPil(size={"shortest_edge": SIDE}, crop_size={"height": SIDE, "width": SIDE})
    return _save(folder, scattered(Dinov2Model, config, seed), images)


def make_llava(folder, seed=0):
    """A model that talks about images, whose words are whole tokens."""
    words = ["<unk>", "<image>", "Yes", "yes", "no", "Does", "this", "figure", "show", "?", "Please", "answer", "or", ".", ":", *WORDS]
    vocabulary = {word: k for k, word in enumerate(dict.fromkeys(words))}
    plain = Tokenizer(models.WordLevel(vocabulary, unk_token="<unk>"))
    plain.pre_tokenizer = pre_tokenizers.Whitespace()
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=plain, unk_token="<unk>", additional_special_tokens=["<image>"])
    config = LlavaConfig(
        vision_config=CLIPVisionConfig(**VISION),
        text_config=LlamaConfig(**SIZES, vocab_size=len(vocabulary), max_position_embeddings=64, num_key_value_heads=2),
        image_token_index=vocabulary["<image>"],
        image_seq_length=4,
    )
    images = CLIPImageProcessorPil(size={"shortest_edge": SIDE}, crop_size={"height": SIDE, "width": SIDE})
    processor = LlavaProcessor(
        images, tokenizer, patch_size=PATCH, vision_feature_select_strategy="default", num_additional_image_tokens=1, chat_template=CHAT
    )
    return _save(folder, scattered(LlavaForConditionalGeneration, config, seed), processor)
