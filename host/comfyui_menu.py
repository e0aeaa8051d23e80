"""ComfyUI's menus of samplers and schedulers, and a run of one of them that can be watched."""
import comfy.patcher_extension
import comfy.sample
import comfy.samplers
import comfy.utils
import torch


def sampler_names() -> list[str]:
    """The samplers of KSampler's menu, other packs' included."""
    return list(comfy.samplers.SAMPLER_NAMES)


def scheduler_names() -> list[str]:
    """The schedulers of KSampler's menu, other packs' included."""
    return list(comfy.samplers.SCHEDULER_NAMES)


def named_sampler(name: str):
    """The SAMPLER of sampler_names."""
    return comfy.samplers.sampler_object(name)


def named_sigmas(model, name: str, steps: int) -> torch.Tensor:
    """The SIGMAS of scheduler_names for a MODEL, as BasicScheduler gives them."""
    return comfy.samplers.calculate_sigmas(model.get_model_object("model_sampling"), name, steps).cpu()


def followed(model, positive, negative, cfg: float, *, sampler, sigmas, latent: dict, seed: int, watch=None,
             done: int = 0, total: int = 0) -> tuple[torch.Tensor, int]:
    """(the samples that SamplerCustom would give, how often the sampler called the model).

    watch(step, denoised, calls so far) after each step; done, total: steps before this run, and of all that the
    progress bar stands for.
    """
    import latent_preview

    samples = comfy.sample.fix_empty_latent_channels(model, latent["samples"])
    noise = comfy.sample.prepare_noise(samples, seed, latent.get("batch_index"))
    counted, calls = model.clone(), 0

    def count(executor, *args, **kwargs):
        nonlocal calls
        calls += 1
        return executor(*args, **kwargs)

    counted.add_wrapper_with_key(comfy.patcher_extension.WrappersMP.PREDICT_NOISE, "odeon_calls", count)
    total = total or len(sigmas) - 1
    show = latent_preview.prepare_callback(model, total)

    def follow(step, denoised, x, _total):
        if watch is not None:
            watch(step, denoised, calls)
        show(min(done + step, total - 1), denoised, x, total)

    made = comfy.sample.sample_custom(counted, noise, cfg, sampler, sigmas, positive, negative, samples,
                                      noise_mask=latent.get("noise_mask"), callback=follow,
                                      disable_pbar=not comfy.utils.PROGRESS_BAR_ENABLED, seed=seed)
    return made, calls


def preview(images: torch.Tensor, prompt, extra_pnginfo) -> dict:
    """What a node returns as "ui" to show pictures on itself, as PreviewImage does."""
    import nodes

    return nodes.PreviewImage().save_images(images, prompt=prompt, extra_pnginfo=extra_pnginfo)["ui"]
