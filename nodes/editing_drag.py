"""Dragging points of a picture to other places."""
import logging

import torch
from torch.nn import functional

from .. import host
from ..editing.drag import Dragging, Point, drag, pairs_of_text, plain_point
from ..editing.path import euler_progress, euler_step
from ..editing.superpixels import adaptive_window, nearest_centre, superpixels
from .editing_boundary import rising_levels
from .editing_control import latent_mask, on_grid
from .inputs import CHOICE, FLOAT, INT, SOCKET

FINER = 2  # px of the picture that make one place of the features that points live in
SHARED = 6 / 16  # of the self-attention layers, the last: DragDiffusion's from layer 10 of 16 on


class OdeonDrag:
    TITLE = "Drag"
    DESCRIPTION = "Moves what is at some points of a picture to others; the model redraws the rest to fit."
    SEARCH_ALIASES = ["drag diffusion", "dragdiffusion", "adaptivedrag", "draggan", "move", "point", "warp", "pose"]
    RETURN_TYPES = ("IMAGE", "STRING")
    RETURN_NAMES = ("image", "report")
    OUTPUT_TOOLTIPS = ("The picture, dragged.", "Where each point ended, in px.")
    FUNCTION = "edit"
    CATEGORY = "Odeon/editing"

    @classmethod
    def INPUT_TYPES(cls):
        return {"required": {
            "model": SOCKET("MODEL", "The model to edit with: in fp16, bf16 or fp32."),
            "vae": SOCKET("VAE", "The model's."),
            "positive": SOCKET("CONDITIONING", "What the picture shows."),
            "image": SOCKET("IMAGE", "The picture; of a batch each is dragged by the same points."),
            "points": ("STRING", {"default": "", "multiline": True, "tooltip": "A line for each point, in px from the "
                                  "top left: 40,60 -> 80,60 moves what is at 40,60 to 80,60. Or click on the picture "
                                  "below: first what to move, then where to."}),
            "strength": FLOAT(0.7, 0.02, 0.98, "How noisy the picture is when it is dragged: more moves further and "
                                               "keeps less."),
            "n_pix_step": INT(80, 1, 500, "Steps of dragging, at most; each calls the model once there and back."),
            "lr": FLOAT(0.01, 0.0001, 1.0, "How far each step goes. Small models want 0.02 to 0.05.", step=0.0001),
            "lam": FLOAT(0.1, 0.0, 100.0, "How firmly the picture outside the mask stays."),
            "mode": CHOICE(("drag", "adaptive"), "drag: a square patch round each point moves. adaptive: the "
                                                 "superpixel it lies in, on the side it moves to, sized by itself."),
            "steps": INT(50, 2, 1000, "Steps of the whole schedule, of which the share strength is run up and down."),
            "n_segments": INT(200, 2, 10000, "adaptive: superpixels in the picture.", advanced=True),
            "compactness": FLOAT(10.0, 0.01, 1000.0, "adaptive: higher makes them squarer.", advanced=True),
        }, "optional": {
            "mask": SOCKET("MASK", "Where the picture may change. None: everywhere."),
            "region": SOCKET("MASK", "adaptive: the object, from a node that segments; superpixels stay in it, and it "
                                     "is the mask where none is connected."),
            "radius": INT(2, 2, 1024, "drag: how far round each point things move along, in px. 2 as published, which "
                                      "stretches; to move a whole thing, a little more than from its middle to its "
                                      "rim."),
        }}

    def edit(self, model, vae, positive, image, points, strength, n_pix_step, lr, lam, mode, steps, n_segments,
             compactness, mask=None, region=None, radius=FINER):
        height, width = image.shape[1:3]
        pairs = pairs_of_text(points, (width, height))
        picture = on_grid(image[..., :3].movedim(-1, 1).float(), max(vae.spacial_compression_encode(), FINER))
        region, places = _filled(region, picture, (height, width)), [_grid(pair) for pair in pairs]
        mask = region if mask is None else _filled(mask, picture, (height, width))
        sigmas = rising_levels(model, max(round(strength * steps), 1), share=strength)
        found, lines = [], []
        for item, own in enumerate(picture):
            if mode == "adaptive":
                dragged = _adaptive(own, places, None if region is None else region[item], n_segments, compactness)
            else:
                dragged = [plain_point(*place, r_m=round(radius / FINER)) for place in places]
            clean = host.of_latent(model, vae.encode(own[None].movedim(1, -1))).float().cpu()
            keep = None if mask is None else 1.0 - latent_mask(mask[item], clean)
            options = Dragging(n_pix_step, lr, lam, patient=mode == "adaptive")
            about = {"points": points, "lr": lr, "lam": lam, "mode": [mode, n_segments, compactness, radius],
                     "masks": host.key_of([keep, region])}
            state = _dragged(model, positive, clean, sigmas, dragged, options, keep, own.shape[-2:], about)
            latents = _drawn(model, positive, state, sigmas)
            found.append(vae.decode(host.as_latent(model, latents[1:])).cpu()[:, :height, :width])
            lines += [f"{'picture ' + str(item + 1) + ': ' if len(picture) > 1 else ''}{x:g},{y:g} -> "
                      f"{FINER * at[0]},{FINER * at[1]} (wanted {tx:g},{ty:g})"
                      for (x, y, tx, ty), at in zip(pairs, state["handles"].tolist())]
        text = "\n".join(lines) or "no points, so only the way to the noise and back"
        return {"ui": {"text": [text]}, "result": (torch.cat(found), text)}


def _grid(pair) -> tuple[tuple[int, int], tuple[float, float]]:
    """Handle and target of px in the features' places."""
    x, y, to_x, to_y = (value / FINER for value in pair)
    return (int(x), int(y)), (to_x, to_y)


def _adaptive(picture, places, region, segments: int, compactness: float) -> list[Point]:
    """Points whose patches are the superpixels that they lie in."""
    size = [side // FINER for side in picture.shape[-2:]]
    small = functional.interpolate(picture[None], size=size, mode="area")[0]
    if region is not None:
        small = small * latent_mask(region, small[None])[0]
    labels, points = superpixels(small, segments=segments, compactness=compactness), []
    for handle, target in places:
        apart = nearest_centre(labels, *handle)
        windows = [adaptive_window(labels, handle, target, max(int(radius), 1), segments=segments)
                   for radius in (apart / 7.0, 2.0 * apart / 5.0)]
        points.append(Point(handle, target, *windows, near=1.0))
    return points


def _filled(mask, pictures, size: tuple[int, int]):
    """A MASK for each of pictures (B, 3, H, W), brought to their size (h, w) before they were filled up, and filled up
    as they were: (B, 1, H, W); None for None."""
    if mask is None:
        return None
    mask = mask.reshape(-1, 1, *mask.shape[-2:]).float()
    if len(mask) not in (1, len(pictures)):
        raise ValueError(f"need one mask, or one for each of the {len(pictures)} pictures, got {len(mask)}")
    mask = functional.interpolate(mask, size=size, mode="bilinear").expand(len(pictures), -1, -1, -1)
    more = pictures.shape[-1] - size[1], pictures.shape[-2] - size[0]
    return functional.pad(mask, (0, more[0], 0, more[1]), mode="replicate")


def _dragged(model, positive, clean, sigmas: list[float], points: list[Point], options: Dragging, keep, size,
             about: dict) -> dict:
    """The state a drag ended with: the latent of unit variance at the last of rising levels, and its handles."""
    tapped, tap = host.tapped(model, "fine")
    process, ups = host.process_of(model), len(sigmas) - 1
    units = [(process.alpha(sigma) ** 2 + sigma ** 2) ** 0.5 for sigma in sigmas[-2:]]

    def start(denoise, like, *, state, process, clock):
        def see(latent):
            x = units[1] * latent
            with tap.with_gradients(x.shape):
                denoised = denoise.alone(x, sigmas[-1])
            tap.statement.tell(denoised)
            return tap.seen, euler_step(x, denoised, sigmas[-1], sigmas[-2]) / units[0], denoised

        total, latent = ups + options.iterations, clean.to(like).clone()
        if not state:
            for progress in euler_progress(denoise, latent, sigmas, None):
                yield progress._replace(state={}, total=total)
            latent = progress.state["x"] / units[1]
        for progress in drag(see, latent, points, options, size=tuple(side // FINER for side in size),
                             keep=None if keep is None else keep.to(like).clone(), state=state or None):
            yield progress._replace(done=ups + progress.done, total=ups + progress.total)
        logging.info("Odeon: dragged in %d steps", progress.done)

    state, _ = host.measure(
        tapped, positive, [], 1.0, what="a drag", latent={"samples": clean}, count=1,
        sigmas=torch.tensor(sigmas[::-1]), seed=0, options={"from": host.key_of(clean), **about}, start=start,
        cost=ups + options.iterations, gradients=True)
    return state


def _drawn(model, positive, state: dict, sigmas: list[float]):
    """(2, C, h, w) from a drag's latents down: as it was, and dragged, which attends to what was."""
    process, down = host.process_of(model), [*sigmas[::-1], 0.0]
    unit = (process.alpha(down[0]) ** 2 + down[0] ** 2) ** 0.5
    pair = unit * torch.cat([state["start"], state["latent"]]).cpu()

    def start(denoise, like, *, state, process, clock):
        return euler_progress(denoise, pair.to(like), down, state)

    state, _ = host.measure(
        host.shared_attention(model, pair.shape, SHARED), positive, [], 1.0, what="a dragged picture",
        latent={"samples": pair}, count=2, sigmas=torch.tensor(down), seed=0, options={"from": host.key_of(pair)},
        start=start, cost=len(down) - 1)
    return state["x"].cpu()


NODES = (OdeonDrag,)
