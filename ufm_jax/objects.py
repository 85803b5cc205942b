"""Objects by name: `module:Name` or `file.py:Name` with parameters, as manifests hold and workers find them.

Without JAX, and on the ground floor: losses and landscapes of the user's are named so on the command line.
"""

import ast
import dataclasses
import hashlib
import importlib
import importlib.util
import inspect
import sys
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Any


@dataclass(frozen=True)
class Spec:
    """What makes an object: the name of its class (or function), parameters, and a hash of the source file.

    `name` is `module:Name`, or `file.py:Name` with an absolute path. `source` is None where the version of
    this package says enough.
    """

    name: str
    settings: tuple[tuple[str, Any], ...] = ()
    source: str | None = None


def spec(what: str, name: str, settings: Mapping[str, Any] | None = None) -> Spec:
    """Return the specification of a named object; nothing is imported.

    Raises:
        ValueError: naming `what`, the argument, if the name is not of the two kinds or there is no such file
            or module; naming a setting that JSON cannot hold.
    """
    where, _, inside = name.rpartition(":")
    if not (where and inside):
        raise ValueError(f"{what}: need module:Name or file.py:Name, got {name!r}")
    given = held(settings or {})
    if where.endswith(".py"):
        path = Path(where).expanduser().absolute()
        return Spec(f"{path}:{inside}", given, _digest(what, path))
    return Spec(name, given, None if where.split(".")[0] == _OWN else _digest(what, _file_of(what, where)))


def make(what: str, spec: Spec) -> Any:
    """Import and build the object.

    Raises:
        ValueError: naming `what`, if the source is another than the specification's, is not found or raises,
            if it has no such name; naming a setting that it does not take.
    """
    where, _, inside = spec.name.rpartition(":")
    if spec.source is not None:
        path = Path(where) if where.endswith(".py") else _file_of(what, where)
        if _digest(what, path) != spec.source:
            raise ValueError(
                f"{what}: {path} is not what it was when this run was begun; its rows would differ"
            )
    module = _imported(what, where)
    found: Any = module
    for part in inside.split("."):
        if not hasattr(found, part):
            raise ValueError(f"{what}: {where} has no {inside}")
        found = getattr(found, part)
    settings = dict(spec.settings)
    if not callable(found):
        if settings:
            raise ValueError(f"{what}: {spec.name} takes no parameters, got {', '.join(settings)}")
        return found
    _check_settings(spec.name, inside, found, settings)
    try:
        return found(**settings)
    except ValueError:
        raise
    except Exception as error:  # the user's code may raise anything
        raise ValueError(f"{what}: {spec.name} raised {said(error)}") from error


def _check_settings(name: str, inside: str, made: Callable[..., Any], settings: Mapping[str, Any]) -> None:
    """Refuse a setting that there is no parameter for, and to do without one that has no default."""
    try:
        takes = inspect.signature(made).parameters
    except (TypeError, ValueError):  # it does not say
        return
    kinds = inspect.Parameter
    named = {n: p for n, p in takes.items() if p.kind in (kinds.POSITIONAL_OR_KEYWORD, kinds.KEYWORD_ONLY)}
    anything = any(p.kind == kinds.VAR_KEYWORD for p in takes.values())
    for given in settings:
        if given not in named and not anything:
            has = f"has {', '.join(named)}" if named else "has none (as fields of a dataclass)"
            raise ValueError(f"{given}: {inside} has no such parameter; it {has}")
    for needed, parameter in named.items():
        if parameter.default is kinds.empty and needed not in settings:
            raise ValueError(f"{needed}: {name} needs it")


def spec_of(what: str, made: Any) -> Spec:
    """Return the specification of an instance of a dataclass: its class and what is not at its default.

    Raises:
        ValueError: naming `what`, if another process could not find the class; naming a parameter that JSON
            cannot hold.
    """
    changed = {
        field.name: getattr(made, field.name)
        for field in dataclasses.fields(made)
        if field.init and getattr(made, field.name) != field.default
    }
    return spec_of_class(what, type(made), changed)


def spec_of_class(what: str, kind: type, settings: Mapping[str, Any]) -> Spec:
    """Return the specification of an instance of a class with these parameters.

    Raises:
        ValueError: as `spec_of`.
    """
    if "<locals>" in kind.__qualname__:
        raise ValueError(
            f"{what}: a folder must say how to make {kind.__name__} again, and it is defined inside a "
            f"function; define it at the top of a file"
        )
    module = sys.modules[kind.__module__]
    file = getattr(module, "__file__", None)
    if kind.__module__ == "__main__" or kind.__module__.startswith(_LOADED):
        if file is None or not file.endswith(".py"):
            raise ValueError(
                f"{what}: a folder must say how to make {kind.__name__} again, and it is defined in an "
                f"interactive session; define it in a file"
            )
        return spec(what, f"{file}:{kind.__qualname__}", settings)
    return spec(what, f"{kind.__module__}:{kind.__qualname__}", settings)


def parsed(what: str, assigned: Iterable[str]) -> dict[str, Any]:
    """Return settings from `name=value`: numbers, tuples as 1,1,2, true, false, none; else the text itself.

    Raises:
        ValueError: naming `what`, for a text without a name or a name given twice.
    """
    settings: dict[str, Any] = {}
    for text in assigned:
        name, equals, value = text.partition("=")
        if not (equals and name.isidentifier()):
            raise ValueError(f"{what}: need name=value, got {text!r}")
        if name in settings:
            raise ValueError(f"{what}: {name} is given twice")
        settings[name] = _literal(value)
    return settings


def held(settings: Mapping[str, Any]) -> tuple[tuple[str, Any], ...]:
    """Return settings as a specification holds them.

    Raises:
        ValueError: naming a setting that JSON cannot hold.
    """
    return tuple(sorted((name, _held(name, value)) for name, value in settings.items()))


def assignments(settings: Iterable[tuple[str, Any]]) -> list[str]:
    """Return settings as `parsed` reads them."""
    return [f"{name}={_text(value)}" for name, value in settings]


def said(error: Exception) -> str:
    """Return what an exception of the user's code says, in one line."""
    return f"{type(error).__name__}: {(str(error).splitlines() or [''])[0]}"


_OWN = __name__.split(".")[0]
_LOADED = "_ufm_file_"  # how the modules of loaded files are called
_WORDS = {"true": True, "false": False, "none": None}


def _text(value: Any) -> str:
    flat = isinstance(value, tuple) and len(value) > 1 and not any(isinstance(v, tuple) for v in value)
    return ",".join(map(repr, value)) if flat else repr(value)


def _literal(text: str) -> Any:
    if text.lower() in _WORDS:
        return _WORDS[text.lower()]
    try:
        return ast.literal_eval(text)
    except (ValueError, SyntaxError):
        return text


def _held(name: str, value: Any) -> Any:
    """Return a value as JSON gives it back, with tuples for lists."""
    if isinstance(value, list | tuple):
        return tuple(_held(name, one) for one in value)
    if value is not None and not isinstance(value, bool | int | float | str):
        raise ValueError(
            f"{name}: a manifest holds numbers, texts, truth values and tuples of them, got {value!r}"
        )
    return value


def _digest(what: str, file: Path) -> str:
    try:
        return hashlib.sha256(file.read_bytes()).hexdigest()
    except OSError as error:
        raise ValueError(f"{what}: cannot read {file}: {error.strerror}") from error


def _file_of(what: str, module: str) -> Path:
    """Return the source file of a module, which is also looked for in the working directory."""
    _look_in(Path.cwd())
    try:
        found = importlib.util.find_spec(module)
    except Exception as error:  # the packages around it are imported, and may raise anything
        raise ValueError(f"{what}: cannot find {module}: {said(error)}") from error
    if found is None or found.origin is None or not Path(found.origin).exists():
        missing = "there is no module" if found is None else "there is no Python file of the module"
        raise ValueError(f"{what}: {missing} {module}")
    return Path(found.origin)


def _imported(what: str, where: str) -> ModuleType:
    try:
        if not where.endswith(".py"):
            return importlib.import_module(where)
        main = sys.modules["__main__"]
        running = getattr(main, "__file__", None)  # the script itself: it is not to be run a second time
        return main if running and Path(running).absolute() == Path(where) else _loaded(Path(where))
    except Exception as error:  # the user's code may raise anything
        raise ValueError(f"{what}: importing {where} raised {said(error)}") from error


def _loaded(file: Path) -> ModuleType:
    """Return a file's module, executed once as long as its content does not change."""
    name = _LOADED + hashlib.sha256(str(file).encode() + file.read_bytes()).hexdigest()[:16]
    if name in sys.modules:
        return sys.modules[name]
    found = importlib.util.spec_from_file_location(name, file)
    assert found is not None
    assert found.loader is not None
    sys.modules[name] = module = importlib.util.module_from_spec(found)
    _look_in(file.parent)  # for what it imports that lies beside it
    try:
        found.loader.exec_module(module)
    except BaseException:
        del sys.modules[name]
        raise
    return module


def _look_in(folder: Path) -> None:
    if str(folder) not in sys.path:
        sys.path.append(str(folder))
