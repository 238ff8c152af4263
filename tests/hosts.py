"""Random models of every family, small enough for a test."""

import torch
from diffusers import (
    AutoencoderKL,
    AutoencoderKLFlux2,
    AutoencoderTiny,
    FlowMatchEulerDiscreteScheduler,
    Flux2KleinPipeline,
    Flux2Transformer2DModel,
    FluxPipeline,
    FluxTransformer2DModel,
)
from transformers import (
    CLIPTextConfig,
    CLIPTextModel,
    GemmaTokenizer,
    Qwen2Tokenizer,
    Qwen3Config,
    Qwen3ForCausalLM,
    T5Config,
    T5EncoderModel,
    T5Tokenizer,
)

from seg4diff.backbones.flux import FluxBackbone
from seg4diff.backbones.flux2 import Flux2Backbone
from seg4diff.backbones.scratch import new_sd3_pipeline
from seg4diff.backbones.sd3 import SD3Backbone
from seg4diff.data.toyworld.captions import lexicon
from seg4diff.tiny.tokenizer import build_clip_tokenizer, byte_characters

VAE = {
    "block_out_channels": [8, 8, 8],
    "down_block_types": ["DownEncoderBlock2D"] * 3,
    "up_block_types": ["UpDecoderBlock2D"] * 3,
    "latent_channels": 4,
    "norm_num_groups": 4,
    "mid_block_add_attention": False,
    "use_quant_conv": False,
    "use_post_quant_conv": False,
    "sample_size": 32,
}
CHAT = (
    "{% for message in messages %}<|im_start|>{{ message.role }}\n{{ message.content }}<|im_end|>\n{% endfor %}"
    "<|im_start|>assistant\n<think>\n\n</think>\n\n"
)


def random_tiny(*, channels=4, stages=3, decoder_stages=None) -> AutoencoderTiny:
    """An autoencoder that can take the place of `VAE`, or not."""
    count = stages if decoder_stages is None else decoder_stages
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return AutoencoderTiny(
            latent_channels=channels,
            encoder_block_out_channels=(8,) * stages,
            decoder_block_out_channels=(8,) * count,
            num_encoder_blocks=(1,) * stages,
            num_decoder_blocks=(1,) * count,
        ).eval()


def scatter(module, seed):
    """Weights with which every part does something: the zero initialisation of adaptive norms would hide errors."""
    generator = torch.Generator().manual_seed(seed)
    for weight in module.parameters():
        weight.data = torch.randn(weight.shape, generator=generator) * 0.2
    return module


def byte_tokenizer() -> Qwen2Tokenizer:
    """Every byte is a token."""
    specials = ["<|endoftext|>", "<|im_start|>", "<|im_end|>"]
    tokenizer = Qwen2Tokenizer({piece: k for k, piece in enumerate([*byte_characters(), *specials])}, [], chat_template=CHAT)
    tokenizer.add_special_tokens({"additional_special_tokens": specials[1:]})
    return tokenizer


def small_qwen3(tokenizer) -> Qwen3Config:
    return Qwen3Config(
        vocab_size=len(tokenizer),
        hidden_size=8,
        intermediate_size=16,
        num_hidden_layers=3,
        num_attention_heads=2,
        num_key_value_heads=1,
        head_dim=8,
    )


def small_t5_tokenizer() -> T5Tokenizer:
    words = [f"▁{word}" for word in lexicon()]
    pieces = [("<pad>", 0.0), ("</s>", 0.0), ("<unk>", 0.0), *((word, -2.0) for word in words), ("▁", -5.0)]
    return T5Tokenizer([*pieces, *((letter, -6.0) for letter in "abcdefghijklmnopqrstuvwxyz0123456789")], extra_ids=0)


def small_gemma_tokenizer() -> GemmaTokenizer:
    """Words of the toy world are a token each, other words have one for each letter, and other letters one for each byte."""
    pieces, merges = ["<pad>", "<eos>", "<bos>", "<unk>", "<mask>", *(f"<0x{byte:02X}>" for byte in range(256))], []
    pieces += ["\u2581", *map(chr, range(33, 127))]
    for word in lexicon():
        starts = [f"\u2581{word[:end]}" for end in range(1, len(word) + 1)]
        merges += [(start or "\u2581", letter) for start, letter in zip(["", *starts], word, strict=False)]
        pieces += starts
    vocabulary = {piece: k for k, piece in enumerate(dict.fromkeys(pieces))}
    return GemmaTokenizer(vocabulary, list(dict.fromkeys(merges)), add_bos_token=True)


def small_t5(tokenizer) -> T5Config:
    return T5Config(vocab_size=len(tokenizer), d_model=12, d_kv=6, d_ff=16, num_layers=1, num_heads=2)


def random_sd3(*, qk_norm=None, dual=(), blocks=3, heads=2, t5_length=0, **options) -> SD3Backbone:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        vae = AutoencoderKL(**VAE, shift_factor=0.1, scaling_factor=0.5)
    pipeline = new_sd3_pipeline(
        transformer={
            "sample_size": 8,
            "patch_size": 2,
            "in_channels": 4,
            "out_channels": 4,
            "num_layers": blocks,
            "attention_head_dim": 8,
            "num_attention_heads": heads,
            "caption_projection_dim": 8 * heads,
            "pos_embed_max_size": 12,
            "qk_norm": qk_norm,
            "dual_attention_layers": dual,
        },
        vae=vae,
        text_encoder={"hidden_size": 8, "intermediate_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2},
        tokenizer=build_clip_tokenizer(lexicon(), 32),
        shift=2.0,
        pooled_text=False,
        seed=0,
    )
    scatter(pipeline.transformer, 1)
    return SD3Backbone(pipeline, t5_length=t5_length, **options).eval()


def random_flux(*, double=2, single=2, guided=True, text_length=24, **options) -> FluxBackbone:
    t5_tokenizer = small_t5_tokenizer()
    clip_tokenizer = build_clip_tokenizer(lexicon(), 16)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        clip = CLIPTextConfig(
            vocab_size=len(clip_tokenizer),
            hidden_size=8,
            intermediate_size=16,
            num_hidden_layers=1,
            num_attention_heads=2,
            max_position_embeddings=16,
            bos_token_id=clip_tokenizer.bos_token_id,
            eos_token_id=clip_tokenizer.eos_token_id,
        )
        t5 = small_t5(t5_tokenizer)
        transformer = FluxTransformer2DModel(
            in_channels=16,
            num_layers=double,
            num_single_layers=single,
            attention_head_dim=16,
            num_attention_heads=2,
            joint_attention_dim=12,
            pooled_projection_dim=8,
            guidance_embeds=guided,
            axes_dims_rope=(4, 6, 6),
        )
        pipeline = FluxPipeline(
            scheduler=FlowMatchEulerDiscreteScheduler(use_dynamic_shifting=True),
            vae=AutoencoderKL(**VAE, shift_factor=0.1, scaling_factor=0.5),
            text_encoder=CLIPTextModel(clip),
            tokenizer=clip_tokenizer,
            text_encoder_2=T5EncoderModel(t5),
            tokenizer_2=t5_tokenizer,
            transformer=scatter(transformer, 1),
        )
    return FluxBackbone(pipeline, text_length=text_length, guidance=3.5, **options).eval()


def random_flux2(*, double=2, single=2, text_length=48, **options) -> Flux2Backbone:
    tokenizer = byte_tokenizer()
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        text = small_qwen3(tokenizer)
        transformer = Flux2Transformer2DModel(
            in_channels=16,
            num_layers=double,
            num_single_layers=single,
            attention_head_dim=16,
            num_attention_heads=2,
            joint_attention_dim=24,
            timestep_guidance_channels=16,
            axes_dims_rope=(4, 4, 4, 4),
            guidance_embeds=False,
        )
        vae = AutoencoderKLFlux2(**VAE)
        vae.bn.running_mean.normal_()
        vae.bn.running_var.uniform_(0.5, 2.0)
        pipeline = Flux2KleinPipeline(
            scheduler=FlowMatchEulerDiscreteScheduler(use_dynamic_shifting=True),
            vae=vae,
            text_encoder=Qwen3ForCausalLM(text),
            tokenizer=tokenizer,
            transformer=scatter(transformer, 1),
        )
    return Flux2Backbone(pipeline, text_length=text_length, text_layers=(1, 2, 3), **options).eval()


def random_sam(folder) -> None:
    """Write a random SAM, which sees pictures of 64 x 64 pixels."""
    from transformers import (
        SamConfig,
        SamImageProcessor,
        SamMaskDecoderConfig,
        SamModel,
        SamProcessor,
        SamPromptEncoderConfig,
        SamVisionConfig,
    )

    sizes = {"hidden_size": 8, "mlp_dim": 8, "num_hidden_layers": 1, "num_attention_heads": 2}
    image = {"image_size": 64, "patch_size": 16}
    vision = SamVisionConfig(**sizes, **image, output_channels=8, num_pos_feats=4, window_size=2, global_attn_indexes=[0])
    prompt, decoder = SamPromptEncoderConfig(hidden_size=8, **image), SamMaskDecoderConfig(**sizes, iou_head_hidden_dim=8)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        config = SamConfig(vision_config=vision, prompt_encoder_config=prompt, mask_decoder_config=decoder)
        SamModel(config).save_pretrained(folder)
    SamProcessor(SamImageProcessor(size={"longest_edge": 64}, pad_size={"height": 64, "width": 64})).save_pretrained(folder)
