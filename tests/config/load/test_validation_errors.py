"""That pydantic's words cannot reach anybody: every error the models can raise has words of ours."""

from collections.abc import Iterator
from typing import Any

import pydantic
import pytest

from tcpdconf.config.load import model_paths, validation_errors
from tcpdconf.config.model import dns as dns_model
from tcpdconf.config.model import fields, tables
from tcpdconf.config.model.service import Config, Service, Settings

# what a node of a validator's schema can raise for TOML data, by its type and by its constraints
RAISED = {
    "str": {"string_type"}, "int": {"int_type"}, "bool": {"bool_type"},
    "dict": {"dict_type"}, "tuple": {"tuple_type"}, "model": {"model_type"}, "literal": {"literal_error"},
    "model-fields": {"extra_forbidden"}, "model-field": set(), "nullable": set(), "default": set(),
    "tagged-union": set(), "definition-ref": set(), "definitions": set(), "any": set(),
    "function-after": set(), "function-before": set(), "function-plain": set(),
    "no-info": set(),
    # serializers raise nothing when data come in
    "function-plain-ser": set(), "format-ser": set(), "to-string-ser": set(), "union": set(), "none": set(),
}  # fmt: skip
CONSTRAINTS = {
    ("int", "ge"): "greater_than_equal",
    ("int", "le"): "less_than_equal",
    ("int", "gt"): "greater_than",
    ("float", "ge"): "greater_than_equal",
    ("float", "le"): "less_than_equal",
    ("float", "gt"): "greater_than",
    ("float", "allow_inf_nan"): "finite_number",
    ("str", "min_length"): "string_too_short",
    ("tuple", "min_length"): "too_short",
}
HARMLESS = {
    "strict", "type", "ref", "metadata", "serialization", "custom_error", "items_schema",
    "variadic_item_index",
}  # fmt: skip


def nodes(schema: object) -> Iterator[dict[str, Any]]:
    if isinstance(schema, dict):
        if isinstance(schema.get("type"), str):
            yield schema
        for key, value in schema.items():
            if key != "serialization":
                yield from nodes(value)
    elif isinstance(schema, list | tuple):
        for value in schema:
            yield from nodes(value)


def every_node() -> list[dict[str, Any]]:
    return [
        node
        for top in (Settings, Service, Config, tables.AccessFile)
        for node in nodes(top.__pydantic_core_schema__)
    ]


def test_every_error_that_the_models_can_raise_has_words() -> None:
    found = every_node()
    raised = {error for node in found for error in RAISED[node["type"]]}
    raised |= {
        CONSTRAINTS[node["type"], key] for node in found for key in node if (node["type"], key) in CONSTRAINTS
    }
    if any(node["type"] == "model-field" for node in found):
        raised.add("missing")

    assert raised - validation_errors.KNOWN == set()
    assert len(found) > 200


def test_no_constraint_is_unknown_to_the_test_above() -> None:
    keys = {
        (node["type"], key)
        for node in every_node()
        if node["type"] in {"str", "int", "float", "tuple"}
        for key in node.keys() - HARMLESS
    }

    assert keys - CONSTRAINTS.keys() == set()


def test_every_union_tag_is_known_as_no_key() -> None:
    tags = {tag for node in every_node() if node["type"] == "tagged-union" for tag in node["choices"]}

    assert tags == fields.TAGS


def test_every_required_key_has_an_example() -> None:
    missing = [
        f"{found.__name__}.{name}"
        for found in {**vars(tables), **vars(dns_model)}.values()
        if isinstance(found, type) and issubclass(found, pydantic.BaseModel)
        for name, field in found.model_fields.items()
        if field.is_required() and model_paths.example(found, (name,)) is None
    ]

    assert missing == []
    assert model_paths.example(Settings, ("services", "x", "program"))
    assert model_paths.example(Settings, ("services", "x", "listeners"))


@pytest.mark.parametrize(
    ("key", "hint"),
    [
        (("servcies",), "did you mean services?"),
        (("services", "x", "listener"), "did you mean listeners?"),
        (("services", "x", "max_per_ip"), "belongs to [services.x.limits]"),
        (("services", "x", "port"), "belongs to [[services.x.listeners]]"),
        (("services", "x", "limits", "program"), "belongs to [services.x]"),
        (("services", "x", "listeners", 0, "timeout"), "belongs to [services.x.listeners.haproxy]"),
        (("services", "x", "listeners", 0, "max_per_ip"), "belongs to [services.x.limits]"),
        (("services", "x", "access", 1, "network"), "belongs to [[services.x.access.rules]]"),
        (("services", "x", "rlimits", "as_"), "did you mean as?"),
        (("program",), "belongs to [services.NAME] or [defaults]"),
        (("dns", "settle"), "belongs to [daemon]"),
        (("dns", "log_level"), "belongs to [services.NAME], [defaults] or [daemon]"),
        (("daemon", "services"), "belongs to the top of the file"),
        (
            ("dns", "colour"),
            "known keys: servers, timeout, attempts, rotate, cache_entries, min_ttl, max_ttl",
        ),
        (("services", "x", "stderr", "colour"), "known keys: file, logger, name"),
    ],
)
def test_an_unknown_key_gets_a_suggestion(key: tuple[str | int, ...], hint: str) -> None:
    data: Any = 1
    for part in reversed(key):
        data = {part: data} if isinstance(part, str) else [{}] * part + [data]
    with pytest.raises(pydantic.ValidationError) as error:
        Settings.model_validate(data, by_alias=True, by_name=False)

    found = {item.key: item for item in validation_errors.findings(error.value, data, Settings)}

    assert (found[key].text, found[key].hint) == ("unknown key", hint)
