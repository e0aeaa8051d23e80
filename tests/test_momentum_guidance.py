import torch

from odeon.guidance.momentum import momentum_guidance


def test_the_average_trails_the_prediction():
    predictions = [torch.full((2, 3), value, dtype=torch.float64) for value in (1.0, 2.0, 4.0)]
    average, found = predictions[0], []
    for denoised in predictions:
        guided, average = momentum_guidance(denoised, average, strength=0.5, decay=0.6)
        found.append(guided[0, 0].item())
    assert torch.allclose(torch.tensor(found), torch.tensor([1.0, 2.5, 5.3]))  # averages 1, 1, 1.4


def test_neutral_values():
    denoised, average = torch.ones(2, 3), torch.zeros(2, 3)
    assert torch.equal(momentum_guidance(denoised, average, strength=0.0)[0], denoised)
    assert torch.equal(momentum_guidance(denoised, denoised, strength=3.0)[0], denoised)
