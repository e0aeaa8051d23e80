"""The Shapes text encoder: the words of the world's captions to conditioning."""
import logging

import torch
from torch import Tensor, nn

from .shapes import COLOURS, GROUNDS, RADII, SHAPES
from .words import TextEncoder, weighted_words

WORDS = (*SHAPES, *COLOURS, *RADII, *GROUNDS, "left", "right", "above", "below", "top", "bottom", "middle", "on", "and")
SILENT = {"a", "an", "the", "of", "in", "at"}
TOKENS = 16  # captions of three things have 15
WIDTH = 64


class ShapesTokenizer:
    """Captions to word numbers; 0 is no word. ComfyUI's tokenizer calls, with (word:1.2) weights."""
    numbers = {word: i + 1 for i, word in enumerate(WORDS)}

    def tokenize_with_weights(self, text: str, return_word_ids: bool = False, **_options) -> dict:
        """{"odeon": [(number, weight), ...]}, at most TOKENS; unknown and surplus words are named in the log."""
        words = [(word, weight) for word, weight in weighted_words(text) if word not in SILENT]
        unknown = sorted({word for word, _ in words if word not in self.numbers})
        if unknown:
            logging.getLogger("odeon").warning("Shapes models know no word like %s; the prompt goes on without. They "
                                               "know: %s", ", ".join(unknown), " ".join(WORDS))
        known = [(self.numbers[word], weight) for word, weight in words if word in self.numbers]
        if len(known) > TOKENS:
            logging.getLogger("odeon").warning("The prompt has %d words, Shapes models read the first %d.",
                                               len(known), TOKENS)
        return {"odeon": known[:TOKENS]}

    def state_dict(self) -> dict:
        return {}


class ShapesTextEncoder(TextEncoder):
    """Two transformer layers over the words: numbers (B, TOKENS) -> context (B, TOKENS, 64)."""

    def __init__(self):
        super().__init__()
        self.words = nn.Embedding(len(WORDS) + 1, WIDTH)
        self.places = nn.Parameter(torch.randn(TOKENS, WIDTH) * 0.02)
        layer = nn.TransformerEncoderLayer(WIDTH, 4, 4 * WIDTH, dropout=0.0, activation="gelu", batch_first=True,
                                           norm_first=True)
        self.layers = nn.TransformerEncoder(layer, 2, norm=nn.LayerNorm(WIDTH), enable_nested_tensor=False)

    def forward(self, numbers: Tensor) -> Tensor:
        return self.layers(self.words(numbers) + self.places)

    @torch.no_grad()
    def encode_token_weights(self, tokens: dict) -> tuple[Tensor, Tensor]:
        """Context (1, TOKENS, 64) and its mean; a weight moves a token away from what the empty prompt has there."""
        device = self.places.device
        numbers, weights = torch.zeros(1, TOKENS, dtype=torch.long), torch.ones(1, TOKENS, 1)
        for i, (number, weight) in enumerate(tokens["odeon"]):
            numbers[0, i], weights[0, i] = number, weight
        context = self(numbers.to(device))
        if not torch.equal(weights, torch.ones_like(weights)):
            empty = self(torch.zeros_like(numbers).to(device))
            context = empty + (context - empty) * weights.to(device)
        return context, context.mean(1)
