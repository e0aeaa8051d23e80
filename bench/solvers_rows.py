"""The rows of `python -m odeon.bench solvers`: every solver of ours and, below each, its namesakes elsewhere."""
from typing import NamedTuple


class Row(NamedTuple):
    """One setting of one of our nodes. same: names in COMFYUI and DIFFUSERS that it must not be worse than; beside:
    others printed below it, that are another method or another setting. wrap: options of the wrapper node, if node is
    one, around the sampler node `inner`. not_for: processes that the method has no form for. end: the SIGMAS it is
    given: 'zero' ends them on 0, '0.001' on that in its place, 'noise' on the last level above 0 after as many steps,
    and so does the run (for a solver with levels of its own).
    """
    name: str
    node: str
    options: dict
    same: tuple[str, ...] = ()
    beside: tuple[str, ...] = ()
    inner: str = ""
    wrap: dict = {}
    not_for: tuple[str, ...] = ()
    end: str = "zero"


class Comfy(NamedTuple):
    """A sampler of ComfyUI: k steps of it call the model calls * k + more times."""
    sampler: str
    calls: int = 1
    more: int = 0
    options: dict = {}


class Scheduler(NamedTuple):
    """A scheduler of diffusers: k steps of it call the model calls * k + more times. form: what its state is, 've',
    'vp' (scaled to unit size) or 'flow'.

    levels: how it is told ours. 'sigmas': they replace its own; 'positive': the same without the final 0, where it
    can't end, and the prediction at the last one ends the run; 'betas': they are its training levels; 'pairs': each
    but the first twice.
    """
    cls: str
    form: str
    levels: str = "sigmas"
    options: dict = {}
    calls: int = 1
    more: int = 0


def steps_within(row: Comfy | Scheduler, nfe: int) -> int:
    """The most steps that cost no more than nfe calls."""
    return (nfe - row.more) // row.calls


NFES = (5, 6, 8, 10, 15, 20)
ADAPTIVE_STEPS = 30  # of the schedule, of which samplers that choose their own steps read the ends
WORSE = 0.02

COMFYUI = {
    "euler": Comfy("euler"),
    "heun": Comfy("heun", 2, -1),
    "heunpp2": Comfy("heunpp2", 3, -3),
    "dpm_2": Comfy("dpm_2", 2, -1),
    "dpm_fast": Comfy("dpm_fast"),
    "dpmpp_2s_ancestral, eta 0": Comfy("dpmpp_2s_ancestral", 2, -1, {"eta": 0.0}),
    "dpmpp_2m": Comfy("dpmpp_2m"),
    "dpmpp_2m_sde, eta 0": Comfy("dpmpp_2m_sde", options={"eta": 0.0}),
    "dpmpp_2m_sde_heun, eta 0": Comfy("dpmpp_2m_sde_heun", options={"eta": 0.0}),
    "dpmpp_3m_sde, eta 0": Comfy("dpmpp_3m_sde", options={"eta": 0.0}),
    "res_multistep": Comfy("res_multistep"),
    "ipndm": Comfy("ipndm"),
    "ipndm_v": Comfy("ipndm_v"),
    "lms": Comfy("lms"),
    "deis": Comfy("deis"),
    "uni_pc": Comfy("uni_pc"),
    "uni_pc_bh2": Comfy("uni_pc_bh2"),
    "gradient_estimation": Comfy("gradient_estimation"),
}


MULTISTEP, SINGLESTEP = "DPMSolverMultistepScheduler", "DPMSolverSinglestepScheduler"
DATA = {"algorithm_type": "dpmsolver++", "lower_order_final": True}
NOISE = {"algorithm_type": "dpmsolver", "lower_order_final": True, "final_sigmas_type": "sigma_min"}


def _both(cls: str, levels: str = "sigmas", **options) -> tuple[Scheduler, Scheduler]:
    """The VP and the flow form of a scheduler that knows both."""
    flow = {"use_flow_sigmas": True, "prediction_type": "flow_prediction"}
    return Scheduler(cls, "vp", levels, options), Scheduler(cls, "flow", levels, {**options, **flow})


def _vp(cls: str, levels: str = "positive", *, more: int = 0, **options) -> tuple[Scheduler]:
    return (Scheduler(cls, "vp", levels, options, more=more),)


DIFFUSERS = {
    "DDIM": _vp("DDIMScheduler", "betas", clip_sample=False, timestep_spacing="trailing"),
    "Euler": (Scheduler("EulerDiscreteScheduler", "ve"), Scheduler("FlowMatchEulerDiscreteScheduler", "flow")),
    "Heun": (Scheduler("HeunDiscreteScheduler", "ve", "pairs", calls=2, more=-1),
             Scheduler("FlowMatchHeunDiscreteScheduler", "flow", "pairs", calls=2, more=-1)),
    "PNDM (PLMS)": _vp("PNDMScheduler", "betas", more=1, skip_prk_steps=True, set_alpha_to_one=True),
    "DPMSolverMultistep ++2": _both(MULTISTEP, solver_order=2, **DATA),
    "DPMSolverMultistep ++2 heun": _both(MULTISTEP, solver_order=2, solver_type="heun", **DATA),
    "DPMSolverMultistep ++3": _both(MULTISTEP, solver_order=3, **DATA),
    "DPMSolverMultistep 2": _vp(MULTISTEP, solver_order=2, **NOISE),
    "DPMSolverMultistep 3": _vp(MULTISTEP, solver_order=3, **NOISE),
    "DPMSolverSinglestep ++2": _both(SINGLESTEP, solver_order=2, **DATA),
    "DPMSolverSinglestep ++3": _both(SINGLESTEP, solver_order=3, **DATA),
    "DPMSolverSinglestep 2": _vp(SINGLESTEP, solver_order=2, **NOISE),
    "DPMSolverSinglestep 3": _vp(SINGLESTEP, solver_order=3, **NOISE),
    "DEISMultistep 2": _both("DEISMultistepScheduler", "positive", solver_order=2),
    "DEISMultistep 3": _both("DEISMultistepScheduler", "positive", solver_order=3),
    "UniPCMultistep 2": _both("UniPCMultistepScheduler", solver_order=2),
    "UniPCMultistep 3": _both("UniPCMultistepScheduler", solver_order=3),
}

DDIM, HEUN, PNDM, DEIS = "OdeonSamplerDDIM", "OdeonSamplerEDMHeun", "OdeonSamplerPNDM", "OdeonSamplerDEIS"
DPM, DPMPP, UNIPC, EXP = ("OdeonSamplerDPMSolver", "OdeonSamplerDPMSolverPP", "OdeonSamplerUniPC",
                          "OdeonSamplerExponentialAdams")
GRADIENT, MOMENTUM = "OdeonSamplerGradientEstimation", "OdeonSamplerMomentum"
SIGMA, CLIPPED = {"lambda_mode": "log_sigma"}, {"lambda_mode": "log_snr_clipped"}
STAGES, BEFORE = {"solver_type": "midpoint_stages"}, {"lower_order_end": "before_zero"}

ROWS = (
    Row("DDIM", DDIM, {}, ("euler", "DDIM", "Euler")),
    Row("Accelerated DDIM", "OdeonSamplerAcceleratedDDIM", {}, not_for=("flow",)),
    Row("Lambda-DDIM, lam -1", "OdeonSamplerLambdaDDIM", {}, not_for=("flow",)),
    Row("BDIA, gamma 0.5", "OdeonSamplerBDIA", {}),
    Row("BDIA, gamma 1", "OdeonSamplerBDIA", {"gamma": 1.0}),
    Row("Gradient estimation", GRADIENT, {}, ("gradient_estimation",)),
    Row("EDM Heun", HEUN, {}, ("heun", "Heun"), ("heunpp2",)),
    Row("iPNDM", PNDM, {"variant": "iPNDM"}, ("ipndm",)),
    Row("iPNDM-V", PNDM, {"variant": "iPNDM-V"}, ("ipndm_v", "lms")),
    Row("S-PNDM", PNDM, {"variant": "S-PNDM"}),
    Row("F-PNDM", PNDM, {"variant": "F-PNDM"}, beside=("PNDM (PLMS)",)),
    Row("FON", PNDM, {"variant": "FON"}, not_for=("flow",)),
    Row("DEIS tAB 1", DEIS, {"ab_order": 1}),
    Row("DEIS tAB 2", DEIS, {"ab_order": 2}),
    Row("DEIS tAB 2, linear VP time", DEIS, {"ab_order": 2, "time_map": "linear_vp"}),
    Row("DEIS tAB 2, EDM time", DEIS, {"ab_order": 2, "time_map": "edm"}, ("deis",)),
    Row("DEIS tAB 3", DEIS, {"ab_order": 3}),
    Row("DEIS rhoAB 2", DEIS, {"variant": "rhoAB", "ab_order": 2}),
    Row("DEIS rhoRK heun2", DEIS, {"variant": "rhoRK", "rk": "heun2"}),
    Row("DEIS rhoRK kutta3", DEIS, {"variant": "rhoRK", "rk": "kutta3"}),
    Row("DEIS rhoRK rk4", DEIS, {"variant": "rhoRK", "rk": "rk4"}),
    Row("DPM-Solver 2, singlestep", DPM, {"order": 2}),
    Row("DPM-Solver 2, singlestep, log_sigma", DPM, {"order": 2, **SIGMA}, ("dpm_2",)),
    Row("DPM-Solver 3, singlestep", DPM, {"order": 3}),
    Row("DPM-Solver 2, grouped", DPM, {"order": 2, "method": "grouped"}),
    Row("DPM-Solver 2, grouped, low before 0", DPM, {"order": 2, "method": "grouped", **BEFORE},
        ("DPMSolverSinglestep 2",)),
    Row("DPM-Solver 3, grouped", DPM, {"order": 3, "method": "grouped"}),
    Row("DPM-Solver 3, grouped, low before 0, midpoint stages", DPM, {"order": 3, "method": "grouped", **STAGES,
                                                                      **BEFORE}, ("DPMSolverSinglestep 3",)),
    Row("DPM-Solver 3, fast", DPM, {"order": 3, "method": "fast"}),
    Row("DPM-Solver 3, fast, log_sigma, ends on the state", DPM, {"order": 3, "method": "fast", **SIGMA},
        ("dpm_fast",), end="noise"),
    Row("DPM-Solver 2M", DPM, {"order": 2, "method": "multistep"}),
    Row("DPM-Solver 2M, low below 15", DPM, {"order": 2, "method": "multistep", "lower_order_below": 15},
        ("DPMSolverMultistep 2",)),
    Row("DPM-Solver 2M taylor, low below 15 before 0, clipped", DPM, {
        "order": 2, "method": "multistep", "solver_type": "taylor", "lower_order_below": 15, **BEFORE, **CLIPPED},
        ("DEISMultistep 2",)),
    Row("DPM-Solver 3M", DPM, {"order": 3, "method": "multistep"}),
    Row("DPM-Solver 3M, low below 15 before 0, reference", DPM, {
        "order": 3, "method": "multistep", "lower_order_below": 15, "third_order_term": "reference", **BEFORE},
        ("DPMSolverMultistep 3",)),
    Row("DPM-Solver 3M taylor, low below 15 before 0, clipped", DPM, {
        "order": 3, "method": "multistep", "solver_type": "taylor", "lower_order_below": 15, **BEFORE, **CLIPPED},
        ("DEISMultistep 3",)),
    Row("DPM-Solver++ 2M", DPMPP, {}),
    Row("DPM-Solver++ 2M to the end", DPMPP, {"lower_order_below": 0},
        ("dpmpp_2m_sde, eta 0", "DPMSolverMultistep ++2")),
    Row("DPM-Solver++ 2M taylor to the end", DPMPP, {"solver_type": "taylor", "lower_order_below": 0}),
    Row("DPM-Solver++ 2M taylor to the end, clipped", DPMPP, {"solver_type": "taylor", "lower_order_below": 0,
                                                              **CLIPPED},
        ("dpmpp_2m_sde_heun, eta 0", "DPMSolverMultistep ++2 heun")),
    Row("DPM-Solver++ 2M taylor to the end, log_sigma", DPMPP, {"solver_type": "taylor", "lower_order_below": 0,
                                                                **SIGMA}, ("res_multistep",)),
    Row("DPM-Solver++ 2M to the end, log_sigma", DPMPP, {"lower_order_below": 0, **SIGMA}, ("dpmpp_2m",)),
    Row("DPM-Solver++ 3M", DPMPP, {"order": 3}),
    Row("DPM-Solver++ 3M to the end", DPMPP, {"order": 3, "lower_order_below": 0}),
    Row("DPM-Solver++ 3M, low below 15, reference, clipped", DPMPP, {
        "order": 3, "lower_order_below": 15, "third_order_term": "reference", **CLIPPED}, ("DPMSolverMultistep ++3",)),
    Row("DPM-Solver++ 3M taylor to the end, reference, clipped", DPMPP, {
        "order": 3, "solver_type": "taylor", "lower_order_below": 0, "third_order_term": "reference", **CLIPPED},
        ("dpmpp_3m_sde, eta 0",)),
    Row("DPM-Solver++ 2S", DPMPP, {"order": 2, "method": "singlestep"}, ("dpmpp_2s_ancestral, eta 0",)),
    Row("DPM-Solver++ 3S", DPMPP, {"order": 3, "method": "singlestep"}),
    Row("DPM-Solver++ 2S, grouped", DPMPP, {"order": 2, "method": "grouped"}),
    Row("DPM-Solver++ 2S, grouped, clipped", DPMPP, {"order": 2, "method": "grouped", **CLIPPED},
        ("DPMSolverSinglestep ++2",)),
    Row("DPM-Solver++ 3S, grouped", DPMPP, {"order": 3, "method": "grouped"}),
    Row("DPM-Solver++ 3S, grouped, midpoint stages, clipped", DPMPP, {"order": 3, "method": "grouped", **STAGES,
                                                                      **CLIPPED}, ("DPMSolverSinglestep ++3",)),
    Row("DPM-Solver++ 3, fast", DPMPP, {"order": 3, "method": "fast"}),
    Row("UniPC 1", UNIPC, {"order": 1}),
    Row("UniPC 2", UNIPC, {}),
    Row("UniPC 2 to the end", UNIPC, {"lower_order_final": False}),
    Row("UniPC 2, clipped", UNIPC, CLIPPED, ("UniPCMultistep 2",)),
    Row("UniPC 2 to the end, log_sigma", UNIPC, {"lower_order_final": False, **SIGMA}),
    Row("UniPC 2, noise prediction", UNIPC, {"prediction": "noise"}),
    Row("UniPC 3 bh1", UNIPC, {"order": 3, "variant": "bh1"}),
    Row("UniPC 3 bh1, log_sigma, to 0.001", UNIPC, {"order": 3, "variant": "bh1", **SIGMA}, ("uni_pc",), end="0.001"),
    Row("UniPC 3", UNIPC, {"order": 3}),
    Row("UniPC 3, clipped", UNIPC, {"order": 3, **CLIPPED}, ("UniPCMultistep 3",)),
    Row("UniPC 3, log_sigma, to 0.001", UNIPC, {"order": 3, **SIGMA}, ("uni_pc_bh2",), end="0.001"),
    Row("UniPC 3 to the end", UNIPC, {"order": 3, "lower_order_final": False}),
    Row("UniPC 4", UNIPC, {"order": 4}),
    Row("UniC over DDIM", "OdeonWrapUniC", {}, inner=DDIM, wrap={"order": 1}),
    Row("UniC over DPM-Solver++ 2M", "OdeonWrapUniC", {}, inner=DPMPP),
    Row("DualFast over DDIM", "OdeonWrapDualFast", {}, inner=DDIM),
    Row("DualFast over DPM-Solver++ 2M", "OdeonWrapDualFast", {}, inner=DPMPP),
    Row("Exponential Adams 1", EXP, {"order": 1}),
    Row("Exponential Adams 2", EXP, {"order": 2}),
    Row("Exponential Adams 3", EXP, {"order": 3}),
    Row("Exponential Adams 4", EXP, {"order": 4}),
    Row("Momentum GHVB 3.6", MOMENTUM, {}),
    Row("Momentum GHVB 1.8", MOMENTUM, {"order": 1.8}),
    Row("Momentum HB 1.8", MOMENTUM, {"method": "hb", "order": 1.8}),
    Row("Momentum Nesterov 1.8", MOMENTUM, {"method": "nesterov", "order": 1.8}),
    Row("Momentum 2M-HB 0.8", MOMENTUM, {"method": "dpmpp_2m_hb"}),
)

# Samplers that choose their own number of calls: name, node, options; the ComfyUI ones by their sampler.
ADAPTIVE = (
    Row("Probability-flow ODE, tolerance 1e-2", "OdeonSamplerPFODE", {"rtol": 1e-2, "atol": 1e-2}),
    Row("Probability-flow ODE, tolerance 1e-3", "OdeonSamplerPFODE", {"rtol": 1e-3, "atol": 1e-3}),
    Row("DPM-Solver-12", "OdeonSamplerDPMSolverAdaptive", {"order": 2}),
    Row("DPM-Solver-23", "OdeonSamplerDPMSolverAdaptive", {}, ("dpm_adaptive",)),
    Row("DPM-Solver-23, rtol 0.01", "OdeonSamplerDPMSolverAdaptive", {"rtol": 0.01, "atol": 0.0016}),
)
COMFYUI_ADAPTIVE = {"dpm_adaptive": Comfy("dpm_adaptive", 0)}

# Samplers with numbers that are measured on the model first; solvers_fitted.py runs them.
FITTED = (
    Row("DPM-Solver-v3 2, measured", "OdeonSamplerDPMSolverV3", {}),
    Row("DC-Solver 2, searched", "OdeonSamplerDCSolver", {}),
    Row("IIA over DDIM, r 1, fitted", "OdeonSamplerIIA", {}),
)

# Sampler nodes without a row, and why.
LEFT_OUT = {
    "OdeonSamplerUSF": "runs a solver searched for one model; those it knows by name are rows of their own",
    "OdeonOptimizeUSF": "searches a solver for one model, number of calls and CFG",
    "OdeonWrapODEJump": "ends a run early on purpose: its error is what it trades for calls",
    "OdeonWrapCFGPP": "another rule of guidance, not another way to the same end",
    "OdeonStepwiseSelect": "keeps the best of several noisy steps",
    "OdeonReflect": "keeps states in a box, for models trained so",
    "OdeonWrapRecurrence": "takes steps again with fresh noise, for guidance by a loss",
    "OdeonSamplerDPMSolverPPSDE": "adds noise; without it, it is DPM-Solver++",
    "OdeonOptimizePlan": "learns a plan for one model, number of steps and CFG",
    "OdeonLoadPlan": "runs a learned plan, on its own model and SIGMAS",
    "OdeonSigmasSegmented": "starts another sampler anew in every piece of its schedule",
}

# ComfyUI's samplers that differ from the method of their name: theirs, ours to compare, how.
DIFFERENT = (
    ("ipndm_v", "iPNDM-V", "has other weights than Adams-Bashforth's for unequal steps from order 3 on (a bracket is "
     "in another place) and keeps a lower order for it. Its weights reach further ahead, which on levels that shrink "
     "evenly can land nearer all the same, on others far away. ComfyUI's lms is what it should be."),
    ("uni_pc", "UniPC 3 bh1", "puts sigma 0.001 in the place of the final 0, in the SIGMAS tensor it is given: the "
     "next node that reads it gets other levels. Otherwise the method, in -log sigma on flow models too: ours gives "
     "its figures with lambda_mode log_sigma on SIGMAS that end so."),
    ("uni_pc_bh2", "UniPC 3", "does the same."),
    ("deis", "DEIS tAB 2", "extrapolates in the time of one fixed noise schedule, made for sigma 0.002 to 80, whatever "
     "the model; that is time_map edm. Its order is right."),
    ("dpm_fast", "DPM-Solver 3, fast", "ends at the last level above 0 and returns that state with its noise; ours "
     "spends the last call on the prediction there, unless SIGMAS end above 0. It works in -log sigma on flow models "
     "too, which is lambda_mode log_sigma."),
    ("dpmpp_3m_sde, eta 0", "DPM-Solver++ 3M to the end", "halves the third-order term, as the code it comes from, and "
     "is of order 2; ours is of order 3 unless third_order_term is 'reference', which gives its figures."),
    ("dpmpp_2s_ancestral, eta 0", "DPM-Solver++ 2S", "on a flow model puts the second call of its first step at sigma "
     "0.9999, beside the first: that step is Euler's for two calls. On VE models it is the method."),
    ("heunpp2", "EDM Heun", "weighs its two or three slopes by sigma over the first sigma, which is no rule of second "
     "order: order 1 for up to three calls a step. At few steps it is the steadier for it."),
)
# Of those, what is measured on the exact mixture's other levels too: theirs -> schedulers.
ELSEWHERE = {"ipndm_v": ("exponential", "beta", "linear_quadratic")}

# Why ours is worse than a namesake somewhere: (ours, theirs) -> words, those that begin with "flow" for flow models.
REASONS = {
    ("iPNDM-V", "ipndm_v"): ("its weights are not Adams-Bashforth's and happen to suit these levels; on 'beta' levels "
                             "from 15 calls on and on 'linear_quadratic' it is far worse, see above",),
}
