"""Objects from configs, with the user's errors as they were raised; and what a config holds, key by key."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from hydra.errors import InstantiationException
from hydra.utils import instantiate

from dehaze_zoo.errors import UsageError


def made(config: Any, **objects: Any) -> Any:
    """Hydra's instantiate of ``config``, whose class is called with ``objects`` besides (as they are, and winning).

    Raises UsageError where the class raised it, and for an argument that it does not have or a class that there is not.
    """
    try:
        if config.get("_partial_"):
            return instantiate(config)
        return instantiate(config, _partial_=True)(**objects)  # objects handed through instantiate would become configs
    except UsageError:
        raise
    except (InstantiationException, TypeError) as error:
        cause = error.__cause__ if isinstance(error, InstantiationException) else error
        if isinstance(cause, UsageError):
            raise cause from None
        if cause is None or isinstance(cause, (TypeError, ImportError)):
            lines = [line for line in str(error).splitlines() if line.strip()]
            raise UsageError("\n".join([f"{config.get('_target_')} cannot be built from this config:", *lines[:3]])) from error
        raise


def leaves(node: Any, prefix: str = "") -> Iterator[tuple[str, Any]]:
    """(dotted key, value) of everything in a plain config that is no dict."""
    if isinstance(node, dict):
        for key, value in node.items():
            yield from leaves(value, f"{prefix}.{key}" if prefix else str(key))
    else:
        yield prefix, node
