"""Methods of a strategy that look like hooks and are none, and hooks with other arguments.

A hook whose name is misspelled is never called: one would train plain fine-tuning under the
strategy's name.
"""

from __future__ import annotations

import inspect
from collections.abc import Iterable, Iterator
from difflib import get_close_matches
from typing import Any

_MEANING = {
    "after": "end",
    "batch": "step",
    "before": "begin",
    "began": "begin",
    "begins": "begin",
    "beginning": "begin",
    "done": "end",
    "ended": "end",
    "ending": "end",
    "ends": "end",
    "epoch": "experience",
    "exp": "experience",
    "finish": "end",
    "finished": "end",
    "finishes": "end",
    "grad": "gradients",
    "gradient": "gradients",
    "grads": "gradients",
    "iteration": "step",
    "loss": "penalty",
    "parameter": "parameters",
    "params": "parameters",
    "post": "end",
    "pre": "begin",
    "regularisation": "penalty",
    "regularization": "penalty",
    "start": "begin",
    "started": "begin",
    "starting": "begin",
    "starts": "begin",
    "stop": "end",
    "stopped": "end",
    "task": "experience",
    "update": "updated",
    "weights": "parameters",
}
"""Words of other libraries' hooks, as ours have them."""

_NO_MEANING = {"on", "the", "hook", "train", "training", "are", "is", "of", "a"}

_OTHER_NAMES = {
    frozenset({"begin", "experience"}): "begin_experience",
    frozenset({"begin"}): "begin_experience",
    frozenset({"end", "experience"}): "end_experience",
    frozenset({"end"}): "finalize_model",
    frozenset({"begin", "step"}): "gradients_ready",
    frozenset({"begin", "updated"}): "gradients_ready",
    frozenset({"backward"}): "gradients_ready",
    frozenset({"end", "backward"}): "gradients_ready",
    frozenset({"gradients", "ready"}): "gradients_ready",
    frozenset({"end", "step"}): "parameters_updated",
    frozenset({"end", "updated"}): "parameters_updated",
    frozenset({"end", "optimizer", "step"}): "parameters_updated",
    frozenset({"parameters", "updated"}): "parameters_updated",
    frozenset({"compute", "penalty"}): "penalty",
}
"""What a hook is called elsewhere, as the words of a name."""

_CLOSE = 0.85
"""How alike a misspelled name and a hook's are, at least."""


def hook_problem(cls: type, base: type) -> str | None:
    """Why methods of a strategy would not be called as its author means; ``None`` if they will.

    Args:
        cls: The strategy.
        base: The class that declares the hooks.

    Returns:
        What follows the strategy's name in a message.
    """
    hooks = {name: member for name, member in vars(base).items() if _is_method(name, member)}
    for name, member, is_known in _own_methods(cls, base):
        if name in hooks:
            arguments = _arguments_of(hooks[name])
            if not _accepts(member, len(arguments)):
                return (
                    f"has a method {name} that cannot be called with ({', '.join(arguments)}): "
                    f"{name} is a hook, see epi_bench.Strategy; rename the method if it is your own"
                )
        elif not is_known and (meant := _meant_hook(name, hooks)):
            return (
                f"has a method {name}, which is no hook and is never called: did you mean "
                f"{meant}? If it is your own, call it _{name}"
            )
    return None


def _own_methods(cls: type, base: type) -> Iterator[tuple[str, Any, bool]]:
    """Public methods that a class adds to the base or overrides.

    With each, whether one of the package's own base classes has a method of that name and calls it.
    """
    owners = [owner for owner in cls.__mro__ if owner not in (base, object)]
    known = {
        name
        for owner in owners
        if owner.__module__.startswith(base.__module__.rpartition(".")[0] + ".")
        for name in vars(owner)
    }
    seen = set()
    for owner in owners:
        for name, member in vars(owner).items():
            if name not in seen and _is_method(name, member):
                seen.add(name)
                yield name, member, name in known


def _is_method(name: str, member: object) -> bool:
    plain = inspect.isfunction(member) or isinstance(member, staticmethod | classmethod)
    return plain and not name.startswith("_")


def _meant_hook(name: str, hooks: Iterable[str]) -> str | None:
    close = get_close_matches(name, list(hooks), n=1, cutoff=_CLOSE)
    if close:
        return close[0]
    if "_" not in name:
        return None
    words = [word for word in name.lower().split("_") if word and word not in _NO_MEANING]
    return _OTHER_NAMES.get(frozenset(_MEANING.get(word, word) for word in words))


def _arguments_of(hook: Any) -> list[str]:
    return list(inspect.signature(hook).parameters)[1:]


def _accepts(member: Any, count: int) -> bool:
    """Whether a method can be called with so many arguments beside its object."""
    if not inspect.isfunction(member):
        return True  # what a class or static method takes is its author's affair
    try:
        inspect.signature(member).bind(*range(count + 1))
    except TypeError:
        return False
    return True
