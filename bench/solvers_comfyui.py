"""Runs ComfyUI's own samplers under its own Python: `python solvers_comfyui.py ROOT JOB OUT`.

JOB: a JSON file {"problem": name, "count": n, "nfes": [...], "orders": true or false}. OUT gets a torch file of the
runs by sampler and NFE. The pack is loaded before ComfyUI is, so that its models are the embedded ones here as well.
"""
import importlib.util
import json
import sys
from pathlib import Path
from types import SimpleNamespace

import torch

PACK = Path(__file__).resolve().parent.parent


def load_pack() -> None:
    """This folder as the package odeon."""
    spec = importlib.util.spec_from_file_location("odeon", PACK / "__init__.py", submodule_search_locations=[str(PACK)])
    module = importlib.util.module_from_spec(spec)
    sys.modules["odeon"] = module
    spec.loader.exec_module(module)


def import_comfyui(root: str):
    """comfy.samplers of the installation at root, on the CPU."""
    sys.path.insert(0, root)
    sys.argv = ["main.py", "--cpu"]
    import comfy.options

    comfy.options.enable_args_parsing()
    import comfy.samplers

    return comfy


class Wrapped:
    """A problem's model with what ComfyUI's sampler functions read of theirs; counts its calls."""

    def __init__(self, comfy, denoise, *, flow: bool):
        parts = comfy.model_sampling
        bases = (parts.ModelSamplingDiscreteFlow, parts.CONST) if flow else (parts.ModelSamplingDiscrete, parts.EPS)
        sampling = type("Sampling", bases, {})()
        self.inner_model = SimpleNamespace(
            inner_model=SimpleNamespace(model_sampling=sampling),
            model_patcher=SimpleNamespace(get_model_object=lambda name: sampling))
        self.denoise, self.calls = denoise, 0

    def __call__(self, x: torch.Tensor, sigma: torch.Tensor, **_) -> torch.Tensor:
        self.calls += 1
        return self.denoise(x, float(sigma[0]))


@torch.inference_mode()
def run(comfy, row, denoise, x: torch.Tensor, sigmas: torch.Tensor, *, flow: bool = False) -> dict:
    """{"x", "calls", "sigmas_changed"} of one run, as a node of ComfyUI starts it."""
    model, before = Wrapped(comfy, denoise, flow=flow), sigmas.clone()
    options = dict(row.options)
    if "eta" in options:  # adds none of it, and needs no Brownian tree to say so
        options["noise_sampler"] = lambda *_: torch.zeros_like(x)
    sampler = comfy.samplers.sampler_object(row.sampler).sampler_function
    out = sampler(model, x, sigmas, extra_args={"seed": 0, "model_options": {}}, callback=None, disable=True, **options)
    return {"x": out, "calls": model.calls, "sigmas_changed": not torch.equal(sigmas, before)}


def measure(comfy, problem, rows: dict, nfes: list[int]) -> dict:
    """{name: {NFE: run}} in the float32 that ComfyUI samples in; samplers that choose their steps have one run."""
    from odeon.bench.solvers_rows import ADAPTIVE_STEPS, steps_within

    results = {}
    for name, row in rows.items():
        budgets = {nfe: steps_within(row, nfe) for nfe in nfes} if row.calls else {0: ADAPTIVE_STEPS}
        done, runs = {}, results.setdefault(name, {})
        for nfe, steps in budgets.items():
            if steps not in done:
                done[steps] = run(comfy, row, problem.denoise, problem.start.float(),
                                  torch.tensor(problem.sigmas(steps)), flow=problem.process.name == "flow")
            runs[nfe] = done[steps]
    return results


def ends(comfy, rows: dict, end_of) -> dict:
    """{name: its ends in few and in many steps}, what its order is measured from, in float64."""
    torch.set_default_dtype(torch.float64)  # some of them make tensors of their own
    return {name: [end_of(lambda denoise, x, sigmas, row=row: run(comfy, row, denoise, x, torch.tensor(sigmas))["x"],
                          part) for part in (0, 1)] for name, row in rows.items()}


def main(root: str, job_file: str, out_file: str) -> None:
    load_pack()
    from odeon.bench.solvers_orders import end_of
    from odeon.bench.solvers_problems import problem
    from odeon.bench.solvers_rows import COMFYUI, COMFYUI_ADAPTIVE, ELSEWHERE

    comfy = import_comfyui(root)
    import comfyui_version

    torch.set_num_threads(1)
    job = json.loads(Path(job_file).read_text(encoding="utf-8"))
    on = problem(job["problem"], job["count"])
    runs = measure(comfy, on, {**COMFYUI, **COMFYUI_ADAPTIVE}, job["nfes"])
    elsewhere = {(name, scheduler): measure(comfy, on._replace(scheduler=scheduler), {name: COMFYUI[name]},
                                            job["nfes"])[name]
                 for name, schedulers in ELSEWHERE.items() if on.name.startswith("exact") for scheduler in schedulers}
    found = {"runs": runs, "elsewhere": elsewhere, "version": comfyui_version.__version__,
             "torch": str(torch.__version__)}
    if job["orders"]:
        found["ends"] = ends(comfy, COMFYUI, end_of)
    torch.save(found, out_file)


if __name__ == "__main__":
    main(*sys.argv[1:])
