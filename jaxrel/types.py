"""The data model: frozen pytrees of padded numbers. Counts are the truth, masks are derived.

Alphabet of the shape comments: ``T`` tables, ``K`` foreign keys of a table, ``C`` feature columns of a table, ``N`` nodes of a table,
``E`` edges of the database, ``R`` rows of all tables together, ``W`` latent width, ``H`` hidden units, ``L`` layers, ``B`` databases.
"""

from __future__ import annotations

import dataclasses
import enum

import jax.numpy as jnp
import numpy as np
from jax import Array

from jaxrel import struct

__all__ = [
    "AGGREGATES",
    "ALL_LANES",
    "BURSTS",
    "CODE_LANE",
    "CLUSTERS",
    "DEEPEST",
    "DEGREES",
    "EXPORTS",
    "HOURS",
    "HUGE",
    "KNOTS",
    "LEVELS",
    "FIRST_DAY",
    "LAST_DAY",
    "NO_CUT",
    "NO_ROW",
    "NO_TABLE",
    "NO_COLUMN",
    "NO_TIME",
    "MAX_FOREIGN_KEYS",
    "SCM",
    "TILE",
    "Aggregate",
    "Capacity",
    "Combine",
    "Database",
    "Form",
    "INTERVENTIONS",
    "Interventions",
    "Kind",
    "LabelOrder",
    "LinkLaw",
    "Links",
    "NodeKind",
    "Popularity",
    "SCORES",
    "STRENGTH",
    "SLICES",
    "Schema",
    "row_offsets",
    "no_interventions",
    "tiles_of",
]

NO_TABLE = -1  # no parent table: an unused foreign-key slot
ALL_LANES = -1  # an edge reads its parent's whole latent vector
CODE_LANE = -2  # an edge reads the code of its categorical parent
NO_ROW = -1  # no parent row: a null foreign key, or padding
NO_COLUMN = -1  # no column: of a task without one, a token that is padding, a context in which nothing is masked
NO_TIME = 2**31 - 1  # a row of a timed table whose time is not known (real data): it comes last
NO_CUT = -1  # a column that is not cut into classes
FIRST_DAY, LAST_DAY = -24837, 24836  # 1902-01-01 … 2037-12-31 in days since 1970: what relational transformers can hold
TILE = 1024  # rows computed at once; part of the reproducibility contract (another tile shape may change float bits)
LEVELS = 5  # most levels of a hierarchical stochastic block model
CLUSTERS = 3  # most clusters of one level
AGGREGATES = 2  # most aggregate nodes of a table
INTERVENTIONS = 8  # most interventions on one database at a time
HUGE = 2**21  # rows of all tables; where there are more, no table sums up its children, so that any rows can be computed in passing
EXPORTS = 3  # most nodes of a table whose lanes outlive their tile, for other tables to gather
KNOTS = 17  # knots of an exogenous node's quantile map, over normal scores -4…4
SCORES = tuple(-2.25 + 0.25 * k for k in range(19))  # normal scores at which a column keeps the quantiles of its lane
STRENGTH = 4096  # unit of a rank correlation between the two ends of a link
DEEPEST = 6  # units compete in groups of at most 2^DEEPEST
DEGREES = 128  # buckets of children that a degree law tells apart
SLICES = 256  # equal slices of a table's span: some months of the longest, hours of the shortest
HOURS = 168  # of a week
BURSTS = 4  # most bursts of a table's intensity
MAX_FOREIGN_KEYS = 5  # what a relational transformer accepts a table to have


class Kind(enum.IntEnum):
    """What a feature column holds. Categorical and boolean values are codes; all others observe a real lane."""

    NUMERIC = 0
    INTEGER = 1
    CATEGORICAL = 2
    BOOLEAN = 3
    TIMESTAMP = 4
    DATE = 5
    TEXT = 6
    UUID = 7


class LinkLaw(enum.IntEnum):
    """How the parent rows of one foreign key are drawn."""

    CLUSTER = 0  # hierarchical stochastic block model; uniform links are its one-cluster case
    SLOT = 1  # unique keys, unique sets of keys, limits to a parent's children: child rows take distinct slots
    TREE = 2  # self-reference: the parent is a smaller row of the same table
    DEGREE = 3  # every parent row draws how many children it gets
    TRAIT = 4  # latent homophily: a parent whose trait is like the child's


class Popularity(enum.IntEnum):
    """How likely the rows of one cluster are, against each other, to be linked to."""

    EQUAL = 0
    PARETO = 1  # tail index 2.5
    ZIPF = 2  # one over the rank
    LOGNORMAL = 3  # sigma 1


class NodeKind(enum.IntEnum):
    """Where a node of a table's SCM takes its value from."""

    EXOGENOUS = 0
    GATHER = 1  # a parent row's exported node, through a foreign key
    MECHANISM = 2
    AGGREGATE = 3  # over the child rows that refer to a row


class Aggregate(enum.IntEnum):
    """How an aggregate node sums up the rows that refer to a row."""

    COUNT = 0
    SUM = 1
    MEAN = 2
    MIN = 3
    MAX = 4
    LAST = 5  # of the child with the highest row id


class Form(enum.IntEnum):
    """How the first layer's weights of an edge are tied."""

    DENSE = 0
    TREE = 1  # groups of 2^depth units: an oblivious decision tree each
    CELLS = 2  # groups of 2^depth prototypes
    PAIRS = 3  # two units make a product of two projections
    LOOKUP = 4  # one unit for each code of a categorical parent


class Combine(enum.IntEnum):
    """How a mechanism node combines what its edges bring."""

    SUM = 0
    PRODUCT = 1
    MAX = 2
    LOGSUMEXP = 3


class LabelOrder(enum.IntEnum):
    """How the codes of a binned column follow its lane."""

    ASCENDING = 0
    DESCENDING = 1
    PERMUTED = 2


@dataclasses.dataclass(frozen=True)
class Capacity:
    """The static sizes that arrays are padded to. Hashable; the only static argument.

    Attributes:
        tables: T.
        foreign_keys: K, keys of one table.
        columns: C, feature columns of one table.
        rows: R, rows of all tables together, each table rounded up by `tiles_of`; a multiple of `TILE`.
        nodes: N, nodes of one table's SCM.
        edges: E, edges of all tables together.
        width: W, lanes of a node.
        hidden: H, units of an edge's hidden layer.
        layers: L, hidden layers of an edge.
        classes: categories of one node (binned columns may have more).
    """

    tables: int
    foreign_keys: int
    columns: int
    rows: int
    nodes: int
    edges: int
    width: int
    hidden: int
    layers: int
    classes: int

    def __post_init__(self) -> None:
        for field in dataclasses.fields(self):
            value = getattr(self, field.name)
            if isinstance(value, bool) or not isinstance(value, int) or value < 1:
                raise ValueError(f"capacity.{field.name}: expected an integer of at least 1, got {value!r}")
        if self.rows % TILE:
            raise ValueError(f"capacity.rows: {self.rows} is not a multiple of the tile of {TILE} rows; use {tiles_of(self.rows) * TILE}")

    @property
    def tiles(self) -> int:
        """Tiles of the row axis."""
        return self.rows // TILE


def tiles_of(rows):
    """Tiles that hold ``rows`` rows; int or i32[...]."""
    return (rows + (TILE - 1)) // TILE


@struct.dataclass
class Schema:
    """Tables, kinds and keys. Tables are numbered in topological order (parents first), referenced tables before all others.

    The rows of all tables lie end to end on one axis; a table starts on a tile boundary. A table of more than one tile leaves one
    tile of padding *before* its rows, where the kernel computes the table's pilot.
    """

    key: Array  # u32[2], times and nulls
    table_count: Array  # i32[]
    table_id: Array  # u32[T], the name of the table's streams
    row_count: Array  # i32[T]
    row_offset: Array  # i32[T], first row of the table on the row axis
    is_activity: Array  # bool[T], referenced by no other table
    has_time: Array  # bool[T]
    time_start: Array  # i32[T], seconds since 1970-01-01 UTC
    time_span: Array  # i32[T], seconds
    time_founders: Array  # i32[T], rows that exist at the table's start
    time_curve: Array  # u32[T, SLICES], intensity before each slice of the span, in 2^-32 of the whole
    time_week: Array  # i32[T, HOURS], intensity before each hour of a week that starts on Thursday, in seconds of an even week
    column_count: Array  # i32[T]
    column_id: Array  # u32[T, C], the name of the column's streams
    column_kind: Array  # i32[T, C], Kind
    column_classes: Array  # i32[T, C], categories of a categorical or boolean column, else 0
    column_null: Array  # u32[T, C], share of missing values, in 2^-24
    column_binned: Array  # bool[T, C], its categories are a real lane cut into classes
    fk_parent: Array  # i32[T, K], parent table or NO_TABLE; used slots come first
    fk_id: Array  # u32[T, K], the name of the key's streams
    fk_null: Array  # u32[T, K], share of null keys, in 2^-24
    fk_law: Array  # i32[T, K], LinkLaw
    fk_owner: Array  # i32[T, K], slot law: the first key of the unique set that this key belongs to (itself where it stands alone)
    fk_capacity: Array  # i32[T, K], slot law: most children of one parent row; 0: as many as the set leaves
    fits: Array  # bool[], nothing had to be clipped to the capacity

    @property
    def fk_count(self) -> Array:
        """i32[T]: foreign keys of each table."""
        return jnp.sum(self.fk_parent != NO_TABLE, axis=-1, dtype=jnp.int32)


@struct.dataclass
class Links:
    """The parent row of each child row, for every foreign key, and the laws they were drawn from."""

    key: Array  # u32[2]
    parent_row: Array  # i32[K, R], row inside the parent table, or NO_ROW
    levels: Array  # i32[T, K], levels of the block model (0: uniform)
    parent_clusters: Array  # i32[T, K, LEVELS], clusters of each level on the parent's side
    child_clusters: Array  # i32[T, K, LEVELS], on the child's side
    affinity: Array  # u32[T, K, LEVELS, CLUSTERS, CLUSTERS], [parent's cluster, child's cluster], in 2^-32
    popularity: Array  # i32[T, K], Popularity
    inactive: Array  # u32[T, K], share of parents that no child links to, in 2^-24
    roots: Array  # u32[T, K], tree law: share of rows without a parent, in 2^-24
    agree: Array  # i32[T, K], cluster law: the key whose cluster path this one follows (itself where it is independent)
    strength: Array  # i32[T, K], trait law: rank correlation of the child's and the parent's trait, in 1/STRENGTH
    degree: Array  # i32[T, K], degree law: its family, index into `jaxrel.registry.DEGREES`
    degree_ends: Array  # u32[T, K, DEGREES - 1], degree law: P(degree below the end of each bucket of `jaxrel.degrees`), in 2^-32
    delay: Array  # i32[T, K], timed parents: mean of the least age of a row's parent in seconds
    window: Array  # u32[T, K], timed parents: the latest share of the old enough ones that is chosen from, in 2^-24


@struct.dataclass
class SCM:
    """The structural causal model of every table: nodes, edges in CSR order, what columns observe, and the calibration.

    Weight matrices are pure functions of an edge's key and are drawn in the kernel; they are not stored.
    """

    key: Array  # u32[2], weights and prototypes
    node_count: Array  # i32[T]
    node_kind: Array  # i32[T, N], NodeKind, in an order in which parents come before children
    node_used: Array  # bool[T, N], a column, or another table, shows something of it; others are computed where they are asked for only
    node_width: Array  # i32[T, N], lanes in use
    node_classes: Array  # i32[T, N], categories of a categorical node, 0 for a real one
    node_combine: Array  # i32[T, N], Combine
    node_noise: Array  # f32[T, N], standard deviation of the noise, in units of the signal
    node_law: Array  # i32[T, N], its law: index into `jaxrel.registry.NOISES`
    node_spread: Array  # f32[T, N], how its logarithm grows with the signal (0: the same noise everywhere)
    gather_fk: Array  # i32[T, N], gather nodes: through which foreign key
    gather_export: Array  # i32[T, N], gather nodes: which export of the parent table
    export_node: Array  # i32[T, EXPORTS], exported nodes of each table, all before pass2_start
    pass2_start: Array  # i32[T], first node that needs aggregates: node pass2_start + a is aggregate a; node_count where there are none
    aggregate_table: Array  # i32[T, AGGREGATES], child table, or NO_TABLE
    aggregate_fk: Array  # i32[T, AGGREGATES], its key that leads here
    aggregate_export: Array  # i32[T, AGGREGATES], which export of it
    aggregate_law: Array  # i32[T, AGGREGATES], Aggregate
    aggregate_decay: Array  # f32[T, AGGREGATES], e-foldings by which the first child row weighs less than the last; 0: all alike
    series_trend: Array  # f32[T, N], amplitude of the trend
    series_power: Array  # f32[T, N], its power law
    series_cycle: Array  # f32[T, N], amplitude of the cycle
    series_period: Array  # u32[T, N], length of a cycle as a share of the table's span or rows, in 2^-24
    series_phase: Array  # u32[T, N], phase at the start, in 2^-32 cycles
    series_noise: Array  # f32[T, N], amplitude of the noise
    series_rho: Array  # f32[T, N], its autoregression
    series_calendar: Array  # i32[T, N], timed tables: a cycle of so many seconds of the calendar instead; 0: none
    noise_knots: Array  # f32[T, N, KNOTS], what a normal score of -4…4 becomes
    edge_start: Array  # i32[T, N + 1], CSR: edges of node n are edge_start[n]…edge_start[n + 1]
    edge_parent: Array  # i32[E], node of the same table
    edge_family: Array  # i32[E], for people: the kernel reads the parameters below only
    edge_key: Array  # u32[E, 2]
    edge_scale: Array  # f32[E], weight of what the edge brings
    edge_gain: Array  # f32[E], scale of the first layer's weights
    edge_bias: Array  # f32[E], scale of its biases
    edge_density: Array  # u32[E], share of the weights that are kept, in 2^-24
    edge_hidden: Array  # i32[E], hidden units in use
    edge_lane: Array  # i32[E], the one lane of the parent that is read, or ALL_LANES, or CODE_LANE
    edge_width: Array  # i32[E], lanes of the parent that are read
    edge_layers: Array  # i32[E], hidden layers in use; 0: the parent's lanes as they are, times the scale
    edge_form: Array  # i32[E], Form
    edge_depth: Array  # i32[E], units compete in groups of 2^depth; 0: they do not
    edge_activation: Array  # i32[E, L], row of the activation table
    column_node: Array  # i32[T, C]
    column_lane: Array  # i32[T, C]
    column_marginal: Array  # i32[T, C], index into `jaxrel.registry.MARGINALS`
    column_shape: Array  # f32[T, C], its parameter
    column_offset: Array  # f32[T, C], a real column is offset + scale * marginal(lane)
    column_scale: Array  # f32[T, C]
    column_driver: Array  # i32[T, C], the column whose rank makes values missing; -1: none does
    trait_table: Array  # i32[T, N], exogenous nodes that show a trait of a link: the child table of its key (NO_TABLE: they show none)
    trait_fk: Array  # i32[T, N], and which key of that table; the node's own table is either end of it
    column_cut: Array  # i32[T, C], index into `jaxrel.registry.CUTS`, its parameter in column_shape; or NO_CUT
    column_order: Array  # i32[T, C], LabelOrder of a cut column
    node_shift: Array  # f32[T, N, W], calibration: mean of the signal over the pilot
    node_scale: Array  # f32[T, N, W], calibration: one over its standard deviation
    column_knots: Array  # f32[T, C, SCORES], calibration of columns that go by ranks: quantiles of the lane over the pilot
    calibrated: Array  # bool[], the three above are measured
    fits: Array  # bool[]


@struct.dataclass
class Interventions:
    """What is done to nodes, one entry each: ``value ← scale · value + shift``, after noise, before anything reads it (Pearl's do)."""

    table: Array  # i32[INTERVENTIONS], NO_TABLE: nothing is done
    node: Array  # i32[INTERVENTIONS]
    lane: Array  # i32[INTERVENTIONS], ALL_LANES, or CODE_LANE: the code of a categorical node, whose lanes follow
    scale: Array  # f32[INTERVENTIONS], 0: the value is set
    shift: Array  # f32[INTERVENTIONS]
    first_row: Array  # i32[INTERVENTIONS], rows first_row … past_row - 1 of the table
    past_row: Array  # i32[INTERVENTIONS]


def no_interventions() -> Interventions:
    """The empty `Interventions`."""
    none, zero, real = (jnp.full(INTERVENTIONS, x) for x in (jnp.int32(NO_TABLE), jnp.int32(0), jnp.float32(0)))
    return Interventions(table=none, node=zero, lane=zero, scale=real, shift=real, first_row=zero, past_row=zero)


@struct.dataclass
class Database:
    """A relational database as arrays. Rows past a table's count are padding: values 0, keys NO_ROW, missing True."""

    schema: Schema
    links: Links
    scm: SCM | None  # None for real data
    values: Array  # f32[C, R], categories as codes
    missing: Array  # bool[C, R]
    time: Array  # i32[R], seconds since 1970-01-01 UTC; 0 where the table has no time, NO_TIME where a row has none
    aggregates: Array | None  # f32[AGGREGATES, W, R], what aggregate nodes say of each row's children; None for real data
    fits: Array  # bool[], False: something was clipped to the capacity and the database is not the prior's


def row_offsets(row_count: Array) -> tuple[Array, Array]:
    """Lay tables end to end on the row axis.

    Args:
        row_count: i32[T], 0 for tables that are padding.

    Returns:
        First row of each table, i32[T], and the tiles used by all, i32[].
    """
    tiles = tiles_of(row_count)
    used = tiles + (tiles > 1).astype(tiles.dtype)  # one pilot tile before the rows of a table of several tiles
    end = jnp.cumsum(used, axis=-1, dtype=jnp.int32)
    return (end - tiles) * TILE, end[..., -1]


def row_offsets_host(row_count: np.ndarray) -> tuple[np.ndarray, int]:
    """`row_offsets` on the host, of concrete i32[T], counted in Python integers so that nothing overflows."""
    offsets, tile = [], 0
    for rows in row_count.tolist():
        tiles = tiles_of(rows)
        tile += int(tiles > 1)
        offsets.append(tile * TILE)
        tile += tiles
    return np.asarray(offsets), tile
