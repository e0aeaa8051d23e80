"""The Shapes autoencoder: pictures to latents of 4 channels, 8 pixels a place, and back."""
import torch
from torch import Tensor, nn

LATENT_CHANNELS = 4
RATIO = 8
# Latents to colours in [-1, 1] for previews: least squares on drawn scenes.
RGB_FACTORS = [[-0.0416, 0.0121, -0.0512], [-0.0351, 0.0142, 0.0876], [-0.1092, -0.0132, 0.1107],
               [0.4072, 0.3886, 0.2776]]
RGB_BIAS = [-0.1514, -0.1721, -0.2667]


class ResBlock(nn.Module):
    """x plus two convolutions of it."""

    def __init__(self, channels: int):
        super().__init__()
        self.body = nn.Sequential(nn.GroupNorm(8, channels), nn.SiLU(), nn.Conv2d(channels, channels, 3, padding=1),
                                  nn.GroupNorm(8, channels), nn.SiLU(), nn.Conv2d(channels, channels, 3, padding=1))
        nn.init.zeros_(self.body[-1].weight)

    def forward(self, x: Tensor) -> Tensor:
        return x + self.body(x)


class ShapesAutoencoder(nn.Module):
    """Encoder and decoder (VAE). Pictures (B, 3, H, W) in [-1, 1], H and W multiples of 8; latents (B, 4, H/8, W/8).

    The decoder starts and the encoder ends with a 1 x 1 convolution, so that a scale and shift of the latents can be
    folded into them exactly (`standardize`).
    """
    channels = LATENT_CHANNELS

    def __init__(self, widths: tuple[int, int, int] = (32, 64, 96)):
        super().__init__()
        top, middle, deep = widths
        self.encoder = nn.Sequential(
            nn.PixelUnshuffle(2), nn.Conv2d(12, top, 3, padding=1),
            nn.SiLU(), nn.Conv2d(top, middle, 3, stride=2, padding=1), ResBlock(middle),
            nn.Conv2d(middle, deep, 3, stride=2, padding=1), ResBlock(deep), ResBlock(deep),
            nn.GroupNorm(8, deep), nn.SiLU(), nn.Conv2d(deep, 2 * LATENT_CHANNELS, 1))
        self.decoder = nn.Sequential(
            nn.Conv2d(LATENT_CHANNELS, deep, 1), ResBlock(deep), ResBlock(deep),
            nn.Conv2d(deep, 4 * middle, 3, padding=1), nn.PixelShuffle(2), ResBlock(middle),
            nn.Conv2d(middle, 4 * top, 3, padding=1), nn.PixelShuffle(2), ResBlock(top), nn.SiLU(),
            nn.Conv2d(top, 12, 3, padding=1), nn.PixelShuffle(2))

    def moments(self, pixels: Tensor) -> tuple[Tensor, Tensor]:
        """Mean and log-variance of the latents, both (B, 4, H/8, W/8)."""
        mean, log_variance = self.encoder(pixels).chunk(2, dim=1)
        return mean, log_variance.clamp(-20.0, 10.0)

    def encode(self, pixels: Tensor, *_args, **_options) -> Tensor:
        """The mean latents."""
        return self.moments(pixels)[0]

    def decode(self, latents: Tensor, *_args, **_options) -> Tensor:
        return self.decoder(latents)

    @torch.no_grad()
    def standardize(self, mean: Tensor, std: Tensor) -> None:
        """Makes latents z into (z - mean) / std, each (4,), in the two 1 x 1 convolutions; decode(encode(x)) stays."""
        last, first = self.encoder[-1], self.decoder[0]
        last.weight[:LATENT_CHANNELS] /= std[:, None, None, None]
        last.bias[:LATENT_CHANNELS] = (last.bias[:LATENT_CHANNELS] - mean) / std
        last.bias[LATENT_CHANNELS:] -= 2.0 * std.log()
        first.bias += first.weight[:, :, 0, 0] @ mean
        first.weight *= std[:, None, None]
