"""Nodes of guidance by gradients, on the embedded runner: what TorchScript files may be, and what is refused."""
import json

import pytest
import torch

from odeon import NODE_CLASS_MAPPINGS
from odeon.guidance.classifiers import CLASSIFIER_FOLDER, Classifier, load_torchscript
from odeon.host.embedded.sampling import Guider, Noise
from odeon.models.questions import ANSWERS, Question
from odeon.models.shapes import draw_shapes
from odeon.models.weights import shapes_judge


def made(node, /, **changes):
    cls = NODE_CLASS_MAPPINGS[node]
    inputs = {key: spec[1]["default"] for group in cls.INPUT_TYPES().values() for key, spec in group.items()
              if "default" in spec[1]}
    with torch.inference_mode():
        return getattr(cls(), cls.FUNCTION)(**{**inputs, **changes})


@pytest.fixture(scope="module")
def shapes():
    model, clip, vae = made("OdeonShapesCheckpoint")
    return model, [clip.encode_from_tokens_scheduled(clip.tokenize(text)) for text in ("a red star on sand", "")], vae


def draw(model, prompts, batch=1):
    noise = Noise(5).generate_noise({"samples": torch.zeros(batch, 4, 16, 16)})
    solver = made("OdeonSamplerExponentialAdams", order=1)[0]
    with torch.inference_mode():
        return Guider(model, *prompts, 3.0).sample(noise, torch.zeros_like(noise), solver,
                                                   torch.tensor([14.6, 3.0, 1.0, 0.3, 0.0]), seed=5)


class Noisy(torch.nn.Module):
    """Five classes of a noisy latent and a timestep."""

    def __init__(self):
        super().__init__()
        self.layer = torch.nn.Conv2d(4, 5, 3)

    def forward(self, x, timestep):
        return torch.tanh(self.layer(x)).mean((2, 3)) * (1.0 + timestep[:, None] / 1000.0)


@pytest.fixture
def files(tmp_path, monkeypatch):
    monkeypatch.setenv("ODEON_FOLDER", str(tmp_path))
    folder = tmp_path / "odeon_classifiers"
    folder.mkdir()
    torch.manual_seed(0)
    torch.jit.save(torch.jit.script(Noisy()), folder / "noisy.pt")
    seen = torch.nn.Sequential(torch.nn.Conv2d(3, 8, 5, stride=4), torch.nn.ReLU(), torch.nn.Flatten(),
                               torch.nn.Linear(8 * 15 * 15, 6))
    torch.jit.save(torch.jit.trace(seen, torch.zeros(1, 3, 64, 64)), folder / "seen.pt")
    (folder / "broken.pt").write_text("nothing")
    return folder


def test_a_noisy_classifier_from_a_file_guides_to_the_minority(files, shapes):
    model, prompts, _ = shapes
    classifier, labels = made("OdeonLoadClassifier", name="noisy", sees="noisy latent", labels="5")
    assert labels.splitlines() == ["0", "1", "2", "3", "4"]
    plain = draw(model, prompts)
    weak, strong = (draw(made("OdeonMinorityGuidance", model=model, classifier=classifier, scale=scale)[0], prompts)
                    for scale in (10.0, 40.0))
    scores = [classifier.logits(out, torch.zeros(1)).log_softmax(1)[0, 4] for out in (plain, weak, strong)]
    assert scores[0] < scores[1] < scores[2], scores
    fresh = made("OdeonMinorityGuidance", model=model, scale=40.0, classifier=made(
        "OdeonLoadClassifier", name="shapes-unet-minority", sees="noisy latent", labels="4")[0])[0]
    assert torch.equal(draw(fresh, prompts), draw(fresh, prompts)), "a file's first run differs from its second"
    other = made("OdeonMinorityGuidance", model=model, classifier=classifier, target=0)[0]
    assert not torch.equal(draw(other, prompts), draw(model, prompts))
    textbook = made("OdeonClassifierGuidance", model=model, classifier=classifier, target="4", form="textbook",
                    scale=10.0)[0]
    assert not torch.equal(draw(textbook, prompts), plain)


def test_the_shipped_classifier_leads_to_what_the_model_restores_badly(shapes):
    """Mean minority scores of 12 pictures without a prompt: of no guidance, twice to the rarest quarter, to the
    commonest."""
    model, (_, empty), _ = shapes
    classifier = made("OdeonLoadClassifier", name="shapes-unet-minority", sees="noisy latent", labels="4")[0]
    solver = made("OdeonSamplerDDIM", eta=1.0)[0]
    sigmas = made("OdeonSigmasPower", steps=10, sigma_max=14.6, sigma_min=0.03)[0]
    noise, found = Noise(5).generate_noise({"samples": torch.zeros(12, 4, 16, 16)}), []
    for target, scale in ((3, 0.0), (3, 3.5), (3, 20.0), (0, 20.0)):
        guided = made("OdeonMinorityGuidance", model=model, classifier=classifier, target=target, scale=scale)[0]
        with torch.inference_mode():
            out = Guider(guided, empty, empty, 1.0).sample(noise, torch.zeros_like(noise), solver, sigmas, seed=5)
        found.append(made("OdeonMinorityScore", model=model, positive=empty, negative=empty, repeats=2,
                          latent={"samples": out})[1])
    plain, faint, rare, common = found  # about 9, and 9.3, 10.4 and 7.1: rounding grows to 0.5 on the way
    assert rare > plain + 0.4 and common < plain - 1.2 and abs(faint - plain) < 0.6


def test_the_shipped_classifier_s_card_is_that_of_the_file():
    card = json.loads((CLASSIFIER_FOLDER / "shapes-unet-minority.json").read_text())
    file = CLASSIFIER_FOLDER / "shapes-unet-minority.pt"
    assert card["parameters"] == sum(value.numel() for value in load_torchscript(file).parameters())
    assert file.stat().st_size < 400_000 and card["quality"]["bins"] == 4
    assert "shapes-unet-minority" in NODE_CLASS_MAPPINGS["OdeonLoadClassifier"].INPUT_TYPES()["required"]["name"][0]


def test_pictures_and_features_from_a_file(files, shapes):
    model, prompts, vae = shapes
    classifier = made("OdeonLoadClassifier", name="seen", labels="a\nb\nc\nd\ne\nf", size=64)[0]
    features = made("OdeonLoadClassifier", name="seen", labels="", size=64)[0]
    assert classifier.target("C") == 2 and features.logits(torch.zeros(2, 3, 80, 80)).shape == (2, 6)
    plain = draw(model, prompts)
    out = draw(made("OdeonClassifierGuidance", model=model, classifier=classifier, target="c", scale=30.0,
                    vae=vae)[0], prompts)
    logits = [classifier.logits(vae.decode(each).movedim(-1, 1))[0, 2] for each in (plain, out)]
    assert logits[0] < logits[1]
    rare = draw(made("OdeonMinoritySelfGuided", model=model, loss="features", vae=vae, features=features, every=1,
                     scale=4.0)[0], prompts)
    assert torch.isfinite(rare).all() and not torch.allclose(rare, plain, atol=1e-4)
    with pytest.raises(ValueError, match="gives features, not classes"):
        features.target("0")
    with pytest.raises(ValueError, match="needs a network of features"):
        made("OdeonMinoritySelfGuided", model=model, loss="features", vae=vae)


def test_wrong_files_sizes_and_words_are_refused(files, shapes):
    model, prompts, vae = shapes
    for name, words in (("broken", "is no TorchScript file"), ("absent", "there is no classifier"),
                        ("../x", "must be a plain file name")):
        with pytest.raises(ValueError, match=words):
            made("OdeonLoadClassifier", name=name)
    with pytest.raises(ValueError, match="three numbers divided by commas"):
        made("OdeonLoadClassifier", name="seen", mean="0.5")
    wrong = made("OdeonLoadClassifier", name="seen", labels="10", size=64)[0]
    with pytest.raises(ValueError, match=r"should give 10 numbers .* got \(6,\)"):
        draw(made("OdeonClassifierGuidance", model=model, classifier=wrong, target="9", vae=vae)[0], prompts)
    small = made("OdeonLoadClassifier", name="seen", labels="6", size=32)[0]
    with pytest.raises(ValueError, match="can't read a picture of"):
        draw(made("OdeonClassifierGuidance", model=model, classifier=small, target="1", vae=vae)[0], prompts)
    noisy = made("OdeonLoadClassifier", name="noisy", sees="noisy latent", labels="5")[0]
    with pytest.raises(ValueError, match="sees a picture or a latent, got one of a noisy latent"):
        made("OdeonClassifierGuidance", model=model, classifier=noisy, target="1", vae=vae)


def test_questions_read_drawn_pictures():
    images, captions = draw_shapes(12, 128, 3, 1)
    for about in ANSWERS:
        classifier = made("OdeonShapesClassifier", about=about)[0]
        if about == "ground":
            truth = [classifier.label_in(caption) for caption in captions]
            assert classifier.logits(images.movedim(-1, 1)).argmax(1).tolist() == truth
        assert classifier.labels == ANSWERS[about]
    middle = [i for i, caption in enumerate(captions) if "in the middle" in caption]
    shape = made("OdeonShapesClassifier", about="shape")[0]
    read = shape.logits(images.movedim(-1, 1)).argmax(1).tolist()
    assert [read[i] for i in middle] == [shape.label_in(captions[i]) for i in middle]
    assert all(shape.labels[answer] == "nothing" for i, answer in enumerate(read) if i not in middle)
    with pytest.raises(ValueError, match="a question is about"):
        Question(shapes_judge(), "mood")
    with pytest.raises(ValueError, match="target must be a class of this classifier"):
        Classifier(torch.nn.Identity(), "picture", ("a", "b")).label_in("neither")


def test_a_match_under_a_mask_pulls_where_the_mask_is(shapes):
    model, prompts, vae = shapes
    images, _ = draw_shapes(1, 128, 9, 1)
    mask = torch.zeros(1, 128, 128)
    mask[:, :, :64] = 1.0
    plain = vae.decode(draw(model, prompts))
    for name, inputs, scale in (("OdeonLossImage", {"image": images}, 0.5),
                                ("OdeonLossLatent", {"latent": {"samples": vae.encode(images)}}, 0.5)):
        loss = made(name, **inputs, mask=mask)[0]
        guided = made("OdeonLossGuidance", model=model, loss=loss, vae=vae, scale=scale, grad_through="x0 only")[0]
        out = vae.decode(draw(guided, prompts))
        errors = [[(each - images)[:, :, half].square().mean() for half in (slice(0, 60), slice(68, 128))]
                  for each in (plain, out)]
        assert errors[1][0] < 0.9 * errors[0][0], (name, errors)
        assert errors[1][1] > 0.95 * errors[0][1], (name, errors)


def test_a_classifier_s_loss_is_minus_its_log_probability():
    classifier, pictures = made("OdeonShapesClassifier", about="ground")[0], draw_shapes(3, 128, 3, 1)[0].movedim(-1, 1)
    logits = classifier.logits(pictures)
    for place, target in enumerate(classifier.labels[:3]):
        plain, single = (made("OdeonLossClassifier", classifier=classifier, target=target, weight=2.0,
                              tau_marginal=tau)[0](pictures, lambda x: x) for tau in (1.0, 0.0))
        assert torch.allclose(plain, -2.0 * logits.log_softmax(1)[:, place], atol=1e-4)
        assert torch.allclose(single + 2.0 * logits[:, place], (single + 2.0 * logits[:, place])[:1], atol=1e-4)
    with pytest.raises(ValueError, match="connect a vae"):
        made("OdeonLossClassifier", classifier=classifier, target="0")[0](pictures)
