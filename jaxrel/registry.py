"""The names of all families, in the order of their codes. Names never enter a pytree: a `Weights` leaf follows this order.

A layout's sampler stands under its name in `jaxrel.layouts`, which asserts that the two agree; mechanism families name themselves in
`jaxrel.families`.
"""

from jaxrel.types import Aggregate, Combine, Kind, Popularity

__all__ = [
    "ACTIVATIONS",
    "AGGREGATE_LAWS",
    "COMBINES",
    "CUTS",
    "DEGREES",
    "EXOGENOUS",
    "KINDS",
    "LAYOUTS",
    "MARGINALS",
    "NOISES",
    "POPULARITIES",
    "SCALES",
]

LAYOUTS = ("barabasi_albert", "erdos_renyi", "watts_strogatz", "random_tree", "reverse_random_tree", "layered", "cauchy")
KINDS = tuple(k.name.lower() for k in (Kind.NUMERIC, Kind.INTEGER, Kind.CATEGORICAL, Kind.BOOLEAN, Kind.DATE))
POPULARITIES = tuple(p.name.lower() for p in Popularity)
AGGREGATE_LAWS = tuple(a.name.lower() for a in Aggregate)
DEGREES = ("geometric", "negative_binomial", "zipf", "empirical", "few")
COMBINES = tuple(c.name.lower() for c in Combine)
EXOGENOUS = ("series", "normal", "uniform", "beta", "mixture")
SCALES = ("one", "normal", "lognormal", "cauchy", "uniform")
NOISES = ("gaussian", "laplace", "uniform", "beta", "student")
MARGINALS = (
    "identity",
    "uniform",
    "normal",
    "lognormal",
    "exponential",
    "pareto",
    "count",
    "zero_inflated",
    "bounded",
    "price",
    "signed_log",
    "signed_sqrt",
    "standard",
)
CUTS = ("equal", "skewed", "zipf", "width", "points")
ACTIVATIONS = (
    "identity",
    "relu",
    "leaky_relu",
    "abs",
    "square",
    "step",
    "sign",
    "sigmoid",
    "tanh",
    "elu",
    "selu",
    "softplus",
    "silu",
    "gelu",
    "sine",
    "cosine",
    "gaussian",
    "laplace_bump",
    "hard_sigmoid",
    "hard_tanh",
    "log_sigmoid",
    "relu6",
    "tanh_shrink",
    "snake",
    "signed_square",
    "relu_squared",
    "log_abs",
    "signed_log",
    "sine_ramp",
    "winner",
    "share",
)
