"""Inputs that several nodes share, worded once, and short forms for ComfyUI's own input tuples."""


def INT(default: int, low: int, high: int, tooltip: str, **options) -> tuple:
    return ("INT", {"default": default, "min": low, "max": high, "step": 1, "tooltip": tooltip, **options})


def FLOAT(default: float, low: float, high: float, tooltip: str, *, step: float = 0.01, **options) -> tuple:
    limits = {"default": default, "min": low, "max": high, "step": step, "round": step}
    return ("FLOAT", {**limits, "tooltip": tooltip, **options})


def BOOLEAN(default: bool, tooltip: str, **options) -> tuple:
    return ("BOOLEAN", {"default": default, "tooltip": tooltip, **options})


def CHOICE(values, tooltip: str, **options) -> tuple:
    values = list(values)
    return (values, {"default": values[0], "tooltip": tooltip, **options})


def SOCKET(kind: str, tooltip: str) -> tuple:
    return (kind, {"tooltip": tooltip})


ETA = FLOAT(0.0, 0.0, 4.0, "How much fresh noise each step adds: 0 none (the same path every time), 1 the full reverse "
            "SDE. More corrects errors at many steps and blurs at few.")
S_NOISE = FLOAT(1.0, 0.0, 2.0, "Factor on the fresh noise; 1 keeps the noise level exact, a little above 1 keeps more "
                "fine detail. No effect at eta 0.", step=0.001, advanced=True)
SEED = INT(0, 0, 2 ** 64 - 1, "The same number draws the same noise.", control_after_generate=True)
LAMBDA_MODE = CHOICE(["log_snr", "log_sigma", "log_snr_clipped"], "Flow models: what steps are measured in. log_snr is "
                     "the methods' own; log_sigma, ComfyUI's way, gains with DPM-Solver singlestep; with the others it "
                     "mostly loses at few steps. log_snr_clipped: as ComfyUI's SDE samplers and diffusers do at the "
                     "first level.",
                     advanced=True)
STEPS = INT(10, 1, 10000, "Steps of the schedule; most samplers call the model once a step.")
DENOISE = FLOAT(1.0, 0.0, 1.0, "Share of the schedule to keep, counted from its end: 1 starts from pure noise, lower "
                "values keep more of the picture you start from.")
MODEL = SOCKET("MODEL", "The model to change; the one that comes in stays as it is.")
