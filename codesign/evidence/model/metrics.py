"""Metrics of a whole language model on an instruction, against the same model on BF16."""

from __future__ import annotations

from functools import partial

from codesign.figures.metric import Metric

_metric = partial(
    Metric,
    variants=("today", "software", "proposal", "exact"),
    swept=True,
    sampled=True,
    absent="no record of a model covers it; `evaluate --model` and `codesign model` run a small one",
)
METRICS = (
    _metric(
        "model.perplexity",
        "perplexity",
        "exponential of the mean loss per token of a language model whose Linears run on the instruction",
    ),
    _metric(
        "model.perplexity_ratio",
        "perplexity over BF16's",
        "perplexity over that of the same model on BF16 operands with FP32 sums, on the same text",
    ),
    _metric(
        "model.kl",
        "divergence from BF16's predictions",
        "mean Kullback-Leibler divergence of the next-token distribution from BF16's, nats per token",
        unit="nats",
    ),
    _metric(
        "model.flip_rate",
        "predictions that change",
        "share of tokens whose likeliest next token is not BF16's",
        share=True,
    ),
    _metric(
        "model.layer_error",
        "error of a Linear's output",
        "relative Frobenius error of a kind of Linear's outputs, on the inputs that it has in the emulated model, against BF16 "
        "operands with FP32 sums; each kind has a figure",
    ),
)
