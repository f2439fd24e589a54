"""Presets and priors on the host: what loads, what is refused, and how the refusal names its field."""

from __future__ import annotations

import dataclasses
import tomllib
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from sampled import keys, stages

import jaxrel
from jaxrel import presets
from jaxrel.families import FAMILIES
from jaxrel.prior import Range, Weights, capacity_for, check, read_prior
from jaxrel.types import Capacity, tiles_of


def mapping(name: str = "tiny") -> dict[str, Any]:
    """A preset's TOML as nested mappings."""
    return tomllib.loads(presets.path(name).read_text(encoding="utf-8"))


def test_the_presets_are_there() -> None:
    assert {"tiny", "default", "plurel", "hoppe"} <= set(presets.names())
    with pytest.raises(ValueError, match="preset 'tny' is unknown; known presets are .*tiny"):
        presets.load("tny")


def test_every_preset_loads_with_a_small_version(preset: Any) -> None:
    small = preset.small or preset
    assert small.capacity.tables <= 4 and small.capacity.rows <= 4096
    for section in ("links", "layouts", "scm"):  # the same families
        for a, b in zip(*(jax.tree.leaves(getattr(p.prior, section)) for p in (preset, small)), strict=True):
            np.testing.assert_array_equal(a, b)
    check(preset.prior, preset.capacity)


def test_a_prior_mirrors_its_toml_field_by_field(preset_name: str, preset: Any) -> None:
    data = mapping(preset_name)
    for section in ("layouts", "schema", "links", "scm"):
        prior = getattr(preset.prior, section)
        default = {f.name: f.metadata["spec"].default for f in dataclasses.fields(prior)}
        assert set(data[section]) <= set(default)
        assert {name: float(getattr(prior, name)) for name in set(default) - set(data[section])} == {
            name: value for name, value in default.items() if value is not None and name not in data[section]
        }
        for name, written in data[section].items():
            value = getattr(prior, name)
            if isinstance(value, Range):
                written = written if isinstance(written, dict) else {"low": written, "high": written}
                for end in ("low", "high", "power"):
                    assert float(getattr(value, end)) == pytest.approx(written.get(end, 0)), (section, name)
            elif isinstance(value, Weights):
                assert np.asarray(value.weight).sum() == pytest.approx(sum(written.values())), (section, name)
            else:
                assert float(value) == pytest.approx(written), (section, name)
    weight = dict(zip(FAMILIES, np.asarray(preset.prior.scm.families.weight).tolist(), strict=True))
    assert {k: v for k, v in weight.items() if v} == pytest.approx(data["scm"]["families"])
    assert dataclasses.asdict(preset.capacity) == data["capacity"]


# section, field, what is written there (None: nothing), and what the sentence holds
BROKEN = [
    ("schema", "tabels", 3, r"schema\.tabels: unknown key"),
    ("schema", "tables", None, r"schema\.tables: missing key"),
    ("schema", "tables", {"low": 4, "high": 2}, r"schema\.tables: low = 4 is above high = 2"),
    ("schema", "tables", {"low": 2}, r"schema\.tables\.high: missing key"),
    ("schema", "tables", {"low": 2, "high": 3, "pwer": 1}, r"schema\.tables\.pwer: unknown key"),
    ("schema", "tables", {"low": 1.5, "high": 3}, r"schema\.tables\.low: expected an integer"),
    ("schema", "tables", {"low": 0, "high": 3}, r"schema\.tables\.low: 0 lies outside"),
    ("schema", "tables", {"low": 2, "high": 3, "power": 0.3}, r"schema\.tables\.power: 0\.3 is not a multiple of 0\.5"),
    ("schema", "tables", "many", r"schema\.tables\.low: expected an integer, got 'many'"),
    ("schema", "tables", {"low": 2, "high": 9}, r"capacity\.tables: the prior can need 9, but the capacity is 4"),
    ("schema", "columns", {"low": 3, "high": 60}, r"capacity\.columns: the prior can need 60"),
    ("schema", "activity_rows", {"low": 3, "high": 60_000}, r"capacity\.rows: the prior can need"),
    ("schema", "classes", {"low": 2, "high": 50}, r"capacity\.classes: the prior can need 50"),
    ("schema", "null_key", {"low": 0.1, "high": 0.3, "power": 1}, r"schema\.null_key\.power: shares are drawn uniformly"),
    ("schema", "null_key", {"low": 0.1, "high": 1.3}, r"schema\.null_key\.high: 1\.3 lies outside"),
    ("schema", "days", {"low": 100, "high": 110}, r"schema\.days: the range holds no span"),
    ("schema", "kinds", {"numric": 1}, r"schema\.kinds\.numric: unknown key; known are numeric"),
    ("schema", "kinds", {"numeric": 0}, r"schema\.kinds: all weights are 0"),
    ("schema", "kinds", {"numeric": -1}, r"schema\.kinds\.numeric: -1 lies outside"),
    ("schema", "self_reference", 1.5, r"schema\.self_reference: 1\.5 lies outside"),
    ("schema", "self_reference", True, r"schema\.self_reference: expected a number, got True"),
    ("schema", "self_reference", float("nan"), r"schema\.self_reference: expected a number"),
    ("links", "levels", 6, r"links\.levels\.low: 6 lies outside the allowed 1…5"),
    ("scm", "gain", {"low": 5.0, "high": 0.5}, r"scm\.gain: low = 5 is above high = 0\.5"),
    ("scm", "bias", {"low": 0.0, "high": 1.0, "power": 1}, r"scm\.bias: low = 0 must be above 0"),
    ("scm", "hidden", {"low": 2, "high": 64}, r"capacity\.hidden: the prior can need 64"),
    ("scm", "depth", {"low": 1, "high": 6}, r"capacity\.hidden: the prior can need 64"),
    ("scm", "width", 9, r"capacity\.width: the prior can need 9"),
    ("scm", "layers", 4, r"capacity\.layers: the prior can need 4"),
    ("scm", "nodes", {"low": 3, "high": 200}, r"capacity\.nodes: the prior can need"),
    ("scm", "families", {"linear": 1, "forest": 1}, r"scm\.families\.forest: unknown key"),
    ("capacity", "edges", 3, r"capacity\.edges: the prior can need"),
    ("capacity", "rows", 1000, r"capacity\.rows: 1000 is not a multiple of the tile"),
    ("capacity", "rows", 0, r"capacity\.rows: expected an integer of at least 1"),
    ("capacity", "tables", True, r"capacity\.tables: expected an integer"),
    ("capacity", "tabels", 3, r"capacity\.tabels: unknown key"),
    ("capacity", "width", None, r"capacity\.width: missing key"),
    ("shcema", None, {}, r"shcema: unknown section"),
    ("links", None, None, r"links: missing section"),
    ("capacity", None, None, r"capacity: missing section"),
    ("links", None, 3, r"links: expected a table"),
]


@pytest.mark.parametrize(("section", "field", "written", "sentence"), BROKEN, ids=[f"{i}-{b[0]}.{b[1]}" for i, b in enumerate(BROKEN)])
def test_what_is_wrong_is_named(section: str, field: str | None, written: Any, sentence: str) -> None:
    data = mapping()
    data.pop("small", None)
    place, name = (data, section) if field is None else (data[section], field)
    if written is None:
        del place[name]
    else:
        place[name] = written
    with pytest.raises(ValueError, match=sentence) as caught:
        presets.parse("mine", data)
    assert "\n" not in str(caught.value)


def test_a_file_is_named_too(tmp_path: Any) -> None:
    file = tmp_path / "mine.toml"
    for text, sentence in (("[schema", "not valid TOML"), ("x = 1", "missing section")):
        file.write_text(text)
        with pytest.raises(ValueError, match=rf"mine\.toml: .*{sentence}"):
            presets.read(file)
    with pytest.raises(ValueError, match=r"none\.toml: cannot be read"):
        presets.read(tmp_path / "none.toml")
    file.write_text(presets.path("tiny").read_text(encoding="utf-8").replace("drop = 0.1", "drop = 0.25", 1))
    changed = presets.read(file)
    assert changed.name == "mine" and float(changed.prior.layouts.sink_drop) == pytest.approx(0.4)
    assert float(changed.prior.layouts.drop) == pytest.approx(0.25)


def test_a_broken_small_section_is_named() -> None:
    data = mapping("default")
    with pytest.raises(ValueError, match=r"small: schema\.tables: low = 5 is above high = 2"):
        presets.parse("mine", data | {"small": {"schema": {"tables": {"low": 5, "high": 2}}}})
    with pytest.raises(ValueError, match=r"small\.shcema: unknown section"):
        presets.parse("mine", data | {"small": {"shcema": {}}})


def test_priors_made_in_code_are_checked_as_well(tiny: Any) -> None:
    schema = tiny.prior.schema
    upside_down = dataclasses.replace(schema, tables=Range(low=jnp.int32(3), high=jnp.int32(2), power=jnp.float32(0)))
    with pytest.raises(ValueError, match=r"schema\.tables: low = 3 is above high = 2"):
        jaxrel.check(dataclasses.replace(tiny.prior, schema=upside_down), tiny.capacity)
    negative = dataclasses.replace(schema, kinds=Weights(weight=jnp.asarray([-1.0, 1, 1, 1, 1])))
    with pytest.raises(ValueError, match=r"schema\.kinds: expected 5 weights of at least 0"):
        jaxrel.check(dataclasses.replace(tiny.prior, schema=negative), tiny.capacity)


def test_one_number_is_a_range_of_one() -> None:
    data = mapping()
    data["schema"]["tables"] = 3
    prior = read_prior({name: data[name] for name in ("layouts", "schema", "links", "scm")})
    assert int(prior.schema.tables.low) == int(prior.schema.tables.high) == 3


def test_the_smallest_capacity_of_a_schema_holds_it(tiny: Any) -> None:
    schema = stages(tiny.capacity)[0](keys(1)[0], tiny.prior)
    least = capacity_for(schema, tiny.prior)
    assert isinstance(least, Capacity)
    assert least.rows >= int(np.sum(tiles_of(np.asarray(schema.row_count)))) * 1024
    for field in dataclasses.fields(Capacity):
        assert getattr(least, field.name) <= getattr(tiny.capacity, field.name), field.name
