"""Named random streams: counter-based draws that no array length, batch or device can move.

Every draw is Threefry-2x32 at ``(key, counter pair)``. A stream is named, never positional: `named_key` folds a stable digest of
words and numbers into a key. The generator comes in two forms of the same bits. For rows it is written with plain operators, which
XLA fuses into what reads them (0.8 ns a pair on two cores, against 33 ns for JAX's primitive, which lowers to a loop on CPU), and
which the host runs on numpy arrays as they are. For the few draws that decide structure it is JAX's primitive, which compiles in a
quarter of the time.

Reference: Salmon et al., "Parallel random numbers: as easy as 1, 2, 3", SC 2011 (Threefry-2x32, 20 rounds).
"""

from __future__ import annotations

import functools
import hashlib
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array
from jax.extend.random import threefry2x32_p
from jax.typing import ArrayLike

from jaxrel.batching import by_platform

__all__ = [
    "Key",
    "STREAM_VERSION",
    "Words",
    "bits",
    "below",
    "chance",
    "exp",
    "gumbel",
    "half_bits",
    "host_key",
    "index_permutation",
    "inverse_permutation",
    "log",
    "log1p_exp",
    "mulhi",
    "name_id",
    "named_key",
    "nearest",
    "normals",
    "pair",
    "pairs",
    "quotient",
    "reduce_key",
    "row_bits",
    "row_pair",
    "running_sum",
    "seed_key",
    "sine",
    "sine_turns",
    "threefry2x32",
    "uniform",
    "walk_cycles",
]

Key = Array | tuple[Array, Array]  # u32[..., 2], or its two words apart
STREAM_VERSION = 4  # rises when any stream changes; recorded in every manifest
_PARITY = 0x1BD11BDA  # Threefry's key-schedule constant
_ROTATIONS = ((13, 15, 26, 6), (17, 29, 16, 24))


def threefry2x32(k0: Any, k1: Any, x0: Any, x1: Any) -> tuple[Any, Any]:
    """Threefry-2x32 with 20 rounds, on jax or numpy ``uint32`` arrays that broadcast.

    Args:
        k0: u32[...], first key word.
        k1: u32[...], second key word.
        x0: u32[...], first counter word.
        x1: u32[...], second counter word.

    Returns:
        Two u32[...] words, each uniform over all 32-bit values.

    Reference:
        Salmon et al., SC 2011, section 3.2; bit-compatible with ``jax.extend.random.threefry2x32_p``.
    """
    schedule = (k0, k1, k0 ^ k1 ^ np.uint32(_PARITY))
    x0, x1 = x0 + schedule[0], x1 + schedule[1]
    for i in range(5):
        for r in _ROTATIONS[i % 2]:
            x0 = x0 + x1
            x1 = ((x1 << np.uint32(r)) | (x1 >> np.uint32(32 - r))) ^ x0
        x0 = x0 + schedule[(i + 1) % 3]
        x1 = x1 + (schedule[(i + 2) % 3] + np.uint32(i + 1))
    return x0, x1


# Traced once for each shape and called from then on, as other functions of a dozen operations below: tracing is a third of what a first
# run waits for.
_threefry2x32 = jax.jit(threefry2x32)


def name_id(name: str) -> int:
    """A stable 32-bit id of a name (first four bytes of its SHA-256, little-endian)."""
    return int.from_bytes(hashlib.sha256(name.encode()).digest()[:4], "little")


def reduce_key(key: ArrayLike) -> Array:
    """Reduce a user's key, typed or raw, of any implementation, to two words.

    Args:
        key: a typed PRNG key of shape (), or its raw words u32[n].

    Returns:
        u32[2]; two-word keys are taken as they are.

    Raises:
        TypeError: if it is neither a single typed key nor a vector of uint32 words.
    """
    key = jnp.asarray(key)
    if jnp.issubdtype(key.dtype, jax.dtypes.prng_key):
        key = jax.random.key_data(key)
    if key.dtype != jnp.uint32 or key.ndim != 1 or key.shape[0] < 2:
        raise TypeError(f"key: expected one PRNG key, got {key.dtype}{list(key.shape)}; use jax.random.key(seed)")
    if key.shape[0] == 2:
        return key
    words = key[:2]
    for i in range(2, key.shape[0], 2):  # wider implementations (rbg: four words) are folded, two by two
        pair = key[i : i + 2]
        words = jnp.stack(_threefry2x32(words[0], words[1], pair[0], pair[-1]))
    return words


def seed_key(seed: int) -> Array:
    """u32[2]: ``reduce_key(jax.random.key(seed, impl="threefry2x32"))`` for a seed below 2^32, made on the host: no JAX flag moves it."""
    return jax.device_put(np.asarray([0, seed], np.uint32))


def _small(k0: Any, k1: Any, x0: Any, x1: Any) -> tuple[Array, Array]:
    """`threefry2x32` by JAX's own primitive, bit for bit the same: a quarter of the compile time at a call site, for small arrays."""
    return _primitive(*_spread(k0, k1, x0, x1))


@jax.jit
def _primitive(*operands: Array) -> tuple[Array, Array]:
    # Under nested vmaps that map the operands unequally, JAX leaves their broadcast to the primitive, whose CPU lowering (0.10) cannot;
    # so each is made to depend on all, at no cost once compiled.
    zero = (operands[0] ^ operands[1] ^ operands[2] ^ operands[3]) & np.uint32(0)
    words = threefry2x32_p.bind(*(x | zero for x in operands))
    return words[0], words[1]


def _spread(*arrays: Any) -> list[Array]:
    """u32 arrays brought to their common shape, said aloud: arithmetic between ranks may be forbidden by the user."""
    return jnp.broadcast_arrays(*(jnp.asarray(x, jnp.uint32) for x in arrays))


_ID = np.uint32(0x6A09E667)  # the second word of an id keeps it apart from every word's digest that starts with the same bits


def _digest(word: str) -> tuple[np.uint32, np.uint32]:
    found = hashlib.sha256(word.encode()).digest()
    return np.uint32(int.from_bytes(found[:4], "little")), np.uint32(int.from_bytes(found[4:8], "little"))


def named_key(key: Array | Words, *names: str | ArrayLike) -> Array:
    """Derive the key of a named stream.

    Args:
        key: u32[..., 2].
        *names: words (hashed by SHA-256) and integer ids (Python or traced, i32/u32[...]), folded in one after another.

    Returns:
        u32[..., 2], with the broadcast shape of the key and the ids.
    """
    k0, k1 = key[..., 0], key[..., 1]
    for name in names:
        k0, k1 = _small(k0, k1, *(_digest(name) if isinstance(name, str) else (jnp.asarray(name).astype(jnp.uint32), _ID)))
    return jnp.stack([k0, k1], axis=-1)


def host_key(key: ArrayLike, *names: str | ArrayLike) -> np.ndarray:
    """`named_key` of concrete arrays in NumPy, the same words: where arrays are converted to text, nothing is to be compiled."""
    k0, k1 = np.moveaxis(np.asarray(key), -1, 0)
    with np.errstate(over="ignore"):
        for name in names:
            k0, k1 = threefry2x32(k0, k1, *(_digest(name) if isinstance(name, str) else (np.asarray(name).astype(np.uint32), _ID)))
    return np.stack([k0, k1], axis=-1)


def _counter(i: ArrayLike, lane: ArrayLike | str) -> tuple[Any, Any]:
    word = np.uint32(name_id(lane)) if isinstance(lane, str) else jnp.asarray(lane).astype(jnp.uint32)
    return jnp.asarray(i).astype(jnp.uint32), word


class Words:
    """A key with the words of some of its lanes, drawn at once: to `pair`, `pairs` and `bits` it is the key, and its words are the same.

    Each draw by itself is a program of a hundred operations, and a schema or an SCM has a hundred draws. Draws that are not named, or
    have other numbers, are made by themselves; an index takes a part of the bare key.
    """

    def __init__(self, key: Array | Words, lanes: Sequence[str], i: ArrayLike = 0) -> None:
        """Draw ahead.

        Args:
            key: u32[..., 2]; of words that were drawn ahead, these are added to them.
            lanes: names of the draws, all different.
            i: i32[...], number of the draws; others are recognised by being this very object, or the same Python integer.
        """
        self._key: Array = key[...] if isinstance(key, Words) else key
        self._others = key if isinstance(key, Words) else None
        self._i, self._place = i, {lane: n for n, lane in enumerate(lanes)}
        ids = np.array([name_id(lane) for lane in lanes], np.uint32).reshape(-1, *(1,) * max(self._key.ndim - 1, jnp.ndim(i)))
        self._pair = pair(self._key[None], jnp.asarray(i)[None], ids)

    def __getitem__(self, index: Any) -> Array:
        return self._key[index]

    def find(self, i: ArrayLike, lane: ArrayLike | str) -> tuple[Array, Array] | None:
        """The two words of a draw, u32[...] each; None where it was not made ahead."""
        same = i is self._i or (isinstance(i, int) and isinstance(self._i, int) and i == self._i)
        if not same or not isinstance(lane, str) or lane not in self._place:
            return None if self._others is None else self._others.find(i, lane)
        first, second = (jax.lax.index_in_dim(words, self._place[lane], keepdims=False) for words in self._pair)
        return first, second


def pair(key: Array | Words, i: ArrayLike = 0, lane: ArrayLike | str = 0) -> tuple[Array, Array]:
    """Two random words at (key, i, lane), each u32[...], broadcast over all three. A lane may be a word. For small arrays."""
    if isinstance(key, Words):
        found = key.find(i, lane)
        return pair(key[...], i, lane) if found is None else found
    return _small(key[..., 0], key[..., 1], *_counter(i, lane))


def pairs(key: Array | Words, i: ArrayLike, lanes: Sequence[str]) -> tuple[Array, Array]:
    """The words of `pair` at several lanes, u32[..., lane] each."""
    if isinstance(key, Words):
        found = [pair(key, i, lane) for lane in lanes]
        return jnp.stack([first for first, _ in found], axis=-1), jnp.stack([second for _, second in found], axis=-1)
    return pair(key[..., None, :], jnp.asarray(i)[..., None], jnp.asarray([name_id(lane) for lane in lanes], jnp.uint32))


def bits(key: Array | Words, i: ArrayLike = 0, lane: ArrayLike | str = 0) -> Array:
    """One random word at (key, i, lane), u32[...]: the first of `pair`. For small arrays."""
    return pair(key, i, lane)[0]


def row_pair(key: Key, rows: ArrayLike, lane: ArrayLike | str = 0) -> tuple[Array, Array]:
    """The same words as `pair`, in a form that XLA fuses into what reads them. For rows and weights."""
    k0, k1 = key if isinstance(key, tuple) else (key[..., 0], key[..., 1])
    return _threefry2x32(*_spread(k0, k1, *_counter(rows, lane)))


def row_bits(key: Key, rows: ArrayLike, lane: ArrayLike | str = 0) -> Array:
    """The first word of `row_pair`."""
    return row_pair(key, rows, lane)[0]


def mulhi(a: ArrayLike, b: ArrayLike) -> Array:
    """High 32 bits of the 64-bit product of two uint32 arrays, without 64-bit integers."""
    return _mulhi(*_spread(a, b))


@jax.jit
def _mulhi(a: Array, b: Array) -> Array:
    mask = jnp.uint32(0xFFFF)
    a0, a1, b0, b1 = a & mask, a >> 16, b & mask, b >> 16
    middle = a1 * b0 + ((a0 * b0) >> 16)  # < 2^32
    cross = a0 * b1 + (middle & mask)  # < 2^32
    return a1 * b1 + (middle >> 16) + (cross >> 16)


def below(word: Array, n: ArrayLike) -> Array:
    """Map a random word to i32[...] in [0, n), each with probability within 2^-32 of 1/n (0 where n is 0)."""
    return mulhi(word, jnp.asarray(n).astype(jnp.uint32)).astype(jnp.int32)


def quotient(a: ArrayLike, b: ArrayLike) -> Array:
    """a // b of i32[...] or u32[...], a ≥ 0, b > 0, exactly: CPUs divide integers one by one, but have vectors for all operators here."""
    a, b = jnp.broadcast_arrays(jnp.asarray(a), jnp.asarray(b))
    return _quotient(a.astype(jnp.uint32), b.astype(jnp.uint32)).astype(a.dtype)


@jax.jit
def _quotient(a: Array, b: Array) -> Array:
    # a little less than 1 / b: more than its rounding, so no guess is too high and no rest below 0
    share = jnp.float32(1 - 2**-21) / b.astype(jnp.float32)
    first = (a.astype(jnp.float32) * share).astype(jnp.uint32)  # at most 3,073 too low, for a < 2^32
    rest = a - first * b
    second = (rest.astype(jnp.float32) * share).astype(jnp.uint32)  # at most 1 too low
    return first + second + (rest - second * b >= b).astype(jnp.uint32)


@jax.jit
def running_sum(x: Array) -> Array:
    """Inclusive sums along the last axis, in the dtype of ``x`` (bool: i32): one triangular reduction.

    For axes of at most a few hundred: quadratic work, but a tenth of the program of ``jnp.cumsum``, which unrolls a scan.
    """
    x = x.astype(jnp.int32) if x.dtype == jnp.bool_ else x
    i = jnp.arange(x.shape[-1], dtype=jnp.int32)
    keep = jnp.expand_dims(i[None, :] <= i[:, None], tuple(range(x.ndim - 1)))
    return jnp.sum(jnp.where(keep, x[..., None, :], jnp.zeros((), x.dtype)), axis=-1, dtype=x.dtype)


def chance(word: Array, rate: ArrayLike) -> Array:
    """bool[...]: true with probability ``rate / 2^24`` (rate u32, 0…2^24), decided by integers alone."""
    word, rate = _spread(word, rate)
    return (word >> 8) < rate


def uniform(word: Array) -> Array:
    """f32[...] strictly inside (0, 1): the midpoints of 2^23 equal cells."""
    return ((word >> 9).astype(jnp.float32) + 0.5) * jnp.float32(2.0**-23)


@jax.custom_jvp
@jax.jit
def log(x: Array) -> Array:
    """Natural logarithm of positive normal f32[...], within 2·10⁻⁷ relative to 1; a dozen operations that vectorise on every backend.

    The mantissa is brought to [√½, √2); log(1 + f) is summed to the eighth power. No division: XLA would cut a fusion in two at it.
    """
    word = jax.lax.bitcast_convert_type(x, jnp.int32)
    shifted = word - 0x3F3504F3  # √½
    exponent = shifted >> 23
    f = jax.lax.bitcast_convert_type((shifted & 0x7FFFFF) + 0x3F3504F3, jnp.float32) - 1.0
    tail = 0.19910368 + f * (-0.17179911 + f * (0.16132502 + f * -0.10157189))
    return exponent.astype(jnp.float32) * jnp.float32(0.6931472) + f * (1.0 + f * (-0.5 + f * (0.33334756 + f * (-0.24979883 + f * tail))))


@jax.custom_jvp
@jax.jit
def exp(x: Array) -> Array:
    """e to the power of f32[...] in -87…88, within (1 + |x| / 10) 10⁻⁶ relative; half the cost of ``jnp.exp`` on CPU."""
    y = x * jnp.float32(1.4426950)
    # the nearest integer by the bits of a sum in which units are the last place: rounding and converting cost three times as much
    whole = jax.lax.bitcast_convert_type(y + jnp.float32(1.5 * 2**23), jnp.int32) - jnp.int32(0x4B400000)
    f = y - whole.astype(jnp.float32)
    power = 1.0 + f * (0.69314698 + f * (0.24022242 + f * (0.05550734 + f * (0.009671511 + f * 0.0013264652))))
    return jax.lax.bitcast_convert_type(jax.lax.bitcast_convert_type(power, jnp.int32) + (whole << 23), jnp.float32)


log.defjvps(lambda t, out, x: t / x)  # bits carry no derivative
exp.defjvps(lambda t, out, x: t * out)


@jax.jit
def log1p_exp(x: Array) -> Array:
    """log(1 + e^x) for f32[...], x ≤ 0, within 5·10⁻⁵: the best ratio of a cubic and a quartic, cut at -16."""
    x = jnp.minimum(-x, 16.0)
    above = 0.69311029 + x * (-0.18493822 + x * (0.016545629 + x * -0.00048837648))
    return above / (1.0 + x * (0.45293105 + x * (0.1777999 + x * (0.03289612 + x * 0.0098191751))))


def nearest(x: Array) -> Array:
    """The nearest integer of f32[...], half upwards, in operations that kernels of GPUs have; elsewhere ``jnp.round`` is one operation."""
    return jnp.floor(x + 0.5)


def half_bits(n: Array) -> Array:
    """Half of the bits of n - 1, rounded up: what each side of the network of `index_permutation` holds; n is 1 at least."""
    return (33 - jax.lax.clz(n - 1)) >> 1


def sine(x: Array, nearest: Callable[[Array], Array] = jnp.round) -> Array:
    """sin x for f32[...], |x| ≤ 50, within 2·10⁻⁵, by a polynomial of the fraction of a turn. ``nearest``: how to round to an integer."""
    return sine_turns(x * jnp.float32(1 / (2 * np.pi)), nearest)


def sine_turns(u: Array, nearest: Callable[[Array], Array] = jnp.round) -> Array:
    """sin 2πu for f32[...], within 10⁻⁵: the best odd polynomial of degree nine on half a turn either way."""
    u = u - nearest(u)
    v = u * u
    return u * (6.2830558 + v * (-41.331214 + v * (81.366815 + v * (-74.478003 + v * 32.781398))))


@functools.partial(jax.jit, static_argnames="nearest")
def normals(words: tuple[Array, Array], nearest: Callable[[Array], Array] = jnp.round) -> tuple[Array, Array]:
    """Two independent standard normals f32[...] of two words, |value| < 5.8. Reference: Box and Muller (1958)."""
    radius = jnp.sqrt(-2.0 * log(uniform(words[0])))
    turn = uniform(words[1])
    return radius * sine_turns(turn + 0.25, nearest), radius * sine_turns(turn, nearest)


@jax.jit
def gumbel(word: Array) -> Array:
    """Standard Gumbel f32[...] of one word, by inversion."""
    return -log(-log(uniform(word)))


def index_permutation(key: Array, i: ArrayLike, n: ArrayLike) -> Array:
    """Keyed bijection of [0, n): a six-round Feistel network with cycle walking.

    The network permutes the smallest even number of bits that holds ``n``; a value outside [0, n) goes through it again until it
    falls inside, which it must, since the cycle it walks contains the index it started from.

    Args:
        key: u32[..., 2].
        i: i32/u32[...], indices in [0, n); others return unspecified values inside [0, n).
        n: i32/u32[...], size of the domain, 1…2^31.

    Returns:
        i32[...], a permutation of [0, n) as ``i`` runs through it.

    Reference:
        Black and Rogaway, "Ciphers with arbitrary finite domains", CT-RSA 2002 (cycle walking).
    """
    return _permute(key, i, n, False)


def inverse_permutation(key: Array, i: ArrayLike, n: ArrayLike) -> Array:
    """The index whose image is ``i``, i32[...]: `index_permutation` backwards, along the same cycles. Arguments as there."""
    return _permute(key, i, n, True)


def _permute(key: Array, i: ArrayLike, n: ArrayLike, backwards: bool) -> Array:
    """`walk_cycles` of what broadcasts, as one kernel on GPUs."""
    n = jnp.maximum(jnp.asarray(n).astype(jnp.uint32), 1)
    i = jnp.minimum(jnp.asarray(i).astype(jnp.uint32), n - 1)

    def on_chip(*args: Array) -> Array:
        from jaxrel import onchip  # where there is a GPU

        return onchip.walk_on_chip(*args, backwards=backwards)

    def by_operators(*args: Array) -> Array:
        return walk_cycles(*args, backwards=backwards)

    return by_platform(on_chip, by_operators, *_spread(key[..., 0], key[..., 1], i, n, half_bits(n))).astype(jnp.int32)


def walk_cycles(
    k0: Array, k1: Array, i: Array, n: Array, half: Array, *, backwards: bool, every: Callable[[Array], Array] = jnp.all
) -> Array:
    """The Feistel network of `index_permutation`, or its inverse: the same rounds from the last to the first, sides exchanged.

    Args:
        k0: u32[...], the keys' first words.
        k1: u32[...], their second.
        i: u32[...], below n.
        n: u32[...], 1 at least.
        half: u32[...], `half_bits` of n.
        backwards: static.
        every: whether all of bool[...] hold.

    Returns:
        u32[...] below n.
    """
    mask = (jnp.uint32(1) << half) - 1

    def through(x: Array) -> Array:
        def swap(r: int, sides: tuple[Array, Array]) -> tuple[Array, Array]:
            left, right = sides
            number = jnp.asarray(5 - r if backwards else r, jnp.uint32)
            word, _ = _threefry2x32(k0, k1, right, number)
            return right, (left ^ word) & mask

        high, low = x >> half, x & mask
        left, right = jax.lax.fori_loop(0, 6, swap, (low, high) if backwards else (high, low))
        return (right << half) | left if backwards else (left << half) | right

    # a first round for all, then again for those outside; on one bit of width 0 everything maps to 0
    def walk(state: tuple[Array, Array]) -> tuple[Array, Array]:
        x, inside = state
        x = jnp.where(inside, x, through(x))
        return x, x < n

    return jax.lax.while_loop(lambda s: ~every(s[1]), walk, (i, half == 0))[0]
