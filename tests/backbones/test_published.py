"""Every conf/backbone at its real size, on the meta device, from the configuration that its authors published: no weights are needed."""

from pathlib import Path

import numpy as np
import pytest
import torch
from diffusers.pipelines.flux.pipeline_flux import calculate_shift
from diffusers.pipelines.flux2.pipeline_flux2_klein import compute_empirical_mu
from hydra.utils import instantiate
from speed.published import build, new_scheduler, read_facts
from tests.conftest import REPO
from tests.runs import compose_config

from seg4diff.backbones.aura_flow import AuraFlowBackbone
from seg4diff.backbones.cogvideox import CogVideoXBackbone
from seg4diff.backbones.lora import add_lora, lora_weights
from seg4diff.backbones.prx import PRXBackbone
from seg4diff.backbones.runtime import Runtime
from seg4diff.backbones.sd3 import SD3Backbone

PUBLISHED = sorted((Path(__file__).parent / "published").glob("*.json"))
TINY = {"tiny_sd3", "tiny_sd3_untrained"}


def test_every_backbone_file_is_checked():
    assert {path.stem for path in (REPO / "conf" / "backbone").glob("*.yaml")} == {path.stem for path in PUBLISHED} | TINY


@pytest.fixture(scope="module", params=PUBLISHED, ids=lambda path: path.stem)
def model(request, tmp_path_factory):
    """(name, published facts, configuration, backbone on the meta device); a backbone of this size takes seconds even without weights."""
    facts = read_facts(request.param.stem, quick=False)
    config = compose_config("train", tmp_path_factory.mktemp("run"), "experiment=coco_lora", f"backbone={request.param.stem}")
    return request.param.stem, facts, config, build(config, facts, torch.device("meta"), Runtime())


def test_size_blocks_grid_and_adapter_are_those_of_the_published_model(model):
    _, facts, config, backbone = model
    count = sum(weight.numel() for weight in backbone.transformer.parameters())
    assert count == pytest.approx(facts["parameters"], rel=0.03)
    assert len(backbone.attention_sites()) == facts["blocks"]
    assert backbone.token_grid(1024, 1024) == (64, 64) and backbone.token_grid(512, 768) == (32, 48)
    clip = 77 if isinstance(backbone, SD3Backbone) else 0
    assert clip + backbone.text_length == facts["text_tokens"]
    (site,) = backbone.select_sites([config.backbone.expert_layer])
    add_lora(backbone, instantiate(config.lora, _convert_="all"), config.backbone.expert_layer, seed=0)
    names = lora_weights(backbone)
    assert len(names) == 2 * len(config.lora.targets) and all(name.startswith(f"{site.name}.") for name in names)


def test_the_noise_level_is_step_8_of_28_of_the_published_schedule(model):
    name, facts, config, backbone = model
    scheduler, steps, tokens = new_scheduler(facts["scheduler"]), 28, 64 * 64
    if isinstance(backbone, CogVideoXBackbone):  # its schedule has no noise levels of flow matching: the one with as much noise
        scheduler.set_timesteps(steps)
        kept, sigma = float(scheduler.alphas_cumprod[scheduler.timesteps[steps - 8]]), config.backbone.readout.sigma
        assert sigma / (1 - sigma) == pytest.approx(((1 - kept) / kept) ** 0.5, abs=1e-6)
        return
    if not scheduler.config.use_dynamic_shifting:
        # SD3, AuraFlow and PRX space the levels before the shift over those of training, down to 1 / 1000; the others down to 1 / steps.
        over_training = isinstance(backbone, SD3Backbone | AuraFlowBackbone | PRXBackbone)
        scheduler.set_timesteps(steps, **({} if over_training else {"sigmas": np.linspace(1.0, 1 / steps, steps)}))
    else:
        own = scheduler.config
        flux = calculate_shift(tokens, own.base_image_seq_len, own.max_image_seq_len, own.base_shift, own.max_shift)
        mu = compute_empirical_mu(tokens, steps) if name.startswith("flux2") else flux
        scheduler.set_timesteps(sigmas=np.linspace(1.0, 1 / steps, steps), mu=mu)
    assert float(scheduler.sigmas[steps - 8]) == pytest.approx(config.backbone.readout.sigma, abs=1e-7)


def test_the_noise_level_of_the_release_is_what_its_code_computes(model):
    """Step 8 of 28 for SD3; for Flux step 8 of 50, shifted for as many image tokens as the latents have channels."""
    name, facts, config, backbone = model
    choices = config.backbone.get("release", {}).get("backbone")
    scheduler = new_scheduler(facts["scheduler"])
    if isinstance(backbone, SD3Backbone):
        scheduler.set_timesteps(28)
        assert choices.model.t5_length == 77 and float(scheduler.timesteps[-8]) == pytest.approx(515.0721, abs=1e-4)
    elif name == "flux1_dev":
        scheduler.set_timesteps(sigmas=np.linspace(1.0, 1 / 50, 50), mu=calculate_shift(backbone.transformer.config.in_channels // 4))
        assert choices.model.text_length == 77
    else:
        assert not choices, "the release reads no such model"
        return
    assert choices.readout.sigma == pytest.approx(float(scheduler.timesteps[-8]) / 1000, abs=1e-7)
