"""Options that several commands share, written once as the fields of a dataclass."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from dataclasses import MISSING, fields
from functools import wraps
from typing import Any, get_type_hints


def sharing(options: type[Any]) -> Callable[[Callable[..., None]], Callable[..., None]]:
    """For a command with a parameter `options`: on the command line the fields of that dataclass stand in its place.

    Those that it inherits come last.
    """
    hints = get_type_hints(options, include_extras=True)
    ordered = sorted(fields(options), key=lambda field: field.name not in options.__annotations__)
    names = [field.name for field in ordered]
    shared = [
        inspect.Parameter(
            field.name,
            inspect.Parameter.KEYWORD_ONLY,
            default=inspect.Parameter.empty if field.default is MISSING else field.default,
            annotation=hints[field.name],
        )
        for field in ordered
    ]

    def decorate(command: Callable[..., None]) -> Callable[..., None]:
        @wraps(command)
        def run(**given: Any) -> None:
            command(
                **{k: v for k, v in given.items() if k not in names}, options=options(**{k: given[k] for k in names})
            )

        signature, own = inspect.signature(command), get_type_hints(command, include_extras=True)
        parameters: list[inspect.Parameter] = []
        for name, parameter in signature.parameters.items():
            parameters += shared if name == "options" else [parameter.replace(annotation=own[name])]
        run.__signature__ = signature.replace(parameters=parameters, return_annotation=None)  # type: ignore[attr-defined]
        run.__annotations__ = {parameter.name: parameter.annotation for parameter in parameters}
        del run.__wrapped__
        return run

    return decorate
