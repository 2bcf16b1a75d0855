"""ML-Decoder: fixed queries read a feature map and are read out by groups of classes."""

import math

import torch
from torch import Tensor, nn

from components.tensors import Logits

_MOST_QUERIES = 100
_WIDTH, _HEADS, _HIDDEN, _DROPOUT = 768, 8, 2048, 0.1


class MLDecoder(nn.Module):
    """Classification head that attends to the positions of a feature map.

    Ridnik et al., 2021, https://arxiv.org/abs/2111.12933. With m = ReLU(linear(features)) at every
    position and K = min(100, classes) queries q, each step followed by a LayerNorm,

        t = 2q    t = t + attention(t, m, m)    t = t + W₂ ReLU(W₁ t)    logits_kj = t_k · P_k[:, j]

    so that each query answers for ⌈classes / K⌉ classes. There is no self-attention.

    Args:
        num_classes: number of logits.
        in_channels: channels of the feature map, whose height and width may be anything.

    Attributes:
        queries: drawn once from N(0, 1); a buffer, because nothing may train them.
        head_layers: what depends on the number of classes.
    """

    head_layers = ("queries", "readout", "bias")

    def __init__(self, num_classes: int, in_channels: int) -> None:
        super().__init__()
        count = min(_MOST_QUERIES, num_classes)
        self.embed = nn.Linear(in_channels, _WIDTH)
        self.register_buffer("queries", torch.randn(count, _WIDTH))
        self.queries: Tensor
        self.query, self.key, self.value = (nn.Linear(_WIDTH, _WIDTH) for _ in range(3))
        self.mix = nn.Linear(_WIDTH, _WIDTH)
        self.expand, self.contract = nn.Linear(_WIDTH, _HIDDEN), nn.Linear(_HIDDEN, _WIDTH)
        self.norm1, self.norm2, self.norm3 = (nn.LayerNorm(_WIDTH) for _ in range(3))
        self.dropout, self.relu = nn.Dropout(_DROPOUT), nn.ReLU()
        self.readout = nn.Parameter(torch.empty(count, _WIDTH, -(-num_classes // count)))
        self.bias = nn.Parameter(torch.zeros(num_classes))
        nn.init.xavier_normal_(self.readout)
        for layer in (self.query, self.key, self.value):
            # As for one layer that gives all three, whose fan-out is three times as large.
            nn.init.xavier_uniform_(layer.weight, gain=math.sqrt(0.5))
            nn.init.zeros_(layer.bias)
        nn.init.zeros_(self.mix.bias)

    def forward(self, features: Tensor) -> Logits:
        """Give the logits of feature maps of the shape (batch, channels, height, width)."""
        memory = self.relu(self.embed(features.flatten(2).mT))
        told = self.queries.expand(features.shape[0], -1, -1)
        told = self.norm1(told + self.dropout(told))
        told = self.norm2(told + self.dropout(self._attend(told, memory)))
        hidden = self.dropout(self.relu(self.expand(told)))
        told = self.norm3(told + self.dropout(self.contract(hidden)))
        logits = torch.einsum("bkd,kdj->bkj", told, self.readout).flatten(1)
        return logits[:, : len(self.bias)] + self.bias

    def _attend(self, asking: Tensor, memory: Tensor) -> Tensor:
        queries, keys, values = (
            layer(tokens).unflatten(2, (_HEADS, -1)).transpose(1, 2)
            for layer, tokens in ((self.query, asking), (self.key, memory), (self.value, memory))
        )
        # Written out, because torch's fused attention has no second derivative.
        scores = queries @ keys.mT / math.sqrt(_WIDTH // _HEADS)
        mixed = self.dropout(scores.softmax(-1)) @ values
        return self.mix(mixed.transpose(1, 2).flatten(2))
