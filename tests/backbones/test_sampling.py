"""Images of several prompts, one by one or together."""

import numpy as np
import torch
from tests.hosts import random_flux2


def test_an_image_depends_on_its_prompt_and_seed_and_not_on_its_neighbours(backbone):
    options = {"steps": 2, "guidance": 3.0, "size": (32, 48)}
    prompts = {5: "a star on sand", 6: "two cups on water", 7: "leaf snow"}
    together = np.stack(backbone.sample(list(prompts.values()), seeds=list(prompts), **options)).astype(int)
    alone = np.stack([backbone.sample([prompt], seeds=[seed], **options)[0] for seed, prompt in prompts.items()]).astype(int)
    assert np.abs(alone - together).max() <= 1  # rounding


def test_decoding_takes_the_latents_of_encoding_on_the_same_scale(backbone):
    images = torch.rand(2, 3, 32, 48, generator=torch.Generator().manual_seed(0)) * 2 - 1
    latents = backbone.encode_image(images)
    vae = backbone.vae
    expected = vae.decode(vae.encode(images).latent_dist.mean).sample.clamp(-1, 1)
    torch.testing.assert_close(backbone.decode_image(latents), expected, atol=1e-4, rtol=0)


def test_decoding_of_flux2_undoes_its_encoding():
    model = random_flux2()
    latents = torch.randn(2, 16, 4, 6, generator=torch.Generator().manual_seed(0))
    norm, patches = model.vae.bn, latents * (model.vae.bn.running_var + model.vae.config.batch_norm_eps).sqrt()[:, None, None]
    patches = (patches + norm.running_mean[:, None, None]).view(2, 4, 2, 2, 4, 6).permute(0, 1, 4, 2, 5, 3).reshape(2, 4, 8, 12)
    torch.testing.assert_close(model.decode_image(latents), model.vae.decode(patches).sample.clamp(-1, 1), atol=1e-5, rtol=0)
