"""Every name of Numba that is not public is here, and nowhere else.

They are the ones that Numba's own file cache is made of, unchanged in all releases from 0.57 to 0.68. Should a later
one lack them, or use them otherwise, ``is_usable`` says so, once and aloud, and each process compiles for itself.

A specialisation that travels is the pickle of what Numba's cache would write: object code, bitcode for inlining into
later callers, types, and for each function an ``Environment`` of Python constants that the object code looks up by
the name of a symbol. Three things differ from the file cache, because here the code meets other processes' code:

- Symbols end with a number that counts up in each process. It starts at random here, so that two processes hardly
  ever give two functions one name; and an Environment carries the name of the process that made it, so that
  where they do, the second one is refused.
- An Environment is rebuilt without importing the module of its function, which may exist elsewhere only.
- Functions that call each other refer to one another through slots that are filled at run time; here also for code
  that was loaded.

A number in the code may be an address: of a C function that a module has looked up, say. Such code stays where it is.
"""

import copy
import ctypes
import functools
import hashlib
import itertools
import linecache
import pickle
import re
import secrets
import sys
import threading
import warnings
import weakref
from collections.abc import Iterable
from io import BytesIO
from pathlib import Path
from typing import Any

from ..uses import is_from_master
from .counting import when_imported

FORMAT = 1  # of an exported specialisation
_SLOT = ".numba.unresolved$"
_SYMBOL_OF_ENVIRONMENT = "_ZN08NumbaEnv"
_LARGE_NUMBER = re.compile(r"\b\d{12,15}\b")  # as large as addresses on Linux

Target = tuple[str, ...]


class Unshippable(Exception):
    """Machine code that only works in the process that made it."""


_process = secrets.token_hex(8)  # the name of this process
_makers: "weakref.WeakKeyDictionary[Any, str]" = weakref.WeakKeyDictionary()  # of Environments from elsewhere
_slots: dict[str, Any] = {}  # memory that loaded code refers to, for as long as the process lives
_warning = threading.Lock()
_warned: list[str] = []


def _spread_identities(bytecode: Any) -> None:
    bytecode.FunctionIdentity._unique_ids = itertools.count(secrets.randbits(40))


when_imported("numba.core.bytecode", _spread_identities)


def _cache_by_text(caching: Any) -> None:
    """Have the file cache know modules that came from the master by their text: no file of this host is theirs."""
    try:
        base: Any = getattr(caching, "CacheImpl", None) or caching._CacheImpl
        known = base._locator_classes
        name = "UserProvidedCacheLocator" if caching.config.CACHE_DIR else "UserWideCacheLocator"
        outside: Any = next(each for each in known if each.__name__.endswith(name))
    except (AttributeError, StopIteration):
        return  # without a cache such functions are an error of Numba's that says so

    class Locator(outside):  # type: ignore[misc]
        @classmethod
        def from_function(cls, function: Any, path: str) -> Any:
            if not is_from_master(function.__module__):
                return None
            made = cls(function, path)
            made.ensure_cache_path()
            return made

        def get_source_stamp(self) -> Any:
            return hashlib.sha256("".join(linecache.getlines(self._py_file)).encode()).hexdigest()

    base._locator_classes = [Locator, *known]


when_imported("numba.core.caching", _cache_by_text)


def is_dispatcher(value: Any) -> bool:
    """Whether this is a function that Numba compiles for the CPU."""
    registry: Any = sys.modules.get("numba.core.registry")
    return registry is not None and type(value) is registry.CPUDispatcher


def give_up(error: BaseException) -> None:
    """Say once that this Numba is not the one known here."""
    with _warning:
        if _warned:
            return
        _warned.append(f"{type(error).__name__}: {error}")
    numba: Any = sys.modules.get("numba")
    warnings.warn(
        f"farcall cannot send the machine code of Numba {numba and numba.__version__} ({_warned[0]}): every process "
        f"compiles for itself, everything else works; please report it, or use an older Numba",
        RuntimeWarning,
        stacklevel=2,
    )


def switch_off() -> None:
    """Neither send nor take machine code in this process."""
    _warned.append("switched off")


def is_usable() -> bool:
    """Whether machine code is sent and taken in this process."""
    return not _warned


@functools.cache
def current_target() -> Target:
    """Return what machine code depends on: versions, then triple, CPU and its features."""
    import llvmlite
    import numba
    from numba.core.registry import cpu_target

    versions = str(FORMAT), numba.__version__, llvmlite.__version__, sys.implementation.cache_tag or sys.version
    return (*versions, *cpu_target.target_context.codegen().magic_tuple())


def runs_here(theirs: Target) -> bool:
    """Whether code for a target runs in this process: nothing may differ but that our CPU can do more."""
    ours = current_target()
    if theirs == ours:
        return True
    needed = {each for each in theirs[-1].split(",") if each.startswith("+")}
    return theirs[:-2] == ours[:-2] and needed <= set(ours[-1].split(","))


def states_of(dispatcher: Any) -> dict[str, Any]:
    """Return what a dispatcher is made of: its function, options, and signatures if it has no others."""
    states: dict[str, Any] = dispatcher._reduce_states()
    states.pop("uuid", None)
    return states


def detach(function: Any) -> None:
    """Have Numba look up globals in a function that came by value itself, not in a module of that name.

    Object mode would miss some, and calls of itself would miss each other where there is no such module.
    """
    module = sys.modules.get(function.__module__ or "")
    if module is None or module.__dict__ is not function.__globals__:
        function.__module__ = None


def make_dispatcher(states: dict[str, Any]) -> Any:
    """Return a dispatcher made of its states, with nothing compiled yet."""
    import numba

    try:
        from numba.core.registry import CPUDispatcher

        return CPUDispatcher(states["py_func"], states["locals"], states["targetoptions"])
    except (ImportError, TypeError) as error:
        give_up(error)
        return numba.njit(states["py_func"])


def compile_declared(dispatcher: Any, states: dict[str, Any]) -> None:
    """Compile the signatures that a function was declared with, if it was, and have it take no others."""
    if states["can_compile"] or not dispatcher._can_compile:
        return
    for signature in states["sigs"]:
        dispatcher.compile(signature)
    dispatcher._can_compile = False


def cache_of(dispatcher: Any) -> Any:
    """Return what a dispatcher asks before it compiles, and tells after."""
    return dispatcher._cache


def set_cache(dispatcher: Any, cache: Any) -> None:
    """Have a dispatcher ask something else."""
    dispatcher._cache = cache


def refuse_missing_symbols(dispatcher: Any) -> None:
    """Have the compiler raise an ImportError where a C function is called that is not here: that ends a process."""
    context = dispatcher.targetctx
    declare = context.declare_external_function
    if "declare_external_function" in vars(context):
        return

    def declare_what_is_here(module: Any, descriptor: Any) -> Any:
        declared = declare(module, descriptor)
        if _missing_symbols([declared.name], context):
            load = "import ctypes; ctypes.CDLL('/path/library.so', ctypes.RTLD_GLOBAL)"
            raise ImportError(
                f"the C function {declared.name!r} is not in this process: load its library into all processes, as in "
                f'fc.everywhere("{load}")',
                name=declared.name,
            )
        return declared

    context.declare_external_function = declare_what_is_here


def types_of(signature: Any) -> tuple[Any, ...]:
    """Return the argument types of what a dispatcher passes to its cache."""
    from numba.core.sigutils import normalize_signature

    args, _ = normalize_signature(signature)
    return tuple(args)


def compiling() -> Any:
    """Return the lock that Numba holds while it compiles."""
    from numba.core.compiler_lock import global_compiler_lock

    return global_compiler_lock


def encode_specialisation(compiled: Any) -> bytes:
    """Return a compiled specialisation as bytes. Unshippable says why not. Numba's lock is held."""
    library = compiled.library
    if compiled.objectmode:
        raise Unshippable("it runs in object mode, with the globals of the process")
    if library.has_dynamic_globals:
        raise Unshippable("the address of a large array, or of a C function, is part of its code")
    if any(not lifted.can_cache for lifted in compiled.lifted):
        raise Unshippable("a part of it is compiled only when it runs")
    if _has_address(library._final_module):
        raise Unshippable("a number in its code is an address of this process")
    names = [variable.name for variable in library._final_module.global_variables]
    environments = [_environment(name) for name in names if name.startswith(_SYMBOL_OF_ENVIRONMENT)]
    slots = [name[len(_SLOT) :] for name in names if name.startswith(_SLOT)]
    library, descriptor, *rest, _ = compiled._reduce()
    descriptor = copy.copy(descriptor)
    descriptor.global_dict = None  # of ``detach``: only to compile
    parts = library, descriptor, *rest, tuple(environments)
    try:
        return _dumps((parts, slots))
    except Exception as error:
        raise Unshippable(f"its types cannot be pickled: {error}") from error


def _has_address(module: Any) -> bool:
    """Whether a number in the code is an address here. By chance one may be: that costs a compilation there."""
    numbers = {int(each) for each in _LARGE_NUMBER.findall(str(module))}
    if not numbers:
        return False
    mapped = [line.split(maxsplit=1)[0].split("-") for line in Path("/proc/self/maps").read_text().splitlines()]
    return any(int(first, 16) <= number < int(end, 16) for first, end in mapped for number in numbers)


def _environment(name: str) -> Any:
    from numba.core.environment import lookup_environment

    environment = lookup_environment(name)
    if environment is None:
        raise Unshippable("the constants of a function that it calls are gone")
    return environment


def _dumps(value: Any) -> bytes:
    from numba.core.bytecode import FunctionIdentity
    from numba.core.environment import Environment
    from numba.core.serialize import NumbaPickler

    class Pickler(NumbaPickler):
        def reducer_override(self, obj: Any) -> Any:
            if type(obj) is Environment:
                maker = _makers.get(obj, _process)
                return _rebuild_environment, (obj.globals.get("__name__"), obj.consts, obj.env_name, maker)
            if type(obj) is FunctionIdentity:
                return _rebuild_function_identity, (vars(obj)["func"],)
            return super().reducer_override(obj)

    file = BytesIO()
    Pickler(file, protocol=5).dump(value)
    return file.getvalue()


def _rebuild_environment(module: str | None, constants: list[Any], name: str, maker: str) -> Any:
    from numba.core.environment import Environment, lookup_environment

    known = lookup_environment(name)
    if known is not None:
        if _makers.get(known, _process) != maker:
            raise Unshippable("a function of another process has the name of one that is here")
        return known
    environment = Environment(_namespace(module))
    environment.consts[:] = constants
    environment.env_name = name
    Environment._memo[name] = environment
    _makers[environment] = maker
    return environment


def _rebuild_function_identity(function: Any) -> Any:
    from numba.core.bytecode import FunctionIdentity

    detach(function)
    return FunctionIdentity.from_function(function)


def _namespace(module: str | None) -> dict[str, Any]:
    """Return the globals of a module, or empty ones where it is not imported: only object mode looks at them."""
    known = sys.modules.get(module or "")
    return known.__dict__ if known is not None else {"__name__": module or "<dynamic>"}


def decode_specialisation(code: bytes, context: Any, types: tuple[Any, ...]) -> Any:
    """Return a specialisation that was compiled elsewhere. Numba's lock is held.

    Unshippable: it is not for these types, or must not be mixed with what is here.
    """
    from numba.core.compiler import CompileResult
    from numba.core.runtime import rtsys  # type: ignore[attr-defined]

    rtsys.initialize(context)  # what most code calls; the rest of a context is only needed to compile
    parts, slots = pickle.loads(code)
    if tuple(parts[3].args) != types:
        raise Unshippable(f"it is for the types {parts[3].args}")
    for symbol in slots:
        _provide_slot(symbol, context)
    for prepare in parts[7] or ():  # such as starting threads; again does nothing
        prepare()
    _check_symbols(parts[0], context)
    compiled = CompileResult._rebuild(context, *parts)
    engine = context.codegen()._engine
    for symbol in slots:
        if not engine.is_symbol_defined(symbol):
            raise Unshippable("a function that it calls, and that calls it, is not here")
        _slots[symbol].value = engine.get_function_address(symbol)
    return compiled


def _check_symbols(library: Any, context: Any) -> None:
    """See to it that everything is here which the code refers to: LLVM ends the process otherwise."""
    from llvmlite.binding import parse_bitcode

    _, _, (_, bitcode) = library
    module = parse_bitcode(bitcode)
    values = [*module.functions, *module.global_variables]
    needed = [each.name for each in values if each.is_declaration and not each.name.startswith("llvm.")]
    if _missing_symbols(needed, context):
        context.refresh()  # Numba declares some when it is about to compile, which takes a while
        missing = _missing_symbols(needed, context)
        if missing:
            raise Unshippable(f"it calls {', '.join(missing)}, which is not in this process")


def _missing_symbols(names: Iterable[str], context: Any) -> list[str]:
    from llvmlite.binding import address_of_symbol

    engine = context.codegen()._engine
    return [each for each in names if not engine.is_symbol_defined(each) and address_of_symbol(each) is None]


def _provide_slot(symbol: str, context: Any) -> None:
    """Give loaded code the memory for the address of a function that it calls and that calls it."""
    import llvmlite.binding
    from numba.core.runtime import rtsys  # type: ignore[attr-defined]

    if symbol not in _slots:
        unresolved = rtsys.library.get_pointer_to_function("nrt_unresolved_abort")
        slot = _slots[symbol] = ctypes.c_void_p(unresolved)
        llvmlite.binding.add_symbol(_SLOT + symbol, ctypes.addressof(slot))
        context.codegen()._engine._defined_symbols.add(_SLOT + symbol)  # code that is compiled here uses it too
