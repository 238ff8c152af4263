"""Build an untrained StableDiffusion3Pipeline of any size from its architecture, to be trained and then loaded like any other."""

import torch
from diffusers import AutoencoderKL, FlowMatchEulerDiscreteScheduler, SD3Transformer2DModel, StableDiffusion3Pipeline
from diffusers.models.embeddings import get_2d_sincos_pos_embed
from transformers import CLIPTextConfig, CLIPTextModelWithProjection, CLIPTokenizer


def new_sd3_pipeline(
    *,
    transformer: dict,
    vae: AutoencoderKL,
    text_encoder: dict,
    tokenizer: CLIPTokenizer,
    shift: float,
    pooled_text: bool,
    seed: int,
) -> StableDiffusion3Pipeline:
    """Random weights in the layout of SD3, without a T5 encoder.

    Args:
        transformer: arguments of SD3Transformer2DModel; text widths and latent channels are filled in.
        vae: the autoencoder, trained or not.
        text_encoder: arguments of CLIPTextConfig shared by the two text encoders.
        tokenizer: the tokenizer of both text encoders; it says how long a prompt may be.
        shift: shift of the flow-matching schedule.
        pooled_text: False = the pooled text is zero for every prompt, so that words reach the image through attention alone.
        seed: seed of the weights.
    """
    width = text_encoder["hidden_size"]
    text_config = CLIPTextConfig(
        **text_encoder,
        vocab_size=len(tokenizer),
        max_position_embeddings=tokenizer.model_max_length,
        projection_dim=width,
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
    )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        encoders = [CLIPTextModelWithProjection(text_config) for _ in range(2)]
        channels = dict.fromkeys(("in_channels", "out_channels"), vae.config.latent_channels)
        denoiser = SD3Transformer2DModel(**transformer | channels, joint_attention_dim=2 * width, pooled_projection_dim=2 * width)
        for encoder in encoders:
            # CLIP's own spread, 0.02, is drowned by the bias of the layer that takes the words in.
            torch.nn.init.normal_(encoder.get_input_embeddings().weight, std=0.2)
            if not pooled_text:
                torch.nn.init.zeros_(encoder.text_projection.weight).requires_grad_(False)
    _spread_positions(denoiser)
    pipeline = StableDiffusion3Pipeline(
        transformer=denoiser,
        scheduler=FlowMatchEulerDiscreteScheduler(shift=shift),
        vae=vae,
        text_encoder=encoders[0],
        tokenizer=tokenizer,
        text_encoder_2=encoders[1],
        tokenizer_2=tokenizer,
        text_encoder_3=None,
        tokenizer_3=None,
    )
    pipeline.set_progress_bar_config(disable=True)
    return pipeline


def _spread_positions(transformer: SD3Transformer2DModel) -> None:
    """Set the stored position table to one unit per token.

    diffusers squeezes the whole table into `sample_size` units, which tells the neighbours of a small grid hardly apart.
    """
    table = transformer.pos_embed.pos_embed
    side = transformer.config.pos_embed_max_size
    positions = get_2d_sincos_pos_embed(table.shape[-1], side, base_size=side, output_type="pt")
    table.copy_(positions.reshape(table.shape).to(table))
