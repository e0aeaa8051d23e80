"""Checks of told levels inside ComfyUI, run as in_comfyui.py is: `python in_comfyui_conditioning.py COMFYUI_ROOT`."""
import json
import math

from comfyui_pack import (
    HOST,
    KINDS,
    ROOT,
    build,
    close,
    comfy,
    defaults,
    levels_for,
    run_checks,
    sample,
    sampler,
    torch,
    toy,
)
from in_comfyui_schedules import core_node, part, real

TIME_TUNER = ROOT / "tests" / "golden" / "schedules" / "conditioning_time_tuner.json"

def patched(model, sigmas, cond, mode):
    return build("OdeonConditioningSigmas", model=model, sigmas=sigmas, cond_sigmas=cond, mode=mode)[0]


def check_equal_conditioning_levels_change_nothing():
    latent = torch.zeros(2, 4, 8, 8)
    for prediction in KINDS:
        for make in (toy, real):
            model, _ = make(prediction)
            sigmas = levels_for(prediction, 6)
            for mode in ("label_only", "whole_denoiser"):
                same = patched(model, sigmas, sigmas.clone(), mode)
                other = patched(model, sigmas, torch.cat([sigmas[:2], sigmas[2:] * 0.8]), mode)
                for solver in (sampler(2), defaults("OdeonSamplerEDMHeun"), comfy.samplers.sampler_object("dpm_2")):
                    plain, equal, changed = (sample(each, solver, sigmas, latent) for each in (model, same, other))
                    assert torch.equal(plain, equal), f"{mode} on {prediction}"
                    # the toy's D is the same at every level, so that only the state's scale would show
                    moved = (plain - changed).abs().max() > 1e-3
                    assert moved == (mode == "label_only" or prediction != "flow"), f"{mode} on {prediction}"


def check_what_the_network_is_told():
    """Fractional places where levels differ, whole ones elsewhere; the x_0 formula and the cfg see the true level."""
    model, network = real("eps")
    sigmas = torch.tensor([14.0, 5.0, 2.0, 0.5, 0.0])
    cond = torch.tensor([14.0, 4.0, 2.0, 0.6, 0.0])
    told, seen = [], []
    forward = network.forward

    def spy(x, timesteps, context=None, **options):
        told.append(timesteps[0].item())
        return forward(x, timesteps, context, **options)

    network.forward = spy
    changed = patched(model, sigmas, cond, "label_only")
    changed.set_model_sampler_post_cfg_function(lambda args: seen.append(args["sigma"][0].item()) or args["denoised"])
    changed.set_model_unet_function_wrapper(lambda apply, args: apply(args["input"], args["timestep"], **args["c"]))
    sample(changed, sampler(1), sigmas, torch.zeros(1, 4, 8, 8))
    own = model.get_model_object("model_sampling")
    whole = [own.timestep(torch.tensor([level])).item() for level in (14.0, 4.0, 2.0, 0.6)]
    assert told[0] == whole[0] and told[2] == whole[2], told
    assert all(abs(told[i] - whole[i]) < 0.51 and told[i] % 1.0 > 1e-3 for i in (1, 3)), (told, whole)
    assert seen == [14.0, 5.0, 2.0, 0.5], seen
    levels = part("host").levels_of(changed)
    assert levels is own, "schedule nodes of the pack no longer see the model's own levels"


class Mixture(torch.nn.Module):
    """The exact mixture of tests/gmm.py as a network that is told places of SD's table."""

    def __init__(self):
        super().__init__()
        self.weight = torch.nn.Parameter(torch.ones(()), requires_grad=False)
        self.dtype = torch.float32
        self.clock = part("samplers.clock").clock_of_table(part("models.levels").DiscreteLevels().sigmas.tolist())

    def forward(self, x, timesteps, context=None, **_):
        import gmm

        sigma = self.clock.sigma_of(timesteps[0].item())
        state = x.reshape(len(x), -1).double() * math.sqrt(1.0 + sigma * sigma)
        return ((state - gmm.denoise(state, sigma)) / sigma).reshape(x.shape).float()


def check_golden_time_tuner():
    """The recorded runs of TimeTuner's own code, through ComfyUI's sampling in float32."""
    levels = part("models.levels").DiscreteLevels()
    for run in json.loads(TIME_TUNER.read_text())["runs"]:
        model = HOST.make_model(Mixture(), prediction="eps", levels=levels, channels=1, rgb_factors=[[0.1] * 3])
        sigmas, cond = (torch.tensor([*run[name], run["sigmas_ve_prev"][-1]])
                        for name in ("sigmas_ve", "sigma_cond_ve"))
        start, end = (math.sqrt(1.0 + sigma ** 2) for sigma in (sigmas[0].item(), sigmas[-1].item()))
        noise = torch.tensor(run["x_init"]).reshape(3, 1, 4, 4) * start / sigmas[0]
        out = sample(patched(model, sigmas, cond, "label_only"), defaults("OdeonSamplerDDIM"), sigmas,
                     torch.zeros_like(noise), noise=noise, cfg=1.0)
        close(out.reshape(3, 16) / end, torch.tensor(run["x_final"]), 3e-5, f"TimeTuner in {len(sigmas) - 1} steps")


def check_whole_denoiser_is_d_at_the_told_level():
    """The toy's D of the scaled state at the told level, by one step to 0."""
    for prediction in KINDS:
        model, network = toy(prediction)
        top, told = (0.9, 0.7) if prediction == "flow" else (5.0, 3.0)
        sigmas, cond = torch.tensor([top, 0.0]), torch.tensor([told, 0.0])
        noise = comfy.sample.prepare_noise(torch.zeros(1, 4, 8, 8), 5)
        out = sample(patched(model, sigmas, cond, "whole_denoiser"), sampler(1), sigmas, torch.zeros(1, 4, 8, 8),
                     noise=noise, cfg=1.0)
        scale = 1.0 if prediction == "flow" else math.sqrt((1.0 + told ** 2) / (1.0 + top ** 2))
        close(out, torch.tanh(noise * top * scale * 0.5 + 0.3), 2e-5, f"D(k x, c) on {prediction}")


def check_lcm_is_told_between_its_places():
    model = core_node("ModelSamplingDiscrete", model=real("eps")[0], sampling="lcm", zsnr=False)
    own = model.get_model_object("model_sampling")
    ours = torch.tensor([14.6, 3.3, 1.1, 0.5])
    same = patched(model, ours, ours.clone(), "label_only").get_model_object("model_sampling")
    assert torch.equal(same.timestep(ours), own.timestep(ours))
    moved = patched(model, ours, ours * 0.95, "label_only").get_model_object("model_sampling")
    assert (moved.timestep(ours) < own.timestep(ours)).all() and (moved.timestep(ours) % 20 != 19).any()


if __name__ == "__main__":
    run_checks(globals())
