"""Random models of the open families that came after Flux.2, small enough for a test."""

import torch
from diffusers import (
    AuraFlowPipeline,
    AuraFlowTransformer2DModel,
    AutoencoderKL,
    AutoencoderKLQwenImage,
    ChromaPipeline,
    ChromaTransformer2DModel,
    FlowMatchEulerDiscreteScheduler,
    QwenImagePipeline,
    QwenImageTransformer2DModel,
    ZImagePipeline,
    ZImageTransformer2DModel,
)
from transformers import (
    Qwen2_5_VLConfig,
    Qwen2_5_VLForConditionalGeneration,
    Qwen3Model,
    T5EncoderModel,
    UMT5Config,
    UMT5EncoderModel,
)

from seg4diff.backbones.aura_flow import AuraFlowBackbone
from seg4diff.backbones.chroma import ChromaBackbone
from seg4diff.backbones.qwen_image import QwenImageBackbone
from seg4diff.backbones.z_image import ZImageBackbone
from tests.hosts import VAE, byte_tokenizer, scatter, small_qwen3, small_t5, small_t5_tokenizer


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


def random_qwen_image(*, blocks=3, text_length=192, **options) -> QwenImageBackbone:
    tokenizer = byte_tokenizer()
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        text = {"vocab_size": len(tokenizer), "hidden_size": 8, "intermediate_size": 16, "num_hidden_layers": 2}
        text |= {
            "num_attention_heads": 2,
            "num_key_value_heads": 1,
            "rope_parameters": {"rope_type": "default", "mrope_section": [1, 1, 0]},
        }
        vision = {"depth": 1, "hidden_size": 8, "intermediate_size": 8, "num_heads": 2, "out_hidden_size": 8}
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
            text_encoder=Qwen2_5_VLForConditionalGeneration(Qwen2_5_VLConfig(text_config=text, vision_config=vision)),
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
