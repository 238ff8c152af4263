"""Random models of the open families that came after Flux.2, small enough for a test."""

import torch
from diffusers import (
    AuraFlowPipeline,
    AuraFlowTransformer2DModel,
    AutoencoderKL,
    AutoencoderKLCogVideoX,
    AutoencoderKLQwenImage,
    ChromaPipeline,
    ChromaTransformer2DModel,
    CogVideoXDDIMScheduler,
    CogVideoXPipeline,
    CogVideoXTransformer3DModel,
    FlowMatchEulerDiscreteScheduler,
    LongCatImagePipeline,
    LongCatImageTransformer2DModel,
    Lumina2Pipeline,
    Lumina2Transformer2DModel,
    PRXPipeline,
    PRXTransformer2DModel,
    QwenImagePipeline,
    QwenImageTransformer2DModel,
    ZImagePipeline,
    ZImageTransformer2DModel,
)
from transformers import (
    Gemma2Config,
    Gemma2Model,
    Qwen2_5_VLConfig,
    Qwen2_5_VLForConditionalGeneration,
    Qwen3Model,
    T5EncoderModel,
    T5GemmaConfig,
    UMT5Config,
    UMT5EncoderModel,
)
from transformers.models.t5gemma.modeling_t5gemma import T5GemmaEncoder

from seg4diff.backbones.aura_flow import AuraFlowBackbone
from seg4diff.backbones.chroma import ChromaBackbone
from seg4diff.backbones.cogvideox import CogVideoXBackbone
from seg4diff.backbones.longcat import LongCatBackbone
from seg4diff.backbones.lumina2 import Lumina2Backbone
from seg4diff.backbones.prx import PRXBackbone
from seg4diff.backbones.qwen_image import QwenImageBackbone
from seg4diff.backbones.z_image import ZImageBackbone
from tests.hosts import VAE, byte_tokenizer, scatter, small_gemma_tokenizer, small_qwen3, small_t5, small_t5_tokenizer

SCALE_8 = {"block_out_channels": [8] * 4, "down_block_types": ["DownEncoderBlock2D"] * 4, "up_block_types": ["UpDecoderBlock2D"] * 4}
"""An autoencoder with 8 pixels per latent, as a pipeline takes for granted."""


def random_z_image(*, blocks=3, text_length=80, **options) -> ZImageBackbone:
    tokenizer = byte_tokenizer()
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        transformer = ZImageTransformer2DModel(
            in_channels=4,
            dim=32,
            n_layers=blocks,
            n_refiner_layers=1,
            n_heads=2,
            n_kv_heads=2,
            cap_feat_dim=8,
            axes_dims=[4, 6, 6],
            axes_lens=[256, 16, 16],
        )
        pipeline = ZImagePipeline(
            scheduler=FlowMatchEulerDiscreteScheduler(shift=3.0),
            vae=AutoencoderKL(**VAE, shift_factor=0.1, scaling_factor=0.5),
            text_encoder=Qwen3Model(small_qwen3(tokenizer)),
            tokenizer=tokenizer,
            transformer=scatter(transformer, 1),
        )
    return ZImageBackbone(pipeline, text_length=text_length, **options).eval()


def random_chroma(*, double=2, single=2, text_length=24, **options) -> ChromaBackbone:
    tokenizer = small_t5_tokenizer()
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        transformer = ChromaTransformer2DModel(
            in_channels=16,
            num_layers=double,
            num_single_layers=single,
            attention_head_dim=16,
            num_attention_heads=2,
            joint_attention_dim=12,
            axes_dims_rope=(4, 6, 6),
            approximator_num_channels=16,
            approximator_hidden_dim=16,
            approximator_layers=1,
        )
        pipeline = ChromaPipeline(
            scheduler=FlowMatchEulerDiscreteScheduler(),
            vae=AutoencoderKL(**VAE, shift_factor=0.1, scaling_factor=0.5),
            text_encoder=T5EncoderModel(small_t5(tokenizer)),
            tokenizer=tokenizer,
            transformer=scatter(transformer, 1),
        )
    return ChromaBackbone(pipeline, text_length=text_length, **options).eval()


def small_qwen_vl(tokenizer) -> Qwen2_5_VLConfig:
    text = {"vocab_size": len(tokenizer), "hidden_size": 8, "intermediate_size": 16, "num_hidden_layers": 2}
    text |= {
        "num_attention_heads": 2,
        "num_key_value_heads": 1,
        "rope_parameters": {"rope_type": "default", "mrope_section": [1, 1, 0]},
    }
    vision = {"depth": 1, "hidden_size": 8, "intermediate_size": 8, "num_heads": 2, "out_hidden_size": 8}
    return Qwen2_5_VLConfig(text_config=text, vision_config=vision)


def random_qwen_image(*, blocks=3, text_length=192, **options) -> QwenImageBackbone:
    tokenizer = byte_tokenizer()
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        transformer = QwenImageTransformer2DModel(
            in_channels=16,
            out_channels=4,
            num_layers=blocks,
            attention_head_dim=16,
            num_attention_heads=2,
            joint_attention_dim=8,
            axes_dims_rope=(4, 6, 6),
        )
        vae = AutoencoderKLQwenImage(
            base_dim=8,
            z_dim=4,
            dim_mult=[1, 1, 1],
            num_res_blocks=1,
            temperal_downsample=[False, True],
            latents_mean=[0.1, -0.2, 0.3, 0.0],
            latents_std=[0.5, 1.5, 1.0, 2.0],
        )
        pipeline = QwenImagePipeline(
            scheduler=FlowMatchEulerDiscreteScheduler(use_dynamic_shifting=True),
            vae=vae,
            text_encoder=Qwen2_5_VLForConditionalGeneration(small_qwen_vl(tokenizer)),
            tokenizer=tokenizer,
            transformer=scatter(transformer, 1),
        )
    return QwenImageBackbone(pipeline, text_length=text_length, **options).eval()


def random_aura_flow(*, double=2, single=2, text_length=24, **options) -> AuraFlowBackbone:
    tokenizer = small_t5_tokenizer()
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        text = UMT5Config(vocab_size=len(tokenizer), d_model=12, d_kv=6, d_ff=16, num_layers=1, num_heads=2)
        transformer = AuraFlowTransformer2DModel(
            sample_size=8,
            in_channels=4,
            num_mmdit_layers=double,
            num_single_dit_layers=single,
            attention_head_dim=16,
            num_attention_heads=2,
            joint_attention_dim=12,
            caption_projection_dim=32,
            pos_embed_max_size=144,
        )
        pipeline = AuraFlowPipeline(
            scheduler=FlowMatchEulerDiscreteScheduler(shift=1.73),
            vae=AutoencoderKL(**VAE, scaling_factor=0.5),
            text_encoder=UMT5EncoderModel(text),
            tokenizer=tokenizer,
            transformer=scatter(transformer, 1),
        )
    return AuraFlowBackbone(pipeline, text_length=text_length, **options).eval()


def random_longcat(*, double=2, single=2, text_length=24, **options) -> LongCatBackbone:
    tokenizer = byte_tokenizer()
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        transformer = LongCatImageTransformer2DModel(
            in_channels=64,
            num_layers=double,
            num_single_layers=single,
            attention_head_dim=16,
            num_attention_heads=2,
            joint_attention_dim=8,
            pooled_projection_dim=8,
            axes_dims_rope=(4, 6, 6),
        )
        pipeline = LongCatImagePipeline(
            scheduler=FlowMatchEulerDiscreteScheduler(use_dynamic_shifting=True),
            vae=AutoencoderKL(**VAE | {"latent_channels": 16}, shift_factor=0.1, scaling_factor=0.5),
            text_encoder=Qwen2_5_VLForConditionalGeneration(small_qwen_vl(tokenizer)),
            tokenizer=tokenizer,
            text_processor=None,
            transformer=scatter(transformer, 1),
        )
    return LongCatBackbone(pipeline, text_length=text_length, **options).eval()


def small_gemma(tokenizer) -> dict:
    sizes = {"vocab_size": len(tokenizer), "hidden_size": 8, "intermediate_size": 16, "num_hidden_layers": 2, "head_dim": 8}
    return sizes | {"num_attention_heads": 2, "num_key_value_heads": 1, "query_pre_attn_scalar": 8, "sliding_window": 64}


def small_t5gemma(tokenizer) -> T5GemmaConfig:
    """The encoder takes its own part of the configuration, and diffusers loads that part from the file of the whole one."""
    sizes = small_gemma(tokenizer)
    whole = T5GemmaConfig(encoder=sizes, decoder=sizes)
    own = whole.encoder.to_dict()
    return T5GemmaConfig(**whole.to_dict() | {name: own[name] for name in set(own) - {"model_type", "is_encoder_decoder"}})


def random_lumina2(*, blocks=3, text_length=64, **options) -> Lumina2Backbone:
    tokenizer = small_gemma_tokenizer()
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        transformer = Lumina2Transformer2DModel(
            sample_size=8,
            patch_size=1,
            in_channels=4,
            hidden_size=32,
            num_layers=blocks,
            num_refiner_layers=1,
            num_attention_heads=2,
            num_kv_heads=1,
            multiple_of=16,
            axes_dim_rope=(4, 6, 6),
            axes_lens=(300, 16, 16),
            cap_feat_dim=8,
        )
        pipeline = Lumina2Pipeline(
            scheduler=FlowMatchEulerDiscreteScheduler(shift=6.0),
            vae=AutoencoderKL(**VAE | SCALE_8, shift_factor=0.1, scaling_factor=0.5),
            text_encoder=Gemma2Model(Gemma2Config(**small_gemma(tokenizer))),
            tokenizer=tokenizer,
            transformer=scatter(transformer, 1),
        )
    pipeline.system_prompt = "Draw this leaf."
    return Lumina2Backbone(pipeline, text_length=text_length, **options).eval()


def random_prx(*, blocks=3, text_length=24, **options) -> PRXBackbone:
    tokenizer = small_gemma_tokenizer()
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        transformer = PRXTransformer2DModel(
            in_channels=4, context_in_dim=8, hidden_size=32, mlp_ratio=2.0, num_heads=2, depth=blocks, axes_dim=[8, 8]
        )
        pipeline = PRXPipeline(
            scheduler=FlowMatchEulerDiscreteScheduler(shift=3.0),
            vae=AutoencoderKL(**VAE, shift_factor=0.1, scaling_factor=0.5),
            text_encoder=T5GemmaEncoder(small_t5gemma(tokenizer)),
            tokenizer=tokenizer,
            transformer=scatter(transformer, 1),
        )
    return PRXBackbone(pipeline, text_length=text_length, **options).eval()


def random_cogvideox(*, blocks=3, text_length=24, **options) -> CogVideoXBackbone:
    tokenizer = small_t5_tokenizer()
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        transformer = CogVideoXTransformer3DModel(
            in_channels=4,
            out_channels=4,
            num_layers=blocks,
            attention_head_dim=16,
            num_attention_heads=2,
            time_embed_dim=16,
            text_embed_dim=12,
            sample_width=12,
            sample_height=8,
            sample_frames=9,
            max_text_seq_length=text_length,
        )
        vae = AutoencoderKLCogVideoX(
            block_out_channels=[8] * 3,
            down_block_types=["CogVideoXDownBlock3D"] * 3,
            up_block_types=["CogVideoXUpBlock3D"] * 3,
            latent_channels=4,
            layers_per_block=1,
            norm_num_groups=4,
            scaling_factor=0.7,
        )
        pipeline = CogVideoXPipeline(
            scheduler=CogVideoXDDIMScheduler(
                prediction_type="v_prediction", rescale_betas_zero_snr=True, timestep_spacing="trailing", clip_sample=False
            ),
            vae=vae,
            text_encoder=T5EncoderModel(small_t5(tokenizer)),
            tokenizer=tokenizer,
            transformer=scatter(transformer, 1),
        )
    return CogVideoXBackbone(pipeline, **options).eval()
