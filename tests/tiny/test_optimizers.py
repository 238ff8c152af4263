"""Muon in the dtype of the weights, and several optimizers behind one."""

import pytest
import torch
from torch import nn

from seg4diff.tiny.optimizers import Muon, muon_with_adamw, orthogonalise


def small_model() -> nn.Module:
    torch.manual_seed(0)
    blocks = nn.ModuleList([nn.Sequential(nn.Linear(6, 6), nn.LayerNorm(6)) for _ in range(2)])
    return nn.ModuleDict({"embed": nn.Embedding(5, 6), "blocks": blocks, "head": nn.Linear(6, 2)})


def run(model: nn.Module, optimizer: torch.optim.Optimizer, steps: int) -> None:
    schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: 1 / (1 + step))
    for step in range(steps):
        hidden = model["embed"](torch.tensor([step % 5, 1]))
        for block in model["blocks"]:
            hidden = block(hidden)
        optimizer.zero_grad()
        model["head"](hidden).square().sum().backward()
        optimizer.step()
        schedule.step()


def make(model: nn.Module) -> torch.optim.Optimizer:
    return muon_with_adamw(model, muon_lr=0.1, lr=0.01, weight_decay=0.0)


def test_matrices_of_blocks_get_muon_and_everything_else_adamw():
    model = small_model()
    model["head"].bias.requires_grad_(False)
    muon, adamw = make(model).optimizers
    assert {id(weight) for weight in muon.param_groups[0]["params"]} == {id(block[0].weight) for block in model["blocks"]}
    assert len(adamw.param_groups[0]["params"]) == len(list(model.parameters())) - 3


def test_a_schedule_reaches_every_optimizer():
    model = small_model()
    optimizer = make(model)
    run(model, optimizer, 4)
    assert [part.param_groups[0]["lr"] for part in optimizer.optimizers] == pytest.approx([0.1 / 5, 0.01 / 5])


def test_saved_state_continues_to_the_same_bits():
    whole, first = small_model(), small_model()
    whole_optimizer, first_optimizer = make(whole), make(first)
    run(whole, whole_optimizer, 3)
    run(first, first_optimizer, 3)
    second = small_model()
    second.load_state_dict(first.state_dict())
    second_optimizer = make(second)
    second_optimizer.load_state_dict(first_optimizer.state_dict())
    run(whole, whole_optimizer, 3)
    run(second, second_optimizer, 3)
    for name, weight in whole.state_dict().items():
        assert torch.equal(weight, second.state_dict()[name]), name


@pytest.mark.parametrize("shape", [(5, 9), (9, 5), (7, 7)])
def test_orthogonalised_matrices_keep_their_directions_and_lose_their_lengths(shape):
    matrices = torch.randn(3, *shape, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    left, lengths, right = torch.linalg.svd(matrices, full_matrices=False)
    turned = left.mT @ orthogonalise(matrices) @ right.mT
    assert turned.dtype == torch.float64
    diagonal = turned.diagonal(dim1=1, dim2=2)
    torch.testing.assert_close(turned, torch.diag_embed(diagonal), atol=1e-12, rtol=0)
    longest = lengths / lengths.norm(dim=1, keepdim=True) > 0.05  # five steps are too few for the shortest
    assert ((diagonal > 0.6) & (diagonal < 1.3))[longest].all()


@pytest.mark.parametrize("shape", [(4, 6), (12, 3)])
def test_muon_goes_where_the_one_of_torch_goes(shape):
    first, second = (torch.ones(shape, requires_grad=True) for _ in range(2))
    options = {"lr": 0.1, "weight_decay": 0.2}
    for optimizer in (Muon([first], **options), torch.optim.Muon([second], **options)):
        generator = torch.Generator().manual_seed(1)
        for _ in range(3):
            (weight,) = optimizer.param_groups[0]["params"]
            weight.grad = torch.randn(shape, generator=generator)
            optimizer.step()
    torch.testing.assert_close(first, second, atol=1e-2, rtol=0)  # torch's is rounded to bfloat16
