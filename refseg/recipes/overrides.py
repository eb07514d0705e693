"""`--set train.lr=1e-4`: checked changes to a recipe, in the words of the command line."""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Iterator, Sequence
from contextlib import suppress
from typing import Any, TypeVar

import yaml
from pydantic import BaseModel, TypeAdapter, ValidationError

from refseg.errors import ConfigError

M = TypeVar("M", bound=BaseModel)
Tree = dict[str, Any]

#: Problems of one value or file that are told; more are counted.
MOST = 4


def apply_overrides(recipe: M, settings: Sequence[str]) -> M:
    """`recipe` with each "dotted.key=value" set; the recipe itself is not changed.

    Values are read as YAML (1e-4, true, null, [0.5, 0.9]) or, where that does not fit the field,
    as plain text. All settings are applied before fields that belong together are checked.
    Raises ConfigError: not key=value, unknown key (nearest one offered), key set twice or of a
    whole group, value of the wrong type or out of range.
    """
    tree: Tree = {}
    for setting in settings:
        key, equals, text = setting.partition("=")
        if not equals or not key.strip():
            raise ConfigError(
                f'"{setting}" is no setting', remedy="write key=value, for example train.lr=1e-4"
            )
        _plant(tree, key.strip(), text.strip())
    return _merge(recipe, tree, "", recipe)


def _plant(tree: Tree, key: str, text: str) -> None:
    *path, last = key.split(".")
    for name in path:
        tree = tree.setdefault(name, {})
        if not isinstance(tree, dict):
            raise ConfigError(f'"{key}" and a part of it are both set', remedy="set only one")
    if last in tree:
        raise ConfigError(f'"{key}" is set twice', remedy="set it once")
    tree[last] = text


def _merge(model: M, tree: Tree, prefix: str, root: BaseModel) -> M:
    changes = {name: _changed(model, name, wanted, prefix, root) for name, wanted in tree.items()}
    current = {name: getattr(model, name) for name in type(model).model_fields}
    try:
        return type(model).model_validate({**current, **changes})
    except ValidationError as error:
        keys = ", ".join(f"{prefix}{name}={_told(tree[name])}" for name in tree)
        raise ConfigError(
            f"{keys}: {reasons(error)}", remedy="change the values together"
        ) from None


def _changed(model: BaseModel, name: str, wanted: Any, prefix: str, root: BaseModel) -> Any:
    key = prefix + name
    if name not in type(model).model_fields:
        raise _unknown(key, name, model, prefix, root)
    present = getattr(model, name)
    if isinstance(wanted, dict):
        if not isinstance(present, BaseModel):
            inner = next(iter(wanted))
            raise ConfigError(
                f'"{key}.{inner}" does not exist: {key} is a value ({present!r}), not a group',
                remedy=f"set {key}=... itself",
            )
        return _merge(present, wanted, f"{key}.", root)
    if isinstance(present, BaseModel):
        inside = ", ".join(f"{key}.{n}" for n in type(present).model_fields)
        raise ConfigError(f'"{key}" is a group, not a value', remedy=f"set one of: {inside}")
    return _value(model, name, wanted, key)


def _value(model: BaseModel, name: str, text: str, key: str) -> Any:
    """The text as the field's type. The first reading that the field accepts counts."""
    adapter: TypeAdapter[Any] = TypeAdapter(type(model).model_fields[name].rebuild_annotation())
    problem: ValidationError | None = None
    for reading in _readings(text):
        try:
            return adapter.validate_python(reading)
        except ValidationError as error:
            problem = problem or error
    assert problem is not None
    raise ConfigError(
        f"{key}={text}: {reasons(problem)}",
        remedy=f"now {key}={_yaml(getattr(model, name))}; give a value of that kind",
    )


def _readings(text: str) -> Iterator[Any]:
    with suppress(yaml.YAMLError):
        yield yaml.safe_load(text)
    yield text
    if text.lower() == "none":
        yield None


def _unknown(key: str, name: str, model: BaseModel, prefix: str, root: BaseModel) -> ConfigError:
    valid = [prefix + n for n in type(model).model_fields]
    near = difflib.get_close_matches(name, list(type(model).model_fields), n=1, cutoff=0.6)
    elsewhere = [k for k in leaf_keys(root) if k.rsplit(".", 1)[-1] == name]
    offer = [prefix + n for n in near] or elsewhere[:1]
    if not offer:
        offer = difflib.get_close_matches(key, list(leaf_keys(root)), n=1, cutoff=0.6)
    hint = f'did you mean "{offer[0]}"? ' if offer else ""
    return ConfigError(f'unknown key "{key}"', remedy=f"{hint}valid here: {', '.join(valid)}")


def leaf_keys(model: BaseModel, prefix: str = "") -> Iterable[str]:
    """Every dotted key that can be set."""
    for name in type(model).model_fields:
        value = getattr(model, name)
        if isinstance(value, BaseModel):
            yield from leaf_keys(value, f"{prefix}{name}.")
        else:
            yield prefix + name


def reasons(error: ValidationError, *, places: bool = False) -> str:
    """What pydantic says, in one line without its links: "Input should be a valid number".

    places: say of each problem where it is: "data.name: Input should be a valid string".
    """
    said: dict[str, None] = {}
    for problem in error.errors(include_url=False, include_input=False):
        text = problem["msg"].removeprefix("Value error, ")
        place = ".".join(map(str, problem["loc"])) if places else ""
        said[f"{place}: {text}" if place else text] = None
    more = f"; and {len(said) - MOST} more" if len(said) > MOST else ""
    return " ".join(("; ".join(list(said)[:MOST]) + more).split())


def _told(wanted: Any) -> str:
    return "..." if isinstance(wanted, dict) else str(wanted)


def _yaml(value: Any) -> str:
    plain = TypeAdapter(type(value)).dump_python(value, mode="json")
    text: str = yaml.safe_dump(plain, default_flow_style=True)
    return text.removesuffix("\n").removesuffix("...").strip()
