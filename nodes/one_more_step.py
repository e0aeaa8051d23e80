"""One More Step: where a run starts, from what a model sees in pure noise."""
import torch

from .. import host
from ..measure.mean import mean_prediction
from ..samplers.noise import step_noise
from ..samplers.one_more_step import NOISES, noise_share
from ..samplers.process import FLOW
from .inputs import CHOICE, FLOAT, INT, SOCKET
from .samplers import MeasuringNode


class OdeonOneMoreStep(MeasuringNode):
    TITLE = "One More Step"
    DESCRIPTION = "Starts a run around the average picture of the prompt: dark scenes come out dark, bright bright."
    SEARCH_ALIASES = ["oms", "one more step", "zero terminal snr", "brightness", "mean latent", "offset noise"]
    RETURN_TYPES = ("LATENT", "NOISE")
    OUTPUT_TOOLTIPS = ("For the sampler's latent_image, with noise added.",
                       "For SamplerCustomAdvanced: the exact amount of noise; other samplers' own is enough.")
    CATEGORY = "Odeon/schedules"

    @classmethod
    def INPUT_TYPES(cls):
        asked = cls.inputs(
            "The schedule that will be run from here: its first level counts.",
            samples=INT(16, 1, 4096, "Noises to average the prediction over; a One More Step module needs 1."),
            noise=CHOICE(NOISES, "Of the NOISE: fresh, or weighed as in the published code (0.2 % less), or the very "
                                 "noise the model was asked on.", advanced=True),
            batch=INT(8, 1, 1024, "Noises at once: only memory and speed depend on it.", advanced=True))
        cfg = FLOAT(1.0, 1.0, 100.0, "Of the question, whatever the sampler's: 1 is the average picture of the prompt, "
                    "2 goes twice as far from that of no prompt.", step=0.1)
        return {"required": {**asked["required"], "cfg": cfg}, "optional": {
            "oms_model": SOCKET("MODEL", "Asked in place of model, under the same conditioning: a One More Step "
                                         "module, or another model that shares its latents."),
            "mean": SOCKET("LATENT", "Taken for the average picture, nobody is asked: the mean of some latents, or an "
                                     "encoded picture of the right colours."),
        }}

    def measure(self, model, positive, negative, sigmas, latent, cfg, start_seed, samples, noise, batch,
                oms_model=None, mean=None):
        process = host.process_of(model)
        process.lams(sigmas.tolist())
        top = float(sigmas[0])
        if process is FLOW and top >= 1.0:
            raise ValueError("a flow model's schedule from sigma 1 starts at pure noise already; start it lower, such "
                             "as at 0.99, or leave this node out")
        shape = latent["samples"].shape
        if mean is None:
            asked = model if oms_model is None else oms_model
            found = self._asked(asked, positive, negative, latent, cfg=cfg, seed=start_seed, samples=samples,
                                batch=batch)
        else:
            found = mean["samples"].float()
            if found.shape[2:] != shape[2:]:
                found = torch.nn.functional.interpolate(found, size=shape[2:], mode="nearest")
        repeats = -(-shape[0] // len(found))
        middle = found.repeat(repeats, *[1] * (found.ndim - 1))[:shape[0]]
        return ({**latent, "samples": middle}, self._noise(model, top, process, seed=start_seed, kind=noise))

    @staticmethod
    def _asked(model, positive, negative, latent, *, cfg, seed, samples, batch):
        """(1, C, ...): the mean prediction at the model's highest level, as a LATENT's samples."""
        highest = float(host.levels_of(model).sigma_max)

        def start(denoise, x, *, state, process, clock):
            return mean_prediction(denoise, x, highest, batch=batch, state=state)

        state, _ = host.measure(
            model, positive, negative, cfg, what="mean prediction", latent=latent, count=samples,
            sigmas=torch.tensor([highest, 0.0]), seed=seed, options={}, start=start, cost=samples)
        return host.as_latent(model, (state["sum"] / state["count"]).float()[None])

    @staticmethod
    def _noise(model, sigma: float, process, *, seed: int, kind: str):
        """NOISE that a sampler starting at sigma makes the step's noise of, whatever it multiplies noise by there."""
        highest = float(host.levels_of(model).sigma_max)
        from_top = process is not FLOW and sigma >= highest * (1.0 - 1e-5)  # samplers then use sqrt(1 + sigma^2)
        share = noise_share(sigma, kind, process=process) * (sigma / (1.0 + sigma * sigma) ** 0.5 if from_top else 1.0)

        def change(noise):
            drawn = noise if kind == "deterministic" else step_noise(noise, seed, "one more step")(sigma, 0.0)
            return share * drawn

        return host.noise(seed, change)


NODES = (OdeonOneMoreStep,)
