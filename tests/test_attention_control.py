"""Attention control of InfEdit: what each evaluation runs on, identity, the words' places, and its node on Shapes."""
import logging

import pytest
import torch
from torch.nn import functional

from odeon import NODE_CLASS_MAPPINGS
from odeon.bench.shapes import load
from odeon.editing.attention_control import CROSS, SELF, AttentionControl, attention_maps, from_maps
from odeon.editing.words import WordMap, refined
from odeon.host.embedded.core_sampling import model_sigmas
from odeon.host.embedded.sampling import Guider, Noise

HEADS, GRID = 2, (8, 8)
WORDS = WordMap(torch.tensor([[0, 1, 2, 3]]), torch.tensor([[True, True, False, True]]),
                torch.tensor([[False, True, True, False]]))
NOTHING = torch.zeros(1, 4, dtype=torch.bool)
AT = torch.ones(1)


def attend(q, k, v):
    q, k, v = (value.unflatten(-1, (HEADS, -1)).transpose(1, 2) for value in (q, k, v))
    return functional.scaled_dot_product_attention(q, k, v).transpose(1, 2).flatten(-2)


def qkv(seed, places=64, kinds=1):
    rng = torch.Generator().manual_seed(seed)
    return [torch.randn(kinds, size, 8, generator=rng) for size in (64, places, places)]


class Network:
    """A denoiser of one self- and one cross-attention layer under a control; notes what comes out."""

    def __init__(self, control, kinds=(0,)):
        self.control, self.kinds, self.seen = control, kinds, []

    def branch(self, seed, *, words=None):
        def denoise(x, at):
            out = []
            for layer, places in (((SELF, "middle", 0, 0), 64), ((CROSS, "middle", 0, 0), 4)):
                inputs = qkv(seed if words is None or layer[0] == SELF else words, places, len(self.kinds))
                out.append(self.control.attention(*inputs, attend=attend, layer=layer, kinds=list(self.kinds),
                                                  heads=HEADS, grid=GRID))
            self.seen.append(out)
            return x + 0.1 * out[1].mean()

        return denoise


def step(control, steps=10, done=0, *, source=1, target=2, kinds=(0,)):
    """[(self, cross) of source, target, mutual] in step `done` of a run."""
    network, run = Network(control, kinds), control.begin(steps)
    x = torch.zeros(1, 4, 32, 32)
    for _ in range(done + 1):
        network.seen.clear()
        run(network.branch(target), network.branch(source), x, AT, alpha=1.0, sigma=1.0, offset=x)
    return network.seen


def test_maps_are_attention():
    q, k, v = qkv(3, 4)
    assert torch.allclose(from_maps(attention_maps(q, k, HEADS), v, HEADS), attend(q, k, v), atol=1e-6)


def test_outside_a_run_and_with_nothing_on_evaluations_are_their_own():
    control = AttentionControl(WORDS, NOTHING)
    q, k, v = qkv(1)
    call = {"attend": attend, "layer": (SELF, "middle", 0, 0), "kinds": [0], "heads": HEADS, "grid": GRID}
    assert torch.equal(control.attention(q, k, v, **call), attend(q, k, v))
    off = AttentionControl(WORDS, NOTHING, cross_replace=0.0, self_replace=0.0, blend=0.0, keep=0.0)
    (source, target, _), q2 = step(off), qkv(2)
    assert torch.equal(source[0], attend(q, k, v)) and torch.equal(target[0], attend(*q2))
    assert torch.equal(target[1], attend(*qkv(2, 4)))


def test_early_the_layout_is_the_source_s_and_later_the_mutual_evaluation_shows_its_content_in_the_new_one():
    control = AttentionControl(WORDS, NOTHING, self_replace=0.3)
    (qs, ks, vs), (qt, kt, vt) = qkv(1), qkv(2)
    early, late = step(control), step(control, done=3)
    assert torch.equal(early[1][0], attend(qs, ks, vt)) and torch.equal(early[2][0], attend(qs, ks, vs))
    assert torch.equal(late[1][0], attend(qt, kt, vt)) and torch.equal(late[2][0], attend(qt, ks, vs))


def test_words_look_where_their_own_looked_until_cross_replace():
    control = AttentionControl(WORDS, NOTHING, cross_replace=0.7)
    (qs, ks, _), (qt, kt, vt) = qkv(1, 4), qkv(2, 4)
    maps = refined(attention_maps(qs, ks, HEADS), attention_maps(qt, kt, HEADS), WORDS)
    assert torch.allclose(step(control, done=6)[1][1], from_maps(maps, vt, HEADS), atol=1e-6)
    assert torch.equal(step(control, done=7)[1][1], attend(qt, kt, vt))


def test_the_negative_keeps_its_words_and_takes_the_layout():
    control = AttentionControl(WORDS, NOTHING)
    source, target, _ = step(control, kinds=(1, 0))
    q, k, v = qkv(2, 4, 2)
    assert torch.equal(target[1][:1], attend(q[:1], k[:1], v[:1]))
    (qs, ks, _), (_, _, vt) = qkv(1, kinds=2), qkv(2, kinds=2)
    assert torch.equal(target[0], torch.cat([attend(qs[i:i + 1], ks[i:i + 1], vt[i:i + 1]) for i in (0, 1)]))


def test_equal_prompts_make_no_difference():
    same = WordMap(torch.arange(4)[None], torch.ones(1, 4, dtype=torch.bool), NOTHING)
    control = AttentionControl(same, NOTHING)
    network, run, x = Network(control), control.begin(5), torch.randn(1, 4, 32, 32)
    for _ in range(5):
        found = run(network.branch(1), network.branch(1), x, AT, alpha=1.0, sigma=1.0, offset=0.0 * x)
        assert torch.equal(found, 0.0 * x)


def test_the_edit_shows_where_edited_words_look_and_never_where_kept_ones_do():
    def found(**options):
        control = AttentionControl(WORDS, torch.tensor([[True, False, False, False]]), **options)
        network, run, x = Network(control), control.begin(10), torch.zeros(1, 4, 32, 32)
        for _ in range(2):
            out = run(network.branch(2), network.branch(1), x, AT, alpha=1.0, sigma=1.0, offset=x)
        return out, run.mutual

    whole, mutual = found(blend=0.0, keep=0.0)
    assert len(whole.unique()) == 1
    part, _ = found(blend=0.6, keep=0.0)
    assert set(part.unique().tolist()) == {whole.unique().item(), mutual.unique().item()}
    held, _ = found(blend=0.0, keep=0.6)
    assert set(held.unique().tolist()) == {whole.unique().item(), 0.0}
    shares = [(found(blend=blend, keep=0.0)[0] == whole).double().mean() for blend in (0.3, 0.6, 0.9)]
    assert shares == sorted(shares, reverse=True) and shares[0] > shares[2] > 0.0


def test_in_the_last_step_what_is_edited_and_kept_is_the_mutual_evaluation_s():
    run = AttentionControl(WORDS, torch.tensor([[True, False, False, False]])).begin(3)
    found, run.mutual = torch.full((1, 1, 2, 2), 5.0), torch.full((1, 1, 2, 2), 3.0)
    seen = {"edited": torch.tensor([[[[0.9, 0.9], [0.1, 0.1]]]]), "kept": torch.tensor([[[[0.9, 0.1], [0.9, 0.1]]]])}
    run._place = seen.get
    for run.done, both in ((2, 0.0), (3, 3.0)):
        assert run._blended(found, 0.6).flatten().tolist() == [both, 5.0, 0.0, 3.0]


def test_a_failed_evaluation_leaves_no_trace():
    control = AttentionControl(WORDS, NOTHING)

    def fail(x, at):
        raise KeyboardInterrupt

    x = torch.zeros(1, 4, 32, 32)
    with pytest.raises(KeyboardInterrupt):
        control.begin(3)(fail, fail, x, AT, alpha=1.0, sigma=1.0, offset=x)
    assert control.running is None


def test_refusals():
    with pytest.raises(ValueError, match="self_replace must lie in"):
        AttentionControl(WORDS, NOTHING, self_replace=1.5)
    wrong = AttentionControl(WordMap(*(value[:, :3] for value in WORDS)), NOTHING[:, :3])
    with pytest.raises(ValueError, match="was made for a prompt of 3 tokens, the model sees 4"):
        step(wrong)
    with pytest.raises(ValueError, match="one CONDITIONING each"):
        step(AttentionControl(WORDS, NOTHING), kinds=(0, 0))


@pytest.fixture(scope="module")
def shapes():
    return load("shapes-unet")


BEFORE, AFTER = "a large red star on the left on sand", "a large blue star on the left on sand"


def edited(shapes, before, after, *, steps=4, control=True, **options):
    """(the edit of a drawn latent, the latent)."""
    model, clip, vae = shapes
    given = {"cross_replace": 0.7, "self_replace": 0.3, "blend": 0.6, "keep_words": "", "keep": 0.6, **options}
    patched, source, target = NODE_CLASS_MAPPINGS["OdeonAttentionControl"]().patch(
        model=model, clip=clip, source_text=before, target_text=after, **given)
    with torch.inference_mode():
        latent = vae.encode(NODE_CLASS_MAPPINGS["OdeonShapes"]().draw(1, 128, 3, 1)[0])
        sampler, = NODE_CLASS_MAPPINGS["OdeonSamplerDDCM"]().build(source=source, source_cfg=1.0, eta=1.0)
        guider = Guider(patched if control else model, target, None, 1.0)
        return guider.sample(Noise(1).generate_noise({"samples": latent}), latent, sampler,
                             model_sigmas(model, "normal", steps), seed=1), latent


def test_node_same_prompts_give_the_picture_back_and_others_change_it(shapes):
    out, latent = edited(shapes, BEFORE, BEFORE)
    assert torch.allclose(out, latent, atol=1e-5)
    changed, _ = edited(shapes, BEFORE, AFTER)
    plain, _ = edited(shapes, BEFORE, AFTER, control=False)
    assert (changed - latent).abs().max() > 0.1 and (changed - plain).abs().max() > 0.05


def test_node_counts_one_evaluation_more_a_step_and_leaves_other_samplers_alone(shapes):
    model, clip, _ = shapes
    calls = []
    handle = model.network.register_forward_hook(lambda *_: calls.append(1))
    edited(shapes, BEFORE, AFTER)
    controlled_calls = len(calls)
    edited(shapes, BEFORE, AFTER, control=False)
    handle.remove()
    assert (controlled_calls, len(calls) - controlled_calls) == (12, 8)


def test_node_says_what_is_wrong(shapes, caplog):
    with pytest.raises(ValueError, match="keep_words are to be words of the new prompt"):
        edited(shapes, BEFORE, AFTER, keep_words="ring")
    with caplog.at_level(logging.WARNING):
        edited(shapes, "a red star", "one blue ring", steps=1)
    assert "share no word" in caplog.text
    dit = load("shapes-dit")
    with pytest.raises(ValueError, match="attention control works on UNets"):
        edited(dit, BEFORE, AFTER)
