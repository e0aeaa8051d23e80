"""Adapter guidance distillation: what CFG says, learned by small adapters that need one evaluation a step."""
import torch

from .. import host
from ..guidance.agd import BESIDE, Adapters, distill, trajectories
from ..measure.kept import VERSION, read_tensors, write_tensors
from ..measure.plot import draw_lines
from .files import file_of, names_of
from .guidance import GuidanceNode
from .inputs import CHOICE, FLOAT, INT, MODEL, SOCKET
from .schedules_files import NAME_TIP

FOLDER = "odeon_adapters"


class OdeonAGDRecord:
    TITLE = "AGD: record"
    DESCRIPTION = "Runs your model with CFG and keeps every step, for adapters that learn to do without it."
    SEARCH_ALIASES = ["agd", "adapter guidance distillation", "distill cfg", "teacher", "jensen"]
    RETURN_TYPES = ("ODEON_TRAJECTORIES",)
    RETURN_NAMES = ("trajectories",)
    OUTPUT_TOOLTIPS = ("States and guided predictions, for AGD: train.",)
    FUNCTION = "record"
    CATEGORY = "Odeon/guidance"

    @classmethod
    def INPUT_TYPES(cls):
        return {"required": {
            "model": SOCKET("MODEL", "The model to learn from, with the guidance nodes it shall learn."),
            "positive": SOCKET("CONDITIONING", "Prompts to learn on: join many with Conditioning (Combine); the "
                               "pictures of a run take them in turn, so make the batch as large."),
            "negative": SOCKET("CONDITIONING", "The one negative that the adapters will know."),
            "sigmas": SOCKET("SIGMAS", "The levels to learn at, such as 50 steps of the model's own schedule."),
            "latent": SOCKET("LATENT", "An empty latent of the size to learn at; its batch is run at once."),
            "cfg_min": FLOAT(1.0, 1.0, 100.0, "Each run draws its CFG between this and cfg_max.", step=0.1),
            "cfg_max": FLOAT(12.0, 1.0, 100.0, "The highest CFG that the adapters will know.", step=0.1),
            "runs": INT(64, 1, 100000, "Runs, each of a batch of pictures; more teach more and take longer."),
            "start_seed": INT(0, 0, 2 ** 32 - 1, "Of the noises and the CFGs; the same number, the same runs."),
        }}

    def record(self, model, positive, negative, sigmas, latent, cfg_min, cfg_max, runs, start_seed):
        if cfg_min > cfg_max:
            raise ValueError(f"need cfg_min <= cfg_max, got {cfg_min:g} and {cfg_max:g}; swap the two")
        levels, count = sigmas.tolist(), len(latent["samples"])
        drawn = torch.rand(runs, generator=torch.Generator().manual_seed(start_seed), dtype=torch.float64)
        scales, found = (cfg_min + drawn * (cfg_max - cfg_min)).tolist(), []

        def start(denoise, x, *, state, process, clock):
            return trajectories(denoise, x, levels, process=process, state=state)

        for run, scale in enumerate(scales):
            state, about = host.measure(
                model, positive, negative, scale, what="guided trajectories", latent=latent, count=count,
                sigmas=sigmas, seed=start_seed + run, options={}, start=start, cost=len(levels) - 1,
                several_prompts="each", keep=True)
            found.append(state)
        kept = {name: torch.stack([state[name] for state in found]) for name in ("x", "denoised")}
        return ({"tensors": {**kept, "scales": torch.tensor(scales), "sigmas": torch.tensor(levels[:-1])},
                 "positive": positive, "latent": latent, "about": {**about, "cfg": [cfg_min, cfg_max], "runs": runs}},)


class OdeonAGDTrain:
    TITLE = "AGD: train"
    DESCRIPTION = "Trains small adapters until one evaluation of your model says what CFG said with two."
    SEARCH_ALIASES = ["agd", "adapter guidance distillation", "distill cfg", "train adapter", "jensen"]
    RETURN_TYPES = ("ODEON_ADAPTER", "STRING", "IMAGE")
    RETURN_NAMES = ("adapter", "report", "plot")
    OUTPUT_TOOLTIPS = ("The adapters, for AGD: apply.", "What was learned, and where the file is.",
                       "The loss as it fell.")
    OUTPUT_NODE = True
    FUNCTION = "train"
    CATEGORY = "Odeon/guidance"

    @classmethod
    def INPUT_TYPES(cls):
        return {"required": {
            "model": SOCKET("MODEL", "The model that was recorded, without its guidance nodes."),
            "trajectories": SOCKET("ODEON_TRAJECTORIES", "From AGD: record."),
            "name": ("STRING", {"default": "mine", "tooltip": NAME_TIP}),
            "hidden": INT(320, 8, 4096, "Width of the adapters: wider learns finer and costs more."),
            "iterations": INT(5000, 1, 1000000, "Steps of training; the paper takes 5000 at a batch of 64."),
            "picks": INT(8, 1, 1024, "Model calls in one step of training, each on a batch as it was recorded.",
                         advanced=True),
            "rate": FLOAT(0.0001, 0.000001, 0.1, "Learning rate.", step=0.000001, advanced=True),
            "start_seed": INT(0, 0, 2 ** 32 - 1, "Of the untrained adapters and of what is picked."),
        }}

    def train(self, model, trajectories, name, hidden, iterations, picks, rate, start_seed):
        path, taught, about = file_of(FOLDER, name), trajectories["tensors"], trajectories["about"]
        _require_same(about["model"], model, "trajectories")
        places, words = host.adapter_places(model), trajectories["positive"][0][0].shape[-1]
        shape = {"places": places, "words": words, "hidden": hidden}
        with torch.inference_mode(False), torch.random.fork_rng(devices=[]):
            torch.manual_seed(start_seed)
            adapters = Adapters(places, words=words, hidden=hidden)
        patched, worn = host.adapted(model, adapters, 1.0, mark="in training")

        def start(denoise, x, *, state, process, clock):
            adapters.to(x.device)

            def student(x_t, sigma, scale, run):
                worn.scale = scale
                return denoise(x_t.to(x).clone(), sigma)

            return distill(student, adapters, taught, iterations=iterations, picks=picks, rate=rate,
                           warm_up=min(100, iterations // 10), seed=start_seed, state=state)

        latent = trajectories["latent"]
        options = {"adapters": shape, "learned from": about, "iterations": iterations, "picks": picks, "rate": rate}
        state, made = host.measure(
            patched, trajectories["positive"], [], 1.0, what="AGD adapters", latent=latent,
            count=len(latent["samples"]), sigmas=taught["sigmas"], seed=start_seed, options=options, start=start,
            cost=iterations * picks, several_prompts="each", gradients=True, keep=True)
        weights = {key: value for key, value in state.items() if key not in BESIDE}
        made = {**made, **shape, "cfg": about["cfg"], "odeon": VERSION}
        write_tensors(path, weights, made)
        losses = state["losses"].tolist()
        last = losses[-max(len(losses) // 10, 1):]
        text = (f"{len(places)} adapters, {sum(value.numel() for value in weights.values())} numbers, loss "
                f"{losses[0]:.4g} untrained, {sum(last) / len(last):.4g} over the last tenth; saved as {path}")
        plot = draw_lines({"": list(enumerate(losses))}, title="distance to guided predictions", log=True)
        return {"ui": {"text": [text]}, "result": ({"weights": weights, "about": made}, text, plot)}


class OdeonAGDApply(GuidanceNode):
    TITLE = "AGD: apply"
    DESCRIPTION = "Draws as with CFG at half the cost, with adapters that learned it. Set the sampler's CFG to 1."
    SEARCH_ALIASES = ["agd", "adapter guidance distillation", "fast cfg", "guidance distillation", "jensen"]
    OUTPUT_TOOLTIPS = ("The model with the adapters, for a sampler at CFG 1.",)

    @classmethod
    def INPUT_TYPES(cls):
        return {"required": {
            "model": MODEL,
            "scale": FLOAT(5.0, 0.0, 100.0, "The CFG to draw as; within the range that was recorded.", step=0.1),
            "name": CHOICE(["connected", *_names()], "A file of yours, or the one connected to adapter."),
        }, "optional": {"adapter": SOCKET("ODEON_ADAPTER", "From AGD: train.")}}

    @classmethod
    def VALIDATE_INPUTS(cls, name):
        return True  # a file may be newer than the menu

    def patch(self, model, scale, name, adapter=None):
        if name == "connected":
            if adapter is None:
                raise ValueError("no adapter is connected; connect AGD: train, or choose a file by its name")
            weights, about = adapter["weights"], adapter["about"]
        else:
            weights, about = read_tensors(file_of(FOLDER, name))
        if "places" not in about:
            raise ValueError(f"{name} holds no adapters but {about.get('what', 'something else')}; choose another")
        _require_same(about["model"], model, "adapters")
        low, high = about["cfg"]
        if not low <= scale <= high:
            raise ValueError(f"these adapters learned CFGs from {low:g} to {high:g}, got {scale:g}; choose one of them")
        with torch.inference_mode(False):
            adapters = Adapters(about["places"], words=about["words"], hidden=about["hidden"])
            adapters.load_state_dict({key: value.clone() for key, value in weights.items()})
        patched, _ = host.adapted(model, adapters.requires_grad_(False), scale, mark=host.key_of(weights))
        return (patched,)


def _names() -> list[str]:
    return names_of(FOLDER, host.folder(FOLDER))


def _require_same(identity, model, what: str) -> None:
    if not host.same_weights(identity, host.identity(model)):
        raise ValueError(f"these {what} are of another model; record and train on this one, or load the model they "
                         "were made on")


NODES = (OdeonAGDRecord, OdeonAGDTrain, OdeonAGDApply)
