"""jaxrel: synthetic relational databases as pure functions of a PRNG key."""

from jaxrel import interventions as interventions
from jaxrel import presets as presets
from jaxrel._version import __version__ as __version__
from jaxrel.children import child_span as child_span
from jaxrel.children import children_until as children_until
from jaxrel.children import index_children as index_children
from jaxrel.contexts import TIME_COLUMN as TIME_COLUMN
from jaxrel.contexts import Cells as Cells
from jaxrel.contexts import Contexts as Contexts
from jaxrel.contexts import Masks as Masks
from jaxrel.contexts import attention_masks as attention_masks
from jaxrel.contexts import sample_cells as sample_cells
from jaxrel.contexts import sample_contexts as sample_contexts
from jaxrel.database import sample_database as sample_database
from jaxrel.episodes import Episode as Episode
from jaxrel.episodes import sample_episode as sample_episode
from jaxrel.features import Features as Features
from jaxrel.features import feature_count as feature_count
from jaxrel.features import feature_names as feature_names
from jaxrel.features import row_features as row_features
from jaxrel.feeding import grain_source as grain_source
from jaxrel.feeding import stream as stream
from jaxrel.feeding import to_torch as to_torch
from jaxrel.fleet import sample_databases as sample_databases
from jaxrel.links import link_rows as link_rows
from jaxrel.links import sample_links as sample_links
from jaxrel.oracle import column_oracle as column_oracle
from jaxrel.prior import Prior as Prior
from jaxrel.prior import Range as Range
from jaxrel.prior import Weights as Weights
from jaxrel.prior import capacity_for as capacity_for
from jaxrel.prior import check as check
from jaxrel.random import STREAM_VERSION as STREAM_VERSION
from jaxrel.schema import sample_schema as sample_schema
from jaxrel.scm import sample_scm as sample_scm
from jaxrel.simulation import explain_rows as explain_rows
from jaxrel.simulation import simulate as simulate
from jaxrel.simulation import simulate_rows as simulate_rows
from jaxrel.tasks import Measure as Measure
from jaxrel.tasks import Split as Split
from jaxrel.tasks import Task as Task
from jaxrel.tasks import TaskKind as TaskKind
from jaxrel.tasks import sample_task as sample_task
from jaxrel.totals import total_children as total_children
from jaxrel.types import NO_COLUMN as NO_COLUMN
from jaxrel.types import SCM as SCM
from jaxrel.types import Capacity as Capacity
from jaxrel.types import Database as Database
from jaxrel.types import Interventions as Interventions
from jaxrel.types import Kind as Kind
from jaxrel.types import Links as Links
from jaxrel.types import Schema as Schema

_HOST = {  # imported when first asked for: the device side needs neither pandas nor pyarrow nor networkx
    "COMPILER_OPTIONS": "jaxrel.programs",
    "Real": "jaxrel.real",
    "from_pandas": "jaxrel.real",
    "from_relbench": "jaxrel.real",
    "generate": "jaxrel.engine",
    "generate_on_ray": "jaxrel.workers",
    "read_sql": "jaxrel.sql",
    "to_arrow": "jaxrel.convert",
    "to_networkx": "jaxrel.convert",
    "to_pandas": "jaxrel.convert",
    "validate": "jaxrel.validate",
    "write_plain": "jaxrel.relbench",
    "write_relbench": "jaxrel.relbench",
    "measure_dependencies": "jaxrel.dependencies",
}


def __getattr__(name: str) -> object:
    if name in _HOST:
        import importlib

        return getattr(importlib.import_module(_HOST[name]), name)
    raise AttributeError(f"module 'jaxrel' has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted([*globals(), *_HOST])
