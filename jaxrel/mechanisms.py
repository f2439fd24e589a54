"""The universal mechanism: its activations, its weights, and the draw of all edges' parameters.

An edge maps a parent's lanes to ``W`` lanes: ``A_out φ_L(A_L … φ_1(A_0 x + b_0) …)``. A family (`jaxrel.families`) draws the parameters of
this form. An activation is a row of coefficients over shared basis functions, so that none costs more than another and none is a branch.

Weights are independent (`Form.DENSE`) or tied in groups of units: that, and the units of a group competing, makes trees, prototypes,
products and lookups of the same two matrices.
"""

from __future__ import annotations

import functools
from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

from jaxrel.draws import draw_choice, draw_integers, draw_real, draw_share
from jaxrel.families import SAMPLERS, Drawn
from jaxrel.prior import SCMPrior
from jaxrel.random import Key, Words, chance, exp, log, nearest, normals, pair, row_bits, row_pair, sine, uniform
from jaxrel.registry import ACTIVATIONS
from jaxrel.style import Style
from jaxrel.types import DEEPEST, Capacity, Form

__all__ = [
    "ACTIVATION_TABLE",
    "EDGE_DRAWS",
    "activate",
    "activate_one",
    "compete",
    "first_weights",
    "hidden_weights",
    "out_weights",
    "sample_edges",
    "swapped",
    "tied_weights",
]

# Basis, with a = |x|, s = sign x, e = exp(-a), t = tanh(x / 2) / 2, bump = (1 + x² / 32)⁻¹⁶, l = log(1 + a)
_BASIS = ("one", "x", "a", "xx", "ax", "s", "e", "se", "ee", "t", "xt", "bump", "sin", "l", "sl", "clip", "winner", "share")
WINNER, SHARE = (2 + _BASIS.index(name) for name in ("winner", "share"))  # columns of the table
_LOG2 = float(np.log(2.0))
EDGE_DRAWS = ("scale law", "scale", "family", "hidden", "layers", "depth", "gain", "bias", "density")


def _row(scale: float = 1.0, shift: float = 0.0, **weights: float) -> np.ndarray:
    """Coefficients of one activation: basis of (scale * x + shift), weighted."""
    return np.array([scale, shift, *(weights.get(name, 0.0) for name in _BASIS)], np.float32)


_SELU, _SELU_LOW = 1.0507, 1.0507 * 1.6733 / 2  # Klambauer et al. 2017: scale, and half of scale · α
ACTIVATION_TABLE = np.stack(
    [
        {
            "identity": _row(x=1),
            "relu": _row(x=0.5, a=0.5),
            "leaky_relu": _row(x=0.55, a=0.45),  # slope 0.1
            "abs": _row(a=1),
            "square": _row(xx=1),
            "step": _row(one=0.5, s=0.5),
            "sign": _row(s=1),
            "sigmoid": _row(one=0.5, t=1),
            "tanh": _row(scale=2, t=2),
            "elu": _row(x=0.5, a=0.5, e=0.5, se=-0.5, one=-0.5, s=0.5),
            "selu": _row(x=_SELU / 2, a=_SELU / 2, e=_SELU_LOW, se=-_SELU_LOW, one=-_SELU_LOW, s=_SELU_LOW),
            "softplus": _row(x=0.5, a=0.5, e=0.97, ee=_LOG2 - 0.97),  # log(1 + e) within 0.01
            "silu": _row(x=0.5, xt=1),
            "gelu": _row(scale=1.702, x=0.5 / 1.702, xt=1 / 1.702),  # Hendrycks and Gimpel's sigmoid form
            "sine": _row(sin=1),
            "cosine": _row(shift=np.pi / 2, sin=1),
            "gaussian": _row(bump=1),  # within 0.02 of exp(-x²/2), and no difference of large numbers in the tails
            "laplace_bump": _row(e=1),
            "hard_sigmoid": _row(scale=0.5, one=0.5, clip=0.5),
            "hard_tanh": _row(clip=1),
            "log_sigmoid": _row(x=0.5, a=-0.5, e=-0.97, ee=0.97 - _LOG2),
            "relu6": _row(scale=1 / 3, shift=-1.0, one=3.0, clip=3.0),
            "tanh_shrink": _row(scale=2, x=0.5, t=-2),
            "snake": _row(scale=2, shift=np.pi / 2, one=0.5 - np.pi / 4, x=0.5, sin=-0.5),  # Ziyin et al. 2020: x + sin² x
            "signed_square": _row(ax=1),
            "relu_squared": _row(xx=0.5, ax=0.5),
            "log_abs": _row(l=1),
            "signed_log": _row(sl=1),
            "sine_ramp": _row(x=1, sin=1),
            "winner": _row(winner=1),
            "share": _row(share=1),
        }[name]
        for name in ACTIVATIONS
    ]
)


# Classes of activations by what is costly in them: nothing, exponentials, tanh, the bump, sines, logarithms.
_COSTLY = (("e", "se", "ee"), ("t", "xt"), ("bump",), ("sin",), ("l", "sl"))
_MIXED = 1 + len(_COSTLY)  # all of the basis
_USES = ACTIVATION_TABLE[:, 2:] != 0
_NEEDS = np.stack([np.any(_USES[:, [_BASIS.index(name) for name in names]], axis=1) for names in _COSTLY])
ACTIVATION_CLASS = np.where(_NEEDS.sum(axis=0) > 1, _MIXED, np.where(_NEEDS.any(axis=0), 1 + _NEEDS.argmax(axis=0), 0)).astype(np.int32)
_CLASSES = 1 + int(ACTIVATION_CLASS.max())  # classes that single activations are of: none is mixed, at present


def _names_of(which: int) -> tuple[str, ...]:
    """Functions of the basis that the activations of a class add up."""
    uses = _USES[ACTIVATION_CLASS == which].any(axis=0) | (which == _MIXED)
    return tuple(name for name, used in zip(_BASIS, uses, strict=True) if used and name not in ("winner", "share"))


def _half_tanh(x: Array) -> Array:
    """tanh(x / 2) / 2 within 3·10⁻⁵: a ratio of polynomials, since the chain of an exponential and its reciprocal waits for itself."""
    x = jnp.clip(x, -10.0, 10.0)
    z = x * x
    return x * (0.24995255 + z * (0.0063577443 + z * 1.0233839e-5)) / (1.0 + z * (0.10862624 + z * 0.00078996388))


def _bump(x: Array) -> Array:
    """(1 + x² / 32)⁻¹⁶."""
    y = 1.0 / (1.0 + jnp.square(x) * (1 / 32))
    return jnp.square(jnp.square(jnp.square(jnp.square(y))))


def _combined(x: Array, which: int, weight: Callable[[int], Array], nearest: Callable[[Array], Array] = jnp.round) -> Array:
    """Functions of the basis that activations of a class add up, each times its coefficient: ``weight`` of a column of the table."""
    x = jnp.clip(x, -50.0, 50.0)
    a, s = jnp.abs(x), jnp.where(x > 0, jnp.float32(1), jnp.float32(-1))
    basis = {"one": jnp.ones_like(x), "x": x, "a": a, "xx": x * x, "ax": a * x, "s": s, "clip": jnp.clip(x, -1.0, 1.0)}
    e, t, rise = exp(-a), _half_tanh(x), log(1.0 + a)
    basis |= {"e": e, "se": s * e, "ee": e * e, "t": t, "xt": x * t, "bump": _bump(x), "sin": sine(x, nearest), "l": rise, "sl": s * rise}
    out = jnp.zeros_like(x)
    for name in _names_of(which):  # what no activation of the class adds up is dropped by the compiler
        out = out + weight(2 + _BASIS.index(name)) * basis[name]
    return out


def activate_one(x: Array, bias: Array, found: Array, weight: Callable[[int], Array]) -> Array:
    """`activate` of one edge.

    Args:
        x: f32[H, rows].
        bias: f32[H].
        found: i32[], `ACTIVATION_CLASS` of its activation.
        weight: of i, column i of its row of `ACTIVATION_TABLE`, f32[].
    """
    x = weight(0) * x + (weight(0) * bias + weight(1))[:, None]

    branch = functools.partial(_combined, weight=weight, nearest=nearest)
    return jax.lax.switch(found, [functools.partial(branch, which=which) for which in range(_CLASSES)], x)


def activate(x: Array, bias: Array, code: Array, present: Array) -> Array:
    """Apply an activation to every unit (all but what looks at several units: `compete`).

    Where all edges of the batch are of one class, only what it needs is computed.

    Args:
        x: f32[B, H, rows], pre-activations but for the bias.
        bias: f32[B, H].
        code: i32[B], rows of `ACTIVATION_TABLE`.
        present: bool[B], edges that count.

    Returns:
        f32[B, H, rows].
    """
    rows = jnp.asarray(ACTIVATION_TABLE)[code]

    def part(which: int) -> Callable[[Array], Array]:
        def apply(x: Array) -> Array:
            x = rows[:, 0, None, None] * x + (rows[:, 0, None] * bias + rows[:, 1, None])[:, :, None]
            return _combined(x, which, lambda i: rows[:, i, None, None])

        return apply

    found = jnp.asarray(ACTIVATION_CLASS)[code]
    if x.shape[0] == 1:
        return jax.lax.switch(found[0], [part(which) for which in range(_CLASSES)], x)
    low, high = jnp.min(jnp.where(present, found, _MIXED)), jnp.max(jnp.where(present, found, 0))
    return jax.lax.switch(jnp.where(low == high, low, _MIXED), [part(which) for which in range(_MIXED + 1)], x)


def compete(h: Array, x: Array, bias: Array, depth: Array, code: Array) -> Array:
    """Add what units say that look at their group, each aligned group of 2^depth units by itself.

    Hard: 1 for the first of the highest, else 0 (linear scores whose winner is a leaf make a group an oblivious decision tree, squared
    distances a nearest prototype). Soft: the softmax of the group (responsibilities of a mixture of spherical Gaussians).

    Args:
        h: f32[B, H, rows], what comes back where nothing is added.
        x: f32[B, H, rows], scores but for the bias.
        bias: f32[B, H].
        depth: i32[B]; nothing is added where it is 0.
        code: i32[B], rows of `ACTIVATION_TABLE`, of which the columns WINNER and SHARE count, 0 or 1.

    Returns:
        f32[B, H, rows].
    """
    batch, units, rows = x.shape
    levels = [level for level in range(1, DEEPEST + 1) if units % (1 << level) == 0]

    def grouped(level: int) -> Array:
        return (x + bias[:, :, None]).reshape(batch, units >> level, 1 << level, rows)

    def hard(h: Array, level: int) -> Array:
        place = jnp.arange(1 << level, dtype=jnp.int32)[None, None, :, None]
        groups = grouped(level)
        is_highest = groups >= jnp.max(groups, axis=2, keepdims=True)
        # the last one where none is: XLA may compute x anew, rounded otherwise
        first = jnp.min(jnp.where(is_highest, place, (1 << level) - 1), axis=2, keepdims=True)
        return h + (place == first).astype(jnp.float32).reshape(h.shape)

    def soft(h: Array, level: int) -> Array:
        groups = grouped(level)
        raised = exp(jnp.clip(groups - jnp.max(groups, axis=2, keepdims=True), -80.0, 0.0))
        raised = total = raised.reshape(h.shape)
        for below in range(level):  # in pairs, as wide as the units: where XLA sees a broadcast divisor, it multiplies by a reciprocal
            pairs = total.reshape(batch, units >> (below + 1), 2, 1 << below, rows)
            total = jnp.repeat(jnp.sum(pairs, axis=2, keepdims=True), 2, axis=2).reshape(h.shape)
        return h + raised / total

    weights = jnp.asarray(ACTIVATION_TABLE)[code]
    number = jnp.where(weights[:, WINNER] != 0, depth, jnp.where(weights[:, SHARE] != 0, depth + len(levels), 0))
    number = jnp.where(depth > 0, number, 0)
    ways = [functools.partial(way, level=level) for way in (hard, soft) for level in levels]
    if batch == 1:
        return jax.lax.switch(number[0], [lambda h: h, *ways], h)
    for i, way in enumerate(ways, 1):
        is_it = number == i

        def some(h: Array, way: Callable[[Array], Array] = way, is_it: Array = is_it) -> Array:
            return jnp.where(is_it[:, None, None], way(h), h)

        h = jax.lax.cond(jnp.any(is_it), some, lambda h: h, h)
    return h


def _bell(word: Array) -> Array:
    """A nearly normal weight of one word, from the sum of its four bytes (no transcendental; |value| < 3.5)."""
    mask = jnp.uint32(0xFF)
    total = (word & mask) + ((word >> 8) & mask) + ((word >> 16) & mask) + (word >> 24)
    return (total.astype(jnp.float32) - 510.0) * jnp.float32(1 / 147.8)


def first_weights(
    key: Key, width: Array, density: Array, gain: Array, bias: Array, W: int, H: int, partner: int = 0
) -> tuple[Array, Array]:
    """First layer of one edge. Weights are pure functions of the edge's key and the unit's index, hence the same at any capacity.

    Args:
        key: u32[2], or its words.
        width: i32[], lanes that the edge reads.
        density: u32[], share of weights kept, in 2^-24.
        gain: f32[], scale of the pre-activations.
        bias: f32[], scale of the biases.
        W: lanes.
        H: units.
        partner: 1: of each unit the other one of its pair.

    Returns:
        A_0 f32[H, W], b_0 f32[H].
    """
    unit, column = jnp.arange(H, dtype=jnp.int32) ^ partner, jnp.arange(W, dtype=jnp.int32)
    word, second = row_pair(key, unit[:, None], column[None, :])
    weight = jnp.where(chance(second, density), _bell(word), 0.0)
    return gain * weight * jax.lax.rsqrt(width.astype(jnp.float32)), bias * _bell(row_bits(key, unit, 1024))


def tied_weights(
    key: Key, form: Array, width: Array, depth: Array, gain: Array, dense: Array, bias: Array, partner: Array, W: int, H: int
) -> tuple[Array, Array]:
    """First layer of an edge whose units are tied in groups of 2^depth, f32[H, W] and f32[H]; a dense one as it is given.

    A tree: unit i scores Σ_j ±(x[f_j] - t_j), signs by the bits of its leaf; features f and thresholds t belong to the group. Cells:
    gain · (c_i · x - ½ |c_i|²), highest for the nearest prototype c_i. Pairs: units 2i and 2i + 1 take u + v and u - v, so that the
    difference of their squares is four times the product of two projections. A lookup: 2 i x - i², highest for the i nearest to a code x.
    ``partner``: the dense weights, of each unit those of the other one of its pair.
    """
    unit, lane = jnp.arange(H, dtype=jnp.int32), jnp.arange(W, dtype=jnp.int32)
    j = jnp.arange(1 << (DEEPEST - 1).bit_length(), dtype=jnp.int32)  # DEEPEST of them count; kernels need a power of two
    to_feature, to_threshold = row_pair(key, (unit >> depth)[:, None], 4096 + j[None, :])
    sign = (((unit[:, None] >> j[None, :]) & 1) * 2 - 1).astype(jnp.float32)
    sign = jnp.where(j[None, :] < depth, sign, 0.0)
    feature = ((to_feature >> 16).astype(jnp.int32) * width) >> 16
    tree = jnp.sum(jnp.where(feature[:, :, None] == lane[None, None, :], sign[:, :, None], 0.0), axis=1)
    tree_bias = -jnp.sum(sign * 0.7 * _bell(to_threshold), axis=1)

    centre = jnp.where((lane < width)[None, :], _bell(row_bits(key, unit[:, None], 6144 + lane[None, :])), 0.0)
    even = (unit % 2 == 0)[:, None]
    pairs = jnp.where(even, dense + partner, partner - dense)
    leaf = (unit & ((1 << depth) - 1)).astype(jnp.float32)

    out, shift = dense, bias
    for code, weights, offset in (
        (Form.TREE, tree, tree_bias),
        (Form.CELLS, gain * centre, -0.5 * gain * jnp.sum(jnp.square(centre), axis=1)),
        (Form.PAIRS, pairs, jnp.zeros_like(bias)),
        (Form.LOOKUP, jnp.where(lane[None, :] == 0, 2.0 * leaf[:, None], 0.0), -jnp.square(leaf)),
    ):
        out, shift = jnp.where(form == code, weights, out), jnp.where(form == code, offset, shift)
    return out, shift


def swapped(dense: Array) -> Array:
    """Weights f32[H, W] of the other unit of each pair."""
    H, W = dense.shape
    return dense.reshape(H // 2, 2, W)[:, ::-1].reshape(H, W) if H % 2 == 0 else dense


def out_weights(key: Key, hidden: Array, density: Array, form: Array, W: int, H: int) -> Array:
    """Last layer of one edge, f32[W, H]: units in use, averaged; of groups that compete the units' values, summed; of pairs ±."""
    unit, lane = jnp.arange(H, dtype=jnp.int32), jnp.arange(W, dtype=jnp.int32)
    is_pairs, is_dense = form == Form.PAIRS, form == Form.DENSE
    of = jnp.where(is_pairs, unit >> 1, unit)
    word, second = row_pair(key, of[None, :], 1025 + lane[:, None])
    kept = (~is_dense | chance(second, density)) & (unit < hidden)[None, :]
    scale = jnp.where(is_dense, jax.lax.rsqrt(hidden.astype(jnp.float32)), 1.0)
    scale = jnp.where(is_pairs, (0.25 - 0.5 * (unit % 2).astype(jnp.float32)) * jax.lax.rsqrt(hidden.astype(jnp.float32)), scale)
    return jnp.where(kept, _bell(word), 0.0) * jnp.broadcast_to(scale, (H,))[None, :]


def hidden_weights(key: Key, layer: Array, hidden: Array, density: Array, gain: Array, bias: Array, H: int) -> tuple[Array, Array]:
    """A_l f32[H, H] and b_l f32[H] of a later layer of one edge."""
    unit, lane = jnp.arange(H, dtype=jnp.int32), layer * 2048 + 8192
    word, second = row_pair(key, unit[:, None], (lane + unit)[None, :])
    kept = chance(second, density) & (unit < hidden)[None, :]
    scale = gain / jnp.sqrt(hidden.astype(jnp.float32))
    return jnp.where(kept, _bell(word), 0.0) * scale, bias * _bell(row_bits(key, unit, lane + 1024))


def _edge_scale(key: Array | Words, prior: SCMPrior, style: Style | None) -> Array:
    """The weight of each edge, by one of the laws of `jaxrel.registry.SCALES`."""
    law = draw_choice(key, "scale law", prior.scales, style=style)
    word, sign = pair(key, 0, "scale")
    u = uniform(word)
    z, _ = normals((word, sign))
    half = jnp.float32(np.pi) * (u - 0.5)
    tangent = jnp.clip(jnp.sin(half) / jnp.maximum(jnp.cos(half), 1e-3), -10.0, 10.0)
    signed = jnp.where(sign >> 31 == 1, jnp.float32(-1.0), jnp.float32(1.0))
    by_law = (signed, z, signed * jnp.exp(0.5 * z), tangent, 4.0 * u - 2.0)
    out = by_law[0]
    for code, value in enumerate(by_law[1:], 1):
        out = jnp.where(law == code, value, out)
    return out


def sample_edges(key: Array | Words, prior: SCMPrior, capacity: Capacity, style: Style | None = None) -> dict[str, Array]:
    """Sample the mechanisms of all edges.

    Args:
        key: u32[E, 2], one key an edge.
        prior: the ``scm`` section.
        capacity: static sizes.
        style: of the edges' tables.

    Returns:
        The ``edge_*`` fields of `jaxrel.types.SCM` except ``edge_start``, ``edge_parent`` and ``edge_key``, and ``fits`` bool[E].
    """
    family = draw_choice(key, "family", prior.families, style=style)
    layer = jnp.arange(capacity.layers, dtype=jnp.int32)
    layers_style = None if style is None else style.of(style.table[..., None])
    sizes = draw_integers(key, {"hidden": prior.hidden, "layers": prior.layers, "depth": prior.depth}, style=style)
    drawn = Drawn(
        hidden=sizes["hidden"],
        layers=sizes["layers"],
        depth=sizes["depth"],
        form=jnp.full_like(family, Form.DENSE),
        gain=draw_real(key, "gain", prior.gain, style=style),
        bias=draw_real(key, "bias", prior.bias, style=style),
        activation=draw_choice(key[..., None, :], "activation", prior.activations, layer, layers_style),
    )
    chosen = drawn
    for code, sampler in enumerate(SAMPLERS.values()):
        form = sampler(drawn, prior)
        is_it = family == code
        chosen = Drawn({name: jnp.where(is_it[..., None] if x.ndim > is_it.ndim else is_it, form[name], x) for name, x in chosen.items()})
    fits = (chosen["hidden"] <= capacity.hidden) & (chosen["layers"] <= capacity.layers)
    return {
        "edge_family": family,
        "edge_scale": _edge_scale(key, prior, style),
        "edge_gain": chosen["gain"],
        "edge_bias": chosen["bias"],
        "edge_density": draw_share(key, "density", prior.density, style=style),
        "edge_hidden": jnp.clip(chosen["hidden"], 1, capacity.hidden),
        "edge_layers": jnp.clip(chosen["layers"], 1, capacity.layers),
        "edge_form": chosen["form"],
        "edge_depth": jnp.where((chosen["form"] == Form.DENSE) | (chosen["form"] == Form.PAIRS), 0, chosen["depth"]),
        "edge_activation": chosen["activation"],
        "fits": fits,
    }
