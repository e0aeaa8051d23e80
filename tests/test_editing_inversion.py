"""Inversion nodes in the embedded runner: round trips on Shapes pictures, files, masks, batches, what is refused."""
import json
import struct

import pytest
import torch
from embedded_editing import build, shapes, words
from guided import model_of

from odeon import host
from odeon.host.embedded.core_sampling import SamplerCustom, model_sigmas
from odeon.measure.kept import load_noise_maps, read_tensors, write_tensors

SOURCE, TARGET = "a large red star in the middle on sand", "a large blue star in the middle on sand"
KINDS = ("shapes-unet", "shapes-dit")


@pytest.fixture(scope="module")
def picture():
    """The LATENT of a true picture of two things, 64 x 64 points."""
    images, caption = build("OdeonShapes", count=2, size=64, data_seed=3, objects=1)[:2]
    return {"samples": shapes()[2].encode(images)}, caption.splitlines()


def sigmas_of(kind, steps=8, denoise=1.0):
    return model_sigmas(shapes(kind)[0], "normal", steps, denoise)


def run(kind, sampler, sigmas, latent, text, *, cfg=2.0, noise=False, seed=5):
    model, clip, _ = shapes(kind)
    with torch.inference_mode():
        return SamplerCustom().sample(model, noise, seed, cfg, words(clip, text), words(clip, ""), sampler, sigmas,
                                      latent)[0]["samples"]


def inverted(name, kind, latent, sigmas, text, **options):
    model, clip, _ = shapes(kind)
    with torch.inference_mode():
        return build(name, model=model, positive=words(clip, text), negative=words(clip, ""), latent=latent,
                     sigmas=sigmas, **options)[0]


def relative(a, b):
    return float((a - b).norm() / b.norm())


def ways(kind, latent, sigmas, text, *, cfg):
    """(name, SAMPLER back) of every inversion that is exact."""
    edit = inverted("OdeonEditFriendlyInvert", kind, latent, sigmas, text, cfg=cfg, start_seed=7)
    bdia = inverted("OdeonBDIAInvert", kind, latent, sigmas, text, cfg=cfg)
    model, clip, _ = shapes(kind)
    yield "edit friendly", build("OdeonSamplerEditFriendly", noise_maps=edit, skip=0.0)[0]
    yield "BDIA", build("OdeonSamplerBDIA", noise_maps=bdia)[0]
    yield "EDICT", build("OdeonEDICT", source=words(clip, text), source_cfg=cfg, source_negative=words(clip, ""))[0]


@pytest.mark.parametrize("kind", KINDS)
def test_the_same_words_give_the_picture_back_and_others_do_not(kind, picture):
    latent, captions = picture
    sigmas = sigmas_of(kind, 4)
    for i, (name, sampler) in enumerate(ways(kind, latent, sigmas, captions[0], cfg=2.0)):
        back = run(kind, sampler, sigmas, latent, captions[0], noise=bool(i % 2))  # none of them uses the run's
        assert relative(back, latent["samples"]) < 1e-4, name
        assert relative(run(kind, sampler, sigmas, latent, TARGET), latent["samples"]) > 0.02, name


def test_a_batch_holds_its_single_runs(picture):
    latent, captions = picture
    sigmas, first = sigmas_of("shapes-unet", 3), {"samples": picture[0]["samples"][:1]}
    for (name, both), (_, alone) in zip(ways("shapes-unet", latent, sigmas, captions[0], cfg=1.0),
                                        ways("shapes-unet", first, sigmas, captions[0], cfg=1.0)):
        whole = run("shapes-unet", both, sigmas, latent, TARGET)
        assert torch.allclose(whole[:1], run("shapes-unet", alone, sigmas, first, TARGET), atol=1e-3), name


def test_a_mask_of_another_size_keeps_what_it_covers(picture):
    latent, captions = picture
    mask = torch.cat([torch.zeros(1, 100, 50), torch.ones(1, 100, 50)], 2)
    masked, sigmas = {**latent, "noise_mask": mask}, sigmas_of("shapes-unet", 3)
    half = latent["samples"].shape[-1] // 2
    for name, sampler in (*ways("shapes-unet", masked, sigmas, captions[0], cfg=2.0),
                          ("SDEdit", build("OdeonSDEdit", sampler=build("OdeonSamplerDDIM")[0], repeats=2)[0])):
        out = run("shapes-unet", sampler, sigmas, masked, TARGET)
        kept, made = ((out - latent["samples"])[..., part].abs().max() for part in (slice(half - 1), slice(half, None)))
        assert kept < 1e-4 < 0.1 < made or name == "BDIA", (name, kept, made)


def sdedit(**options):
    return build("OdeonSDEdit", sampler=build("OdeonSamplerDDIM")[0], **options)[0]


@pytest.mark.parametrize("kind", KINDS)
def test_sdedit_goes_from_the_picture_to_none_of_it(kind, picture):
    latent, captions = picture
    sigmas = sigmas_of(kind, 6)
    distance = []
    for strength in (0.0, 0.3, 0.6, 1.0):
        out = run(kind, sdedit(strength=strength), sigmas, latent, TARGET)
        distance.append(relative(out, latent["samples"]))
    assert distance[0] == 0.0 and distance == sorted(distance)
    other = {"samples": latent["samples"].flip(0)}
    ends = [run(kind, sdedit(strength=1.0), sigmas, each, TARGET) for each in (latent, other)]
    assert relative(*ends) < 0.15 < relative(latent["samples"], other["samples"])
    again = run(kind, sdedit(strength=0.5, repeats=2), sigmas, latent, TARGET)
    assert not torch.allclose(again, run(kind, sdedit(strength=0.5), sigmas, latent, TARGET), atol=1e-2)


@pytest.mark.parametrize("kind", KINDS)
def test_ddim_inversion_comes_back_the_nearer_the_more_steps(kind, picture):
    latent, captions = picture
    errors = [round_trip(kind, build("OdeonSamplerDDIMInvert", fixed_point_iters=iters)[0], latent, captions[0], steps)
              for steps, iters in ((4, 0), (12, 0), (4, 3))]
    assert errors[1] < 0.8 * errors[0] and errors[2] < 0.8 * errors[0], errors


def round_trip(kind, up, latent, text, steps, *, back=None):
    down = sigmas_of(kind, steps)
    rising = down.flip(0)
    rising[0] = 1e-4
    noisy = run(kind, up, rising, latent, text, cfg=1.0)
    assert torch.isfinite(noisy).all()
    return relative(run(kind, back or build("OdeonSamplerDDIM")[0], down, {"samples": noisy}, text, cfg=1.0),
                    latent["samples"])


def test_rf_inversion_of_a_flow_never_ends_in_nan_and_comes_back_with_its_pull(picture):
    latent, captions = picture
    up = build("OdeonSamplerRFInvert")[0]
    plain, pulled, tied = (round_trip("shapes-dit", up, latent, captions[0], 6, back=build(
        "OdeonSamplerRFEdit", reference=latent, **options)[0]) for options in (
            {"eta": 0.0}, {"eta": 0.9, "stop": 0.5}, {"eta": 1.0, "stop": 1.0}))
    assert tied < 1e-5 < pulled < plain
    assert round_trip("shapes-dit", up, latent, captions[0], 6, back=build(
        "OdeonSamplerRFEdit", reference=latent, sde=True)[0]) < 1.5
    with pytest.raises(ValueError, match="RF inversion is for flow models"):
        round_trip("shapes-unet", up, latent, captions[0], 4)


def test_noise_maps_come_back_from_their_file(picture, tmp_path, monkeypatch):
    monkeypatch.setenv("ODEON_FOLDER", str(tmp_path))
    latent, captions = picture
    sigmas = sigmas_of("shapes-unet", 4)
    for name, sampler, said in (("OdeonEditFriendlyInvert", "OdeonSamplerEditFriendly", "edit-friendly inversion of 2 "
                                 "latents of 4 x 8 x 8, CFG 2.0, a schedule of 4 steps from sigma 14.615 to 0"),
                                ("OdeonBDIAInvert", "OdeonSamplerBDIA", "BDIA inversion of 2 latents")):
        maps = inverted(name, "shapes-unet", latent, sigmas, captions[0], cfg=2.0)
        path, = build("OdeonSaveNoiseMaps", noise_maps=maps, name="trip")
        for given in ("trip", path):
            again, levels, text = build("OdeonLoadNoiseMaps", name=given)
            assert torch.equal(levels, sigmas) and text.startswith(said)
            assert all(torch.equal(*pair) for pair in ((again.x, maps.x), (again.z, maps.z)))
            assert (again.kind, again.sigmas) == (maps.kind, maps.sigmas)
        ends = [run("shapes-unet", build(sampler, noise_maps=each)[0], sigmas, latent, TARGET)
                for each in (again, maps)]
        assert torch.allclose(*ends, atol=1e-4)


def test_files_cut_short_or_changed_give_one_clear_message(picture, tmp_path, monkeypatch):
    monkeypatch.setenv("ODEON_FOLDER", str(tmp_path))
    latent, captions = picture
    maps = inverted("OdeonEditFriendlyInvert", "shapes-unet", latent, sigmas_of("shapes-unet", 3), captions[0])
    path = host.folder("noise_maps") / "mine.safetensors"
    build("OdeonSaveNoiseMaps", noise_maps=maps)
    whole = path.read_bytes()
    tensors, about = read_tensors(path)

    def loading():
        return build("OdeonLoadNoiseMaps")

    with pytest.raises(ValueError, match="there is no file .*other.safetensors"):
        build("OdeonLoadNoiseMaps", name="other")
    with pytest.raises(ValueError, match="must be a plain file name"):
        build("OdeonLoadNoiseMaps", name="../other")
    path.write_bytes(whole[:len(whole) // 2])
    with pytest.raises(ValueError, match=r"mine.safetensors can't be read"):
        loading()
    header = json.loads(whole[8:8 + struct.unpack("<Q", whole[:8])[0]])
    header["__metadata__"]["odeon"] = header["__metadata__"]["odeon"][:-1]  # the last brace, by hand
    changed = json.dumps(header).encode()
    path.write_bytes(struct.pack("<Q", len(changed)) + changed + whole[8 + struct.unpack("<Q", whole[:8])[0]:])
    with pytest.raises(ValueError, match=r"mine.safetensors can't be read"):
        loading()
    for wrong in ({"sigmas": tensors["sigmas"].flip(0)}, {"z": tensors["z"][:2]}, {"z": tensors["z"] * float("nan")},
                  {"x": tensors["x"][..., :6]}):
        write_tensors(path, {**tensors, **wrong}, about)
        with pytest.raises(ValueError, match="do not fit together: the file was changed.*invert the picture again"):
            loading()
    write_tensors(path, {**tensors, "other": tensors["z"]}, about)
    with pytest.raises(ValueError, match="holds no noise maps but noise maps"):
        load_noise_maps(path)
    write_tensors(path, tensors, {**about, "kind": "another"})
    with pytest.raises(ValueError, match="do not fit together"):
        loading()


def test_maps_of_another_model_size_or_schedule_are_refused(picture):
    latent, captions = picture
    sigmas = sigmas_of("shapes-unet", 3)
    maps = inverted("OdeonEditFriendlyInvert", "shapes-unet", latent, sigmas, captions[0])
    sampler = build("OdeonSamplerEditFriendly", noise_maps=maps)[0]
    with pytest.raises(ValueError, match="noise maps of another model"):
        run("shapes-dit", sampler, sigmas_of("shapes-dit", 3), latent, TARGET)
    with pytest.raises(ValueError, match="belong to a schedule of 3 steps .* connect the SIGMAS that the inversion"):
        run("shapes-unet", sampler, sigmas_of("shapes-unet", 4), latent, TARGET)
    with pytest.raises(ValueError, match="are of 2 latents of 4 x 8 x 8, the run is of 2 latents of 4 x 8 x 6"):
        run("shapes-unet", sampler, sigmas, {"samples": latent["samples"][..., :6]}, TARGET)
    with pytest.raises(ValueError, match="come from edit-friendly inversion, this sampler goes back from BDIA"):
        run("shapes-unet", build("OdeonSamplerBDIA", noise_maps=maps)[0], sigmas, latent, TARGET)


def test_an_empty_latent_is_no_picture(picture):
    empty, sigmas = {"samples": torch.zeros_like(picture[0]["samples"])}, sigmas_of("shapes-unet", 3)
    for name in ("OdeonEditFriendlyInvert", "OdeonBDIAInvert"):
        with pytest.raises(ValueError, match="there is no picture to edit"):
            inverted(name, "shapes-unet", empty, sigmas, SOURCE)
    for sampler in (build("OdeonEDICT", source=words(shapes()[1], SOURCE))[0], sdedit()):
        with pytest.raises(ValueError, match="there is no picture to edit"):
            run("shapes-unet", sampler, sigmas, empty, TARGET)


def test_sdedit_wants_a_sampler_with_a_plan_and_one_way_down():
    with pytest.raises(ValueError, match="needs a SAMPLER with a plan"):
        build("OdeonSDEdit", sampler=host.sampler(lambda denoise, x, sigmas, **_: x))
    with pytest.raises(ValueError, match="more than 1 needs a schedule that ends at 0; got 2 on one that ends at 1"):
        latent = {"samples": torch.ones(1, 4, 8, 8)}
        SamplerCustom().sample(model_of(), True, 0, 1.0, [[torch.ones(1, 2, 3), {}]], [[torch.ones(1, 2, 3), {}]],
                               sdedit(repeats=2), torch.tensor([8.0, 4.0, 1.0]), latent)
