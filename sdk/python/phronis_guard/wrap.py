"""Puts a guard around functions, methods, generators and tools of agent frameworks.

Frameworks are known by the shape of their tools alone: an object with `invoke`, `run` and the like.
Their methods call each other, often in other threads; a context variable tells the outermost, which alone is counted.
"""

from __future__ import annotations

import contextvars
import copy
import functools
import inspect
from typing import TYPE_CHECKING, Any, Callable, Dict, NamedTuple, Optional, Tuple, Union

from .calls import Call, OnHalt

if TYPE_CHECKING:
    from .guard import Guard

Agent = Union[str, Callable[..., str]]
Usage = Callable[[Any], Any]

#: What frameworks call on a tool.
_METHODS = ("invoke", "ainvoke", "run", "arun", "_run", "_arun", "call", "acall", "forward")

#: The guarded tools that this context is inside of, by the id of the guarded copy, and the agents that called them.
_inside: "contextvars.ContextVar[Dict[int, str]]" = contextvars.ContextVar("phronis_guard_inside", default={})


class Options(NamedTuple):
    """What a decorator was given."""

    guard: "Guard"
    agent: Optional[Agent]
    tool: Optional[str]
    usage: Optional[Usage]
    on_halt: Optional[OnHalt]

    def call(self, name: str, args: Tuple[Any, ...], kwargs: Dict[str, Any]) -> Call:
        """The call that these arguments make."""
        agent: Optional[Agent] = self.agent if self.agent is not None else self.guard.agent
        if callable(agent):
            agent = agent(*args, **kwargs)
        return self.guard.call(agent, tool=self.tool or name, on_halt=self.on_halt)

    def note_usage(self, call: Call, result: Any) -> None:
        """Reads the tokens of a result. What cannot be read is not worth an error."""
        try:
            used = self.usage(result) if self.usage is not None else _usage_of(result)
            if isinstance(used, int) and not isinstance(used, bool) and used >= 0:
                call.usage(used)
            elif used is not None:
                given, taken, total = (_count(used, names) for names in _TOKENS)
                if given is not None or taken is not None or total is not None:
                    call.usage(total, input=given, output=taken)
        except Exception:
            return


def wrap(target: Any, options: Options) -> Any:
    """The guarded form of a function, method, generator or tool."""
    if isinstance(target, (staticmethod, classmethod)):
        return type(target)(wrap(target.__func__, options))
    if isinstance(target, type):
        raise TypeError(f"{target.__name__} is a class: guard its methods, or a tool made of it")
    if not inspect.isroutine(target) and not isinstance(target, functools.partial):
        if any(callable(getattr(target, name, None)) for name in _METHODS):
            return _wrap_tool(target, options)
    if not callable(target):
        raise TypeError(f"{target!r} is neither a function nor a tool; the agent is given as agent=…")
    return _wrap_function(target, options, _name(target))


def _wrap_function(
    function: Callable[..., Any], options: Options, name: str, key: Optional[int] = None
) -> Callable[..., Any]:
    """`key` names the tool whose method this is: inside of another of its methods it is checked, but no call of its own."""
    called = getattr(function, "__call__", None)
    if inspect.iscoroutinefunction(function) or inspect.iscoroutinefunction(called):

        async def guarded_async(*args: Any, **kwargs: Any) -> Any:
            if _is_inner(options, key):
                return await function(*args, **kwargs)
            async with options.call(name, args, kwargs) as call:
                with _Inside(key, call.agent):
                    result = await function(*args, **kwargs)
                options.note_usage(call, result)
                return result

        return functools.update_wrapper(guarded_async, function)

    if inspect.isasyncgenfunction(function):

        async def guarded_items(*args: Any, **kwargs: Any) -> Any:
            await options.guard.settled()
            # Not `async with`: between two items the task does the caller's work, which is not ours to cancel.
            with options.call(name, args, kwargs) as call:
                items = function(*args, **kwargs)
                try:
                    item = await items.__anext__()
                    while True:
                        thrown: Optional[BaseException] = None
                        try:
                            sent = yield item
                        except GeneratorExit:
                            raise
                        except BaseException as error:
                            thrown = error
                        options.guard.check(call.agent)
                        item = await (items.asend(sent) if thrown is None else items.athrow(thrown))
                except StopAsyncIteration:
                    return
                finally:
                    await items.aclose()

        return functools.update_wrapper(guarded_items, function)

    if inspect.isgeneratorfunction(function):

        def guarded_generator(*args: Any, **kwargs: Any) -> Any:
            with options.call(name, args, kwargs) as call:
                items = function(*args, **kwargs)
                # As `yield from`, with a look at the halt before each further piece of work.
                try:
                    item = next(items)
                    while True:
                        thrown: Optional[BaseException] = None
                        try:
                            sent = yield item
                        except GeneratorExit:
                            raise
                        except BaseException as error:
                            thrown = error
                        options.guard.check(call.agent)
                        item = items.send(sent) if thrown is None else items.throw(thrown)
                except StopIteration as end:
                    return end.value
                finally:
                    items.close()

        return functools.update_wrapper(guarded_generator, function)

    def guarded(*args: Any, **kwargs: Any) -> Any:
        if _is_inner(options, key):
            return function(*args, **kwargs)
        with options.call(name, args, kwargs) as call:
            with _Inside(key, call.agent):
                result = function(*args, **kwargs)
            options.note_usage(call, result)
            return result

    return functools.update_wrapper(guarded, function)


def _wrap_tool(tool: Any, options: Options) -> Any:
    """A copy of the tool whose methods are guarded; the tool itself stays as it is."""
    name = getattr(tool, "name", None)
    options = options._replace(tool=options.tool or (name if isinstance(name, str) and name else type(tool).__name__))
    own = copy.copy(tool)
    guarded: Dict[str, Callable[..., Any]] = {}
    for method in _METHODS:
        function = getattr(own, method, None)
        if callable(function):
            guarded[method] = _wrap_function(function, options, method, id(own))
    try:
        for method, function in guarded.items():
            # Around a framework's own `__setattr__`, which may refuse names that are not fields.
            object.__setattr__(own, method, function)
    except (AttributeError, TypeError):
        return _Proxy(own, guarded)
    return own


def _is_inner(options: Options, key: Optional[int]) -> bool:
    """Whether another method of the same tool is already guarded around this one. Its agent is asked once more."""
    agent = _inside.get().get(key) if key is not None else None
    if agent is None:
        return False
    options.guard.check(agent)
    return True


class _Inside:
    """While a method of a tool runs, its other methods know."""

    __slots__ = ("_key", "_agent", "_token")

    def __init__(self, key: Optional[int], agent: str) -> None:
        self._key, self._agent = key, agent

    def __enter__(self) -> None:
        if self._key is not None:
            self._token = _inside.set({**_inside.get(), self._key: self._agent})

    def __exit__(self, *_: Any) -> None:
        if self._key is not None:
            _inside.reset(self._token)


class _Proxy:
    """Stands before a tool that takes no attributes."""

    def __init__(self, tool: Any, guarded: Dict[str, Callable[..., Any]]) -> None:
        self._phronis_tool = tool
        self.__dict__.update(guarded)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._phronis_tool, name)


def _name(function: Any) -> str:
    if isinstance(function, functools.partial):
        return _name(function.func)
    return str(getattr(function, "__name__", None) or type(function).__name__)


#: Names under which frameworks keep tokens: those that went in, came out, and all.
_TOKENS = (
    ("input_tokens", "prompt_tokens", "input"),
    ("output_tokens", "completion_tokens", "output"),
    ("total_tokens", "tokens", "total"),
)


def _usage_of(result: Any) -> Any:
    for name in ("usage_metadata", "usage"):
        used = result.get(name) if isinstance(result, dict) else getattr(result, name, None)
        if used is not None and not callable(used):
            return used
    return None


def _count(used: Any, names: Tuple[str, ...]) -> Optional[int]:
    for name in names:
        value = used.get(name) if isinstance(used, dict) else getattr(used, name, None)
        if isinstance(value, int) and not isinstance(value, bool) and value >= 0:
            return value
    return None
